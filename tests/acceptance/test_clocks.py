"""Only PostgreSQL's clock counts: what a worker's host takes for the time makes no difference."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F

from cq import schedules
from cq.models import RepeatingTask, Task, Worker
from tests import fault_tasks
from tests.acceptance.test_retention import make_workflows
from tests.processes import ROOT, RunningWorker, Workers, statuses, until

pytestmark = [pytest.mark.chaos, pytest.mark.django_db(transaction=True)]

HOUR = timedelta(hours=1)
# What Python takes for the time; the monotonic clock goes on as it does.
SHIFTED = """
import datetime, time
shift = {seconds}
real_time, real_ns = time.time, time.time_ns
time.time = lambda: real_time() + shift
time.time_ns = lambda: real_ns() + shift * 10**9
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=shift)
    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)
datetime.datetime = Shifted
"""


def worker_elsewhen(run_worker: Workers, folder: Path, seconds: int) -> RunningWorker:
    """Start a worker on a host whose clock is so far ahead."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFTED.format(seconds=seconds))
    return run_worker(cq={"LEASE": 1.5}, PYTHONPATH=f"{folder}:{ROOT}")


def test_workers_whose_clocks_are_a_day_wrong_do_nothing_early_or_late_and_declare_nobody_dead(run_worker, tmp_path):
    make_workflows(3)
    Task.objects.update(name="fault.dry")
    over = list(Task.objects.values_list("pk", flat=True))
    kept = Task.objects.create(name="fault.dry", args=(), kwargs={}, status="SUCCESS", finished_at=schedules.clock())
    Task.objects.filter(pk=kept.pk).update(result_ttl=3600, prune_after=F("finished_at") + HOUR)
    fault_tasks.leaf.using(run_after=3600).delay()
    unknown = fault_tasks.leaf.using(expires=3600).delay()
    Task.objects.filter(pk=unknown.pk).update(name="nobody.knows")
    fault_tasks.naps.delay()
    RepeatingTask.objects.create(name="later", task="fault.dry", every=HOUR, starts_at=schedules.clock() + HOUR)
    workers = [worker_elsewhen(run_worker, tmp_path / f"{days}", days * 86_400).ready() for days in (1, -1)]
    until(lambda: Task.objects.filter(name="fault.naps", status="SUSPENDED").exists(), what=run_worker.log)
    entered = set(Worker.objects.values_list("pk", flat=True))
    last = {pk: Worker.objects.get(pk=pk).lease_until for pk in entered}

    soon = [fault_tasks.leaf.using(run_after=1).delay() for _ in range(5)]
    soon += [fault_tasks.flaky.delay(), fault_tasks.half_a_second.using(timeout=5).delay(0.6)]
    until(lambda: not Task.objects.filter(pk__in=over).exists(), what=run_worker.log)
    until(lambda: all(Task.objects.get(pk=task.pk).is_done for task in soon), what=run_worker.log)
    # Two leases later, by the clock that counts.
    until(lambda: min(Worker.objects.values_list("lease_until", flat=True)) > max(last.values()) + timedelta(seconds=3))

    for task in soon:
        task.refresh_from_db()
        assert task.status == "SUCCESS"
        assert timedelta(0) <= task.started_at - task.run_after < timedelta(seconds=1)
    assert statuses(Task.objects.exclude(pk__in=[task.pk for task in soon])) == {
        ("fault.dry", "SUCCESS"): 1,
        ("fault.leaf", "SCHEDULED"): 1,
        ("nobody.knows", "QUEUED"): 1,
        ("fault.naps", "SUSPENDED"): 1,
    }
    assert set(Worker.objects.values_list("pk", flat=True)) == entered
    for worker in workers:
        worker.stop_in_order()
        assert "starts anew" not in worker.log
        assert "rescued" not in worker.log
