"""A timeout ends every body, in real workers: those that can be interrupted, those that cannot, and what runs beside them."""

import os
import signal

import pytest
from django.db.models import Count, Sum

from cq.models import Process, Task
from cq.models.key import Lingering
from tests import fault_tasks
from tests.models import Effect
from tests.processes import all_done, check_invariants, query, until

pytestmark = pytest.mark.chaos

TIMEOUT = 0.5


def with_timeout(function, *args, **options):
    """Enqueue a call that may last for half a second."""
    return function.using(timeout=TIMEOUT, **options).delay(*args)


def outcomes(task):
    return list(task.attempts.values_list("outcome", flat=True))


def nothing_lingers():
    until(lambda: not Lingering.objects.exists(), what=lambda: list(Lingering.objects.values()))


def test_what_can_be_interrupted_ends_at_its_timeout_and_its_process_goes_on(run_worker, tmp_path):
    worker = run_worker("default", "--threads", "8", cq={"LEASE": 30}).ready()
    (child,) = worker.children()
    other = fault_tasks.process_id.using(queue="nobody").delay()
    neighbour = fault_tasks.once_until.delay(str(tmp_path / "end"))
    coroutine = fault_tasks.sleeps_coroutine.delay(2)
    tasks = [
        with_timeout(fault_tasks.loops),
        with_timeout(fault_tasks.loops_loose),
        with_timeout(fault_tasks.swallows_once),
        with_timeout(fault_tasks.waits_for, str(other.id)),
        with_timeout(fault_tasks.queries, 1000),
        with_timeout(fault_tasks.sleeps_coroutine, 1000),
    ]
    run_worker.await_body(neighbour, coroutine, *tasks)

    until(lambda: all(Task.objects.get(pk=task.pk).is_done for task in tasks), what=run_worker.log)
    (tmp_path / "end").touch()
    until(lambda: Task.objects.get(pk=coroutine.pk).is_done)
    other.revoke()
    all_done(but=run_worker.log)

    assert worker.children() == [child]
    for task in tasks:
        task.refresh_from_db()
        assert (task.status, task.exception, outcomes(task)) == ("FAILURE", "cq.exceptions.TaskTimeout", ["timeout"])
        assert task.error == "The body ran longer than its timeout of 0.5 s."
        assert TIMEOUT <= (task.finished_at - task.started_at).total_seconds() < TIMEOUT + 2
    assert "in loops\n" in Task.objects.get(pk=tasks[0].pk).traceback
    for task in (neighbour, coroutine):
        task.refresh_from_db()
        assert (task.status, task.attempt) == ("SUCCESS", 1)
    assert query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    assert not Lingering.objects.exists()
    worker.stop_in_order()
    check_invariants()


@pytest.mark.parametrize(
    "body", [fault_tasks.keeps_the_lock, fault_tasks.keeps_the_lock_loose], ids=lambda body: body.name
)
def test_a_connection_that_was_torn_in_the_middle_is_thrown_away(run_worker, body):
    worker = run_worker("--threads", "1", cq={"LEASE": 30}).ready()
    (child,) = worker.children()

    torn, after = with_timeout(body), fault_tasks.leaf.delay()
    all_done(but=run_worker.log)

    assert outcomes(torn) == ["timeout"]
    assert outcomes(after) == ["success"]
    assert worker.children() == [child]
    worker.stop_in_order()
    check_invariants()


def test_what_cannot_be_interrupted_is_left_behind_by_its_task_and_ends_with_its_process(run_worker, tmp_path):
    worker = run_worker("--threads", "8", "--grace", "2", cq={"LEASE": 30}).ready()
    (child,) = worker.children()
    ends = fault_tasks.once_until.delay(str(tmp_path / "end"))
    stays = fault_tasks.once_until.delay(str(tmp_path / "never"))
    tasks = [
        with_timeout(fault_tasks.sleeps, 10**6),
        with_timeout(fault_tasks.swallows),
        with_timeout(fault_tasks.swallows_coroutine),
    ]
    run_worker.await_body(ends, stays, *tasks)

    until(lambda: all(Task.objects.get(pk=task.pk).is_done for task in tasks), what=run_worker.log)
    assert worker.children()[0] == child, "the neighbours have the grace"
    (tmp_path / "end").touch()
    all_done(but=run_worker.log)

    nothing_lingers()
    assert child not in worker.children()
    assert "child retired" in worker.log
    assert "is killed" not in worker.log
    for task in tasks:
        task.refresh_from_db()
        assert (task.status, task.exception, outcomes(task)) == ("FAILURE", "cq.exceptions.TaskTimeout", ["timeout"])
        assert "could only be stopped with its process" in task.error
        assert TIMEOUT + 2 <= (task.finished_at - task.started_at).total_seconds() < TIMEOUT + 4
    assert "time.sleep(seconds)" in Task.objects.get(pk=tasks[0].pk).traceback
    assert "asyncio.sleep(1000)" in Task.objects.get(pk=tasks[2].pk).traceback
    ends.refresh_from_db()
    stays.refresh_from_db()
    assert (ends.status, outcomes(ends)) == ("SUCCESS", ["success"])
    assert (stays.status, outcomes(stays)) == ("SUCCESS", ["interrupted", "success"])
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    worker.stop_in_order()
    check_invariants()


