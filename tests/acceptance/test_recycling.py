"""Processes that have done enough are replaced in order, and ends that do not look like a death are one."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from django.db.models import Sum

from cq.models import Process, Task
from tests import fault_tasks
from tests.processes import all_done, check_invariants, until

pytestmark = pytest.mark.chaos
MEMORY = Path("/sys/fs/cgroup")


def outcomes(task):
    return list(task.attempts.values_list("outcome", flat=True))


def test_a_process_is_replaced_after_so_many_tasks_and_none_is_lost_or_charged(run_worker):
    worker = run_worker("--max-tasks", "10", "--threads", "4", cq={"LEASE": 60, "POLL_INTERVAL": 20})
    tasks = [*fault_tasks.process_id.delay_many([(0.001,)] * 95), fault_tasks.sleeps_coroutine.delay(0.1)]
    all_done(but=run_worker.log)

    pids = list(Task.objects.filter(name="fault.process_id").values_list("result", flat=True))
    assert len(pids) == 95
    assert max(pids.count(pid) for pid in pids) <= 10
    assert len(set(pids)) >= 10
    assert Task.objects.aggregate(n=Sum("crashes"), attempts=Sum("attempt")) == {"n": 0, "attempts": len(tasks)}
    worker.stop_in_order()
    assert "died" not in worker.log
    check_invariants()


def test_a_long_task_does_not_keep_another_process_from_beginning(run_worker, tmp_path):
    worker = run_worker("--max-tasks", "3", "--threads", "2", cq={"LEASE": 60, "POLL_INTERVAL": 20}).ready()
    (child,) = worker.children()
    long = fault_tasks.once_until.delay(str(tmp_path / "end"))
    run_worker.await_body(long)

    others = fault_tasks.process_id.delay_many([()] * 6)
    until(lambda: all(Task.objects.get(pk=task.pk).is_done for task in others), what=run_worker.log)
    assert child in worker.children()
    (tmp_path / "end").touch()
    all_done(but=run_worker.log)

    until(lambda: child not in worker.descendants())
    assert outcomes(long) == ["success"]
    worker.stop_in_order()
    check_invariants()


def test_another_process_begins_as_soon_as_one_has_begun_its_last_task(run_worker, tmp_path):
    worker = run_worker("--max-tasks", "1", "--threads", "2", cq={"LEASE": 60, "POLL_INTERVAL": 1}).ready()
    last = fault_tasks.once_until.delay(str(tmp_path / "end"))
    run_worker.await_body(last)

    other = fault_tasks.process_id.delay()
    until(lambda: Task.objects.get(pk=other.pk).is_done, what=run_worker.log)
    last.refresh_from_db()
    assert last.status == "RUNNING"
    (tmp_path / "end").touch()
    all_done(but=run_worker.log)

    worker.stop_in_order()
    check_invariants()


def test_a_process_that_has_grown_is_replaced(run_worker):
    worker = run_worker("--max-rss", "200", "--threads", "1", cq={"LEASE": 60})
    first = fault_tasks.grows.delay(200)
    pid = first.get(20)
    until(lambda: pid not in worker.descendants(), what=run_worker.log)

    other = fault_tasks.process_id.delay()
    assert other.get(20) != pid
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    worker.stop_in_order()
    check_invariants()


@pytest.mark.parametrize("how", ["segfault", "exit", "abort"])
def test_an_end_of_its_process_is_a_crash_however_it_looks(run_worker, tmp_path, how):
    worker = run_worker("--threads", "2", cq={"LEASE": 60}).ready()
    neighbour = fault_tasks.once_until.delay(str(tmp_path / "never"))
    run_worker.await_body(neighbour)

    task = fault_tasks.ends_process.delay(how)
    all_done(but=run_worker.log)

    assert outcomes(task) == outcomes(neighbour) == ["crashed", "success"]
    assert set(Task.objects.values_list("status", "crashes")) == {("SUCCESS", 1)}
    worker.stop_in_order()
    check_invariants()


def test_what_a_body_leaves_changed_in_its_process_hurts_no_other(run_worker):
    worker = run_worker("--threads", "1", cq={"LEASE": 60}).ready()
    for how in fault_tasks.LEAVINGS:
        fault_tasks.leaves_changed.delay(how)
        fault_tasks.leaf.delay()
    all_done(but=run_worker.log)

    assert set(Task.objects.values_list("name", "status", "attempt")) == {
        ("fault.leaves_changed", "SUCCESS", 1),
        ("fault.leaf", "SUCCESS", 1),
    }
    assert Process.objects.count() == 1
    until(lambda: len(worker.descendants()) == 2, what="the program that a body has started has ended")
    worker.stop_in_order()
    check_invariants()


# `on_lost="fail"`.


def test_what_may_start_only_once_is_lost_with_its_process_and_its_neighbour_is_not(run_worker, tmp_path):
    worker = run_worker("--threads", "3", cq={"LEASE": 60}).ready()
    neighbour = fault_tasks.once_until.delay(str(tmp_path / "never"))
    once = fault_tasks.once_until.using(on_lost="fail").delay(str(tmp_path / "never"))
    run_worker.await_body(neighbour, once)

    dies = fault_tasks.dies.using(on_lost="fail").delay()
    all_done(but=run_worker.log)

    for task in (once, dies):
        task.refresh_from_db()
        assert (task.status, task.attempt, outcomes(task)) == ("LOST", 1, ["crashed"])
        assert 'on_lost="fail"' in task.reason
    neighbour.refresh_from_db()
    assert (neighbour.status, outcomes(neighbour)) == ("SUCCESS", ["crashed", "success"])
    worker.stop_in_order()
    check_invariants()


def test_what_may_start_only_once_is_lost_at_the_end_of_the_grace(run_worker):
    worker = run_worker("--grace", "0.5", cq={"LEASE": 60}).ready()
    bodies = (fault_tasks.sleeps, fault_tasks.sleeps_loose, fault_tasks.sleeps_coroutine)
    tasks = [body.using(on_lost="fail").delay(1000) for body in bodies]
    run_worker.await_body(*tasks)

    worker.stop_in_order()

    for task in tasks:
        task.refresh_from_db()
        assert (task.status, task.crashes, outcomes(task)) == ("LOST", 0, ["interrupted"])
        assert task.reason == 'Its worker was stopped while running it, and on_lost="fail" allows no other start.'
    check_invariants()


def test_retries_after_exceptions_and_timeouts_still_apply_to_it(run_worker):
    worker = run_worker("--threads", "1", cq={"LEASE": 60}).ready()
    flaky = fault_tasks.flaky.using(on_lost="fail").delay()
    late = fault_tasks.once_until.using(on_lost="fail", timeout=0.3, retries=1, backoff=0).delay("/nonexistent")
    all_done(but=run_worker.log)

    assert outcomes(flaky) == ["error", "success"]
    assert outcomes(late) == ["timeout", "success"]
    worker.stop_in_order()
    check_invariants()


def test_it_waits_in_no_process_for_a_free_thread(run_worker):
    """Many short ones, which are else claimed far ahead: each starts once, and a kill loses those that had started at most."""
    worker = run_worker("--threads", "2", "--processes", "2", cq={"LEASE": 60}).ready(2)
    for _ in range(40):
        fault_tasks.leaf.delay()
    tasks = fault_tasks.leaf.using(on_lost="fail").delay_many([(0.002,)] * 150)
    fault_tasks.dies.using(on_lost="fail", priority=-1).delay()
    all_done(but=run_worker.log)

    lost = Task.objects.filter(pk__in=[task.pk for task in tasks]).exclude(status="SUCCESS")
    assert lost.count() <= 1, "beside the one that kills its process there is one thread"
    assert Task.objects.filter(pk__in=[task.pk for task in tasks], attempt=1).count() == len(tasks)
    worker.stop_in_order()
    check_invariants()


def make_small_memory() -> Path | None:
    """Make a folder of the kernel's in which processes have 160 MB, where this is allowed; those that take more are killed."""
    for parent, limit in ((MEMORY / "memory", "memory.limit_in_bytes"), (MEMORY, "memory.max")):
        group = parent / f"cq-test-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                (group / limit).write_text(str(160 * 1024 * 1024))
                return group
            group.rmdir()
    return None


