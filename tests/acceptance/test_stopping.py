"""A revoke reaches running bodies: they are told, or interrupted, or killed with their process; and what runs beside them goes on."""

import pytest
from django.db.models import Sum

from cq.models import Task
from cq.models.key import Lingering
from tests import fault_tasks
from tests.models import Effect
from tests.processes import all_done, check_invariants, until

pytestmark = pytest.mark.chaos


def outcomes(task):
    return list(task.attempts.values_list("outcome", flat=True))


def nothing_lingers(run_worker):
    until(lambda: not Lingering.objects.exists(), what=lambda: f"{Lingering.objects.values()}\n{run_worker.log()}")


@pytest.mark.parametrize(("layer", "poll"), [("redis", 20), ("none", 0.3)], ids=["hint", "poll"])
def test_a_plain_revoke_is_told_to_bodies_that_ask(run_worker, layer, poll):
    worker = run_worker("--threads", "4", cq={"LEASE": 60, "POLL_INTERVAL": poll}, TEST_LAYER=layer).ready()
    (child,) = worker.children()
    tasks = [fault_tasks.checks.delay(), fault_tasks.checks.delay("subtask"), fault_tasks.checks_coroutine.delay()]
    run_worker.await_body(*tasks)

    for task in tasks:
        assert task.revoke()

    until(lambda: Effect.objects.count() == 3, 5, what=run_worker.log)
    nothing_lingers(run_worker)
    assert set(Effect.objects.values_list("name", flat=True)) == {"Fenced"}
    assert worker.children() == [child]
    assert Task.objects.count() == 3, "no subtask was made"
    for task in tasks:
        task.refresh_from_db()
        assert (task.status, outcomes(task)) == ("REVOKED", ["revoked"])
    worker.stop_in_order()


@pytest.mark.parametrize("insists", [False, True])
def test_terminate_interrupts_running_bodies_down_to_the_last_subtask(run_worker, tmp_path, insists):
    worker = run_worker("--threads", "6", cq={"LEASE": 60, "POLL_INTERVAL": 20}).ready()
    (child,) = worker.children()
    neighbour = fault_tasks.once_until.delay(str(tmp_path / "end"))
    tree = fault_tasks.parent_of_loops.delay(2)
    tasks = [fault_tasks.loops.delay(), fault_tasks.sleeps_coroutine.delay(1000)]
    until(lambda: tree.subtasks.filter(status="RUNNING").count() == 2, what=run_worker.log)
    run_worker.await_body(neighbour, *tasks, *tree.subtasks.all())

    for task in (tree, *tasks):
        assert task.revoke(terminate=not insists)
    if insists:
        assert Lingering.objects.count() == 4
        for task in (tree, *tasks):
            assert not task.revoke(terminate=True), "what is revoked stays so"

    nothing_lingers(run_worker)
    (tmp_path / "end").touch()
    all_done(but=run_worker.log)
    assert worker.children() == [child]
    neighbour.refresh_from_db()
    assert (neighbour.status, neighbour.attempt) == ("SUCCESS", 1)
    assert set(Task.objects.exclude(pk=neighbour.pk).values_list("status", flat=True)) == {"REVOKED"}
    assert set(tree.subtasks.values_list("terminate", flat=True)) == {not insists}
    worker.stop_in_order()


def test_terminate_kills_what_does_not_heed_it_with_its_process(run_worker, tmp_path):
    """One sleeps where nothing wakes it, one holds the interpreter, so that its process hears nothing."""
    workers = [run_worker(queue, "--threads", "2", "--grace", "1", cq={"LEASE": 60}).ready() for queue in "ab"]
    old = [worker.children()[0] for worker in workers]
    neighbours = [fault_tasks.once_until.using(queue=queue).delay(str(tmp_path / "end")) for queue in "ab"]
    run_worker.await_body(*neighbours)
    tasks = [fault_tasks.sleeps_loose.using(queue="a").delay(10**6), fault_tasks.hogs.using(queue="b").delay(1000)]
    run_worker.await_body(*tasks)

    for task in tasks:
        assert task.revoke(terminate=True)

    nothing_lingers(run_worker)
    until(lambda: all(Task.objects.get(pk=one.pk).attempt == 2 for one in neighbours), what=run_worker.log)
    (tmp_path / "end").touch()
    all_done(but=run_worker.log)
    for neighbour in neighbours:
        neighbour.refresh_from_db()
        assert (neighbour.status, outcomes(neighbour)) == ("SUCCESS", ["interrupted", "success"])
    assert {Task.objects.get(pk=task.pk).status for task in tasks} == {"REVOKED"}
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    for worker, child in zip(workers, old, strict=True):
        assert child not in worker.descendants()
        worker.stop_in_order()


def test_a_revoked_task_that_is_retried_starts_when_its_old_body_has_ended(run_worker, tmp_path):
    worker = run_worker("--threads", "4", "--processes", "2", cq={"LEASE": 60}).ready(2)
    task = fault_tasks.ends_when_told.delay(str(tmp_path / "end"))
    run_worker.await_body(task)

    assert task.revoke()
    assert task.retry()
    other = fault_tasks.dry.delay()
    until(lambda: Task.objects.get(pk=other.pk).is_done)
    task.refresh_from_db()
    assert (task.status, task.admitted, task.attempt) == ("QUEUED", False, 1)

    (tmp_path / "end-1").touch()
    run_worker.await_body(task, attempt=2)
    (tmp_path / "end-2").touch()
    all_done(but=run_worker.log)
    task.refresh_from_db()
    assert (task.status, outcomes(task)) == ("SUCCESS", ["revoked", "success"])
    worker.stop_in_order()
    check_invariants()