def test_what_keeps_its_process_from_answering_ends_by_the_supervisor(run_worker, tmp_path):
    """A body that holds the interpreter, a coroutine that blocks the loop, and a process that is suspended."""
    workers = [run_worker(queue, "--threads", "2", cq={"LEASE": 30}).ready() for queue in "abc"]
    neighbours = [fault_tasks.once_until.using(queue=queue).delay(str(tmp_path / "never")) for queue in "abc"]
    run_worker.await_body(*neighbours)
    (suspended,) = workers[2].children()
    tasks = [
        with_timeout(fault_tasks.hogs, 1000, queue="a"),
        with_timeout(fault_tasks.blocks_loop, 1000, queue="b"),
        with_timeout(fault_tasks.sleeps_loose, 1000, queue="c"),
    ]
    run_worker.await_body(*tasks)
    os.kill(suspended, signal.SIGSTOP)

    all_done(but=run_worker.log)

    nothing_lingers()
    for task in tasks:
        task.refresh_from_db()
        assert (task.status, task.exception, outcomes(task)) == ("FAILURE", "cq.exceptions.TaskTimeout", ["timeout"])
        assert TIMEOUT + 2 <= (task.finished_at - task.started_at).total_seconds() < TIMEOUT + 6
    for neighbour in neighbours:
        neighbour.refresh_from_db()
        assert (neighbour.status, outcomes(neighbour)) == ("SUCCESS", ["interrupted", "success"])
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    until(lambda: not Process.objects.exclude(ended_at=None).exists())
    for worker in workers:
        worker.stop_in_order()
    check_invariants()


def test_another_attempt_starts_when_the_old_body_is_gone(run_worker, tmp_path):
    """It has a worker of its own to start in at once; the old body's process has other bodies, which get their grace."""
    tasks, neighbours = [], []
    for queue, hogs in (("a", False), ("b", True)):
        run_worker(queue, "--threads", "3", "--grace", "1", cq={"LEASE": 30}).ready()
        tasks.append(with_timeout(fault_tasks.once_sleeps, 1000, hogs, retries=1, backoff=0, queue=queue))
        run_worker.await_body(tasks[-1])
        if not hogs:
            neighbours.append(fault_tasks.once_until.using(queue=queue).delay(str(tmp_path / "never")))
    run_worker.await_body(*neighbours)
    others = [run_worker(queue, cq={"LEASE": 30}).ready() for queue in "ab"]

    until(lambda: all(Task.objects.get(pk=task.pk).is_done for task in tasks), what=run_worker.log)
    (tmp_path / "never").touch()
    all_done(but=run_worker.log)

    for task in tasks:
        task.refresh_from_db()
        assert (task.status, task.result, task.retries, outcomes(task)) == ("SUCCESS", True, 1, ["timeout", "success"])
    assert len(others) == 2
    for worker in run_worker.started:
        worker.stop_in_order()
    check_invariants()


def test_a_timeout_that_comes_when_bodies_end_leaves_each_of_them_one_end(run_worker):
    """Their length is their timeout: either comes first, in the thread's own commit too."""
    worker = run_worker("--threads", "4", cq={"LEASE": 30, "POLL_INTERVAL": 20}).ready()
    tasks = fault_tasks.lasts.using(timeout=0.02).delay_many([(0.0195 + n % 20 * 5e-5,) for n in range(300)])
    all_done(but=run_worker.log)

    came_to = dict(Task.objects.values_list("outcome").annotate(Count("id")))
    assert came_to.keys() <= {"success", "timeout"}, (came_to, Task.objects.exclude(outcome__in=["success", "timeout"]))
    assert min(came_to.get("success", 0), came_to.get("timeout", 0)) > 5, came_to
    assert Effect.objects.count() == came_to["success"]
    assert len(tasks) == sum(came_to.values())
    run_worker("other", cq={"LEASE": 30, "POLL_INTERVAL": 20}).ready(1)
    tells = fault_tasks.tells.delay("other")
    until(
        lambda: Task.objects.filter(queue="other", status="SUCCESS").exists(), 10, what="the process gives hints still"
    )
    assert Task.objects.get(pk=tells.pk).status == "SUCCESS"
    assert "Traceback" not in worker.log
    assert len(worker.children()) == 1
    for one in run_worker.started:
        one.stop_in_order()
    check_invariants()


def test_a_timeout_given_at_the_call_wins_over_the_decorators(run_worker):
    worker = run_worker(cq={"LEASE": 30})
    tasks = [fault_tasks.half_a_second.delay(1), fault_tasks.half_a_second.using(timeout=None).delay(1)]
    tasks.append(fault_tasks.half_a_second.using(timeout=5).delay(1))
    all_done(but=run_worker.log)

    assert [Task.objects.get(pk=task.pk).status for task in tasks] == ["FAILURE", "SUCCESS", "SUCCESS"]
    worker.stop_in_order()