@pytest.fixture
def small_memory():
    group = make_small_memory()
    if group is None:
        pytest.skip("needs the right to make a memory cgroup")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text().strip())
    group.rmdir()


def kernels_view(group: Path) -> str:
    """Say what the kernel knows of the processes in this folder, and what it has done about their memory."""
    files = [
        *group.glob("memory.[ueomf]*"),
        *(Path("/proc", pid) / "stat" for pid in (group / "cgroup.procs").read_text().split()),
    ]
    told = []
    for file in files:
        with suppress(OSError):
            told.append(f"{file.name}: {' '.join(file.read_text().split())}")
    return "\n".join(told)


def test_the_kernel_takes_any_process_before_the_supervisor_when_memory_runs_out(run_worker):
    worker = run_worker("--processes", "2").ready(2)

    own, *others = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (worker.pid, *worker.descendants())]
    worker.stop_in_order()

    assert others == [min(1000, own + 100)] * 3


def test_a_process_that_runs_out_of_memory_costs_only_the_task_that_took_it(run_worker, small_memory):
    worker = run_worker("--threads", "1", cq={"LEASE": 60, "MAX_CRASHES": 2})
    (small_memory / "cgroup.procs").write_text(str(worker.pid))
    worker.ready()
    greedy = fault_tasks.grows.delay(1000)
    others = [fault_tasks.leaf.delay(0.01) for _ in range(20)]
    all_done(but=lambda: f"{run_worker.log()}\n{kernels_view(small_memory)}")

    greedy.refresh_from_db()
    assert (greedy.status, outcomes(greedy)) == ("LOST", ["crashed", "crashed"])
    assert greedy.reason == "Its worker process died 2 times while running it."
    assert {outcomes(task)[-1] for task in others} == {"success"}
    worker.stop_in_order()
    check_invariants()
