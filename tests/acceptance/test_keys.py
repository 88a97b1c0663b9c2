"""Limits, rates and fairness with real workers, some of which die: counted from what the bodies and the rows say."""

import os
import random
import signal
import time
from datetime import timedelta
from statistics import median

import pytest
from django.db import connection

from cq.models import Key, KeyRequest, Task
from tests import fault_tasks
from tests.processes import all_done, check_invariants, query, signal_all, until


def overlaps(folder):
    """Return the most bodies that were inside at once, by the marks that each left outside the database."""
    events = []
    for mark in folder.glob("*.begun"):
        ended = mark.with_suffix(".ended")
        begun = float(mark.read_text())
        # One that was killed has left none: it may have lasted until its process's end, which the test notes.
        events += [(begun, 1), (float(ended.read_text()) if ended.exists() else float("inf"), -1)]
    inside = most = 0
    for _, change in sorted(events):
        inside += change
        most = max(most, inside)
    return most


def is_settled():
    return not KeyRequest.objects.exists() and not Key.objects.exists()


def test_a_limit_holds_over_all_workers_and_functions(run_worker, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    workers = [run_worker("--processes", "2", "--threads", "4") for _ in range(2)]
    for worker in workers:
        worker.ready(2)

    fault_tasks.is_inside.delay_many([(str(folder), 0.01)] * 60, key="k", limit=3)
    fault_tasks.is_inside_too.delay_many([(str(folder), 0.01)] * 60, key="k", limit=3)
    all_done(30, but=run_worker.log)

    assert len(list(folder.glob("*.ended"))) == 120
    assert 2 <= overlaps(folder) <= 3
    until(is_settled, 5, what="no key is left")
    for worker in workers:
        worker.stop_in_order()
    check_invariants()


@pytest.mark.chaos
def test_a_limit_holds_while_processes_are_killed_and_tasks_revoked(run_worker, tmp_path):
    """No two bodies of a key with limit 1 at once, also not a dead one's and its next attempt."""
    folder = tmp_path / "inside"
    folder.mkdir()
    workers = [run_worker("--processes", "2", "--threads", "2", cq={"LEASE": 3, "MAX_CRASHES": 1000}) for _ in range(2)]
    for worker in workers:
        worker.ready(2)
    made = fault_tasks.is_inside.delay_many([(str(folder), 0.02)] * 60, key="k", limit=1)
    random.seed(5)

    for number in range(6):
        until(
            lambda number=number: Task.objects.filter(status="SUCCESS").count() >= 8 * number, 30, what=run_worker.log
        )
        children = random.choice(workers).children()
        if children:
            os.kill(random.choice(children), signal.SIGKILL)
        random.choice(made[30:]).revoke()
    all_done(40, but=run_worker.log)

    assert Task.objects.filter(status="SUCCESS").count() >= 54
    assert overlapping_attempts() == []
    until(is_settled, 5, what="no key is left")
    for worker in workers:
        worker.stop_in_order()


def overlapping_attempts():
    return query("""
        SELECT a.task_id, a.number, b.task_id, b.number FROM cq_attempt a JOIN cq_attempt b
            ON (a.task_id, a.number) < (b.task_id, b.number)
           AND tstzrange(a.started_at, a.ended_at) && tstzrange(b.started_at, b.ended_at)
    """)


def test_a_rate_holds_in_any_window_over_several_workers(run_worker):
    workers = [run_worker("--processes", "2", "--threads", "4") for _ in range(2)]
    for worker in workers:
        worker.ready(2)

    fault_tasks.dry.delay_many([()] * 22, rate="6/s")
    all_done(15, but=run_worker.log)

    starts = sorted(started for (started,) in query("SELECT started_at FROM cq_attempt"))
    assert len(starts) == 22
    assert all(late - early > timedelta(seconds=1) for early, late in zip(starts, starts[6:], strict=False))
    assert starts[-1] - starts[0] < timedelta(seconds=5.5), "and it is made use of"
    for worker in workers:
        worker.stop_in_order()


def test_a_worker_that_drains_does_not_leave_what_waits_for_a_place_there(run_worker):
    fault_tasks.dry.delay_many([()] * 30, key="k", limit=1)
    worker = run_worker("--drain")

    assert worker.exit(20) == 0
    assert Task.objects.filter(status="SUCCESS").count() == 30


@pytest.mark.slow
def test_the_backlog_of_one_key_does_not_delay_another(run_worker):
    """While A has 20,000 tasks waiting, B's single ones are delayed by at most twice the time that they take to start without."""
    worker = run_worker("--processes", "2", "--threads", "4").ready(2)
    singles()
    alone = singles()
    fault_tasks.leaf.delay_many([(0.002,)] * int(os.environ.get("TEST_BACKLOG", "20000")), key="A")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task")
    until(lambda: Task.objects.filter(key="A", status="SUCCESS").exists())

    beside = singles()

    left = Task.objects.filter(key="A", status="QUEUED").count()
    print(f"alone {alone * 1000:.1f} ms, beside {beside * 1000:.1f} ms, {left} of A still waiting")
    assert left > 1000, "A's backlog was there all the while"
    assert beside - alone <= 2 * alone
    signal_all([worker.pid], signal.SIGTERM)
    worker.exit()


def singles(number=40):
    waits = []
    for _ in range(number):
        task = fault_tasks.dry.delay_args((), key="B")
        until(lambda task=task: Task.objects.filter(pk=task.pk, status="SUCCESS").exists(), 10)
        task.refresh_from_db()
        waits.append((task.started_at - task.created_at).total_seconds())
        time.sleep(random.uniform(0.005, 0.02))
    return median(waits)
