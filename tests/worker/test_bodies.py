"""Where bodies run: coroutines beside each other, and nothing left of them."""

import time
from functools import partial
from math import inf

import pytest
from django.db import transaction

from cq import executor
from cq.models import Lingering, Task
from cq.testing import failpoint
from cq.worker.bodies import Body
from cq.worker.options import LONGEST_WAIT
from tests import fault_tasks
from tests.processes import query, until
from tests.rows.test_races import pausing_at


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))


def connections() -> int:
    ((number,),) = query("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    return int(number)


def test_a_coroutine_that_waits_for_a_thread_keeps_no_other_from_it(rounds):
    blocks = fault_tasks.blocks_coroutine.delay(2.0)
    thread = rounds("default")
    until(lambda: Task.objects.filter(pk=blocks.pk, status="RUNNING").exists())
    other = fault_tasks.coroutine.delay()
    thread.wake()

    until(lambda: Task.objects.get(pk=other.pk).is_done, 5)
    blocks.refresh_from_db()
    assert blocks.status == "RUNNING"
    until(lambda: Task.objects.get(pk=blocks.pk).is_done, 5)


def test_a_coroutine_that_the_loop_keeps_waiting_is_given_back_and_not_started_late(rounds):
    """Its supervisor takes a process that does not answer for one that starts nothing any more."""
    blocks = fault_tasks.blocks_loop.delay(0.5)
    thread = rounds("default")
    until(lambda: blocks.id in thread.bodies.running[True])
    until(lambda: thread.bodies.running[True][blocks.id].mark is not None)
    late = fault_tasks.coroutine.delay()
    thread.wake()

    until(lambda: Task.objects.get(pk=late.pk).is_done, 5)

    late.refresh_from_db()
    assert (late.status, late.attempt) == ("SUCCESS", 1)
    assert late.claims > 1


def test_what_runs_on_after_the_grace_keeps_its_place_until_it_is_gone(rounds):
    task = fault_tasks.sleeps_loose.using(key="k", limit=1).delay(1.5)
    thread = rounds("default")
    until(lambda: task.id in thread.bodies.running[False])
    until(lambda: thread.bodies.running[False][task.id].mark is not None)

    thread.stop(0.0)
    until(lambda: Task.objects.get(pk=task.pk).status == "QUEUED", 5)

    assert Lingering.objects.filter(task_id=task.pk, process_id=thread.process_id, key="k").exists()


@pytest.mark.parametrize("function", [fault_tasks.dry, fault_tasks.leaf, fault_tasks.coroutine], ids=lambda f: f.name)
def test_what_others_shall_have_does_not_start_here_however_late_it_is_heard_of(rounds, function):
    """The supervisor has said so while the answer to the claim was on its way."""
    thread = rounds("default")
    marks = thread.bodies.marks

    with pausing_at("rounds.exchanged", lambda: marks.handed_back.note(time.monotonic())):
        task = function.delay()
        thread.wake()
        until(lambda: Task.objects.get(pk=task.pk).is_done, 5)

    task.refresh_from_db()
    assert (task.status, task.attempt, task.claims) == ("SUCCESS", 1, 2), "given back once, and claimed anew"
    assert marks.started() == []


def test_a_body_is_marked_before_it_looks_whether_others_shall_have_it(rounds):
    """Whoever says so then, looks at the marks afterwards: the other way round, neither would know of the other."""
    thread = rounds("default")
    marks = thread.bodies.marks
    mark = marks.start

    def mark_late(*args):
        marks.start = mark
        marks.handed_back.note(time.monotonic())
        return mark(*args)

    marks.start = mark_late
    task = fault_tasks.dry.delay()
    thread.wake()

    until(lambda: Task.objects.get(pk=task.pk).is_done, 5)
    task.refresh_from_db()
    assert (task.status, task.attempt, task.claims) == ("SUCCESS", 1, 2)


@pytest.mark.parametrize("function", [fault_tasks.dry, fault_tasks.leaf, fault_tasks.coroutine], ids=lambda f: f.name)
def test_a_body_that_has_left_its_function_is_not_overdue_however_long_its_end_takes(rounds, function):
    with failpoint("body.returned=sleep:300ms"):
        task = function.using(timeout=60).delay()
        marks = rounds("default").bodies.marks

        until(lambda: marks.started() == [task.pk] and not marks.overdue(inf), 5)
        until(lambda: Task.objects.get(pk=task.pk).is_done, 5)


def test_coroutines_leave_no_connections_open(rounds):
    tasks = [fault_tasks.coroutine.delay() for _ in range(20)]
    before = connections()

    rounds("default")
    until(lambda: Task.objects.filter(pk__in=[task.pk for task in tasks], status="SUCCESS").count() == 20)

    until(lambda: connections() == before + 1, 5, what=lambda: f"{before} before, {connections()} now")


def test_what_may_start_only_once_is_never_claimed_ahead(rounds, tmp_path):
    blocking = fault_tasks.until_loose.delay(str(tmp_path / "end"))
    worker = rounds("default", threads=1, ahead=8)
    worker.bodies._duration = 0.0  # as after many short bodies
    until(lambda: blocking.id in worker.bodies.running[False])
    tasks = [fault_tasks.dry.using(on_lost="fail").delay(), fault_tasks.dry.delay()]
    given_back = []
    give_back = worker.bodies._give_back
    worker.bodies._give_back = lambda body: (
        given_back.append((body.task.id, time.monotonic() - body.claimed_at)),
        give_back(body),
    )

    worker.wake()
    until(lambda: given_back, 5)
    (tmp_path / "end").touch()
    until(lambda: Task.objects.filter(pk__in=[task.pk for task in tasks], status="SUCCESS").count() == 2, 5)

    tasks[0].refresh_from_db()
    waited = [seconds for task_id, seconds in given_back if task_id == tasks[0].id]
    assert waited
    assert max(waited) < LONGEST_WAIT, "it is given back at once, not when it has waited for too long"
    assert (tasks[0].attempt, tasks[0].crashes) == (1, 0)


def test_what_waits_behind_long_bodies_is_left_to_others(rounds, tmp_path):
    """Else a process that is faster than any hint claims the same task again and again, and nobody can ever start it."""
    worker = rounds("default", threads=1, ahead=8)
    worker.bodies._duration = 0.0  # as after many short bodies
    with transaction.atomic():
        fault_tasks.until_loose.delay(str(tmp_path / "end"))
        task = fault_tasks.dry.delay()
    worker.wake()
    until(lambda: Task.objects.filter(pk=task.pk, status="RUNNING").exists(), 5)
    until(lambda: Task.objects.filter(pk=task.pk, status="QUEUED").exists(), 5)

    for _ in range(3):
        worker.wake()
        until(lambda: not worker.wake_ups.is_pending and not worker._ended, 5)
        assert not worker.has_room

    task.refresh_from_db()
    assert (task.status, task.claims, task.attempt) == ("QUEUED", 1, 0)
    (tmp_path / "end").touch()
    until(lambda: Task.objects.get(pk=task.pk).is_done, 5)


def test_a_body_that_was_given_back_at_the_last_moment_does_not_start(rounds, loop):
    """The end of the grace may come between a thread's taking a body and its start; the row may run elsewhere by then."""
    worker = rounds("default", threads=1)
    start, begun = worker.bodies.start, []

    def start_too_late(task, asked_at):
        running = worker.bodies.running[False]
        body = Body(task, False)
        running[task.id] = body
        assert body.take_start()  # as the end of the grace does
        begun.append(executor.execute(task, partial(worker.bodies._begin, body)))
        worker.bodies.forget(body)
        worker.bodies.start = start
        worker.put(Body(task, False, executed=begun[0]))

    worker.bodies.start = start_too_late
    task = fault_tasks.dry.using(on_lost="fail").delay()
    worker.wake()

    until(lambda: Task.objects.get(pk=task.pk).is_done, 5)
    assert begun[0].outcome.kind is None
    task.refresh_from_db()
    assert (task.status, task.attempt, task.claims) == ("SUCCESS", 1, 2)
