"""The engine thread and keys: who has ended makes room, who was made is admitted, and what is due is seen to on time."""

from datetime import timedelta

import pytest
from django.db.models import F

from cq.models import Key, KeyRequest, Task, Worker
from cq.states import Status
from tests import fault_tasks, tasks
from tests.processes import until
from tests.rows import make
from tests.rows.elsewhere import elsewhere


def are_done(*made: Task) -> bool:
    return Task.objects.filter(pk__in=[task.pk for task in made], finished_at=None).count() == 0


@pytest.fixture
def slots(transactional_db: None):
    """Let the worker that a test starts have several slots."""

    def give(number):
        Worker.objects.update(slots=number, coroutines=number)

    return give


@pytest.mark.parametrize("function", [tasks.adds, tasks.awaits, fault_tasks.dry], ids=lambda f: f.name)
def test_one_after_the_other_runs_without_a_poll(rounds, function):
    """Each end admits the next one: nobody else looks here."""
    made = function.delay_many([(n,) for n in range(40)], key="k", limit=1)

    rounds()

    until(lambda: are_done(*made), 10)
    until(lambda: not KeyRequest.objects.exists(), 5)
    until(lambda: not Key.objects.exists(), 5)


def test_bodies_that_write_their_own_end_admit_the_next_one_too(rounds):
    made = tasks.writes_group.delay_many([(f"{n}",) for n in range(20)], key="k", limit=1)

    rounds()

    until(lambda: are_done(*made), 10)


def test_a_keyed_task_is_started_at_the_wake_up_that_tells_of_it(rounds):
    thread = rounds()
    until(lambda: thread.claims.vain)
    made = tasks.adds.delay_args((1,), key="k")

    thread.wake()

    until(lambda: are_done(made), 5)
    made.refresh_from_db()
    assert (made.started_at - made.created_at).total_seconds() < 1


def test_a_key_that_is_asked_for_is_settled_with_the_claim_and_not_by_a_later_look(rounds, monkeypatch):
    monkeypatch.setattr("cq.worker.rounds._LOOK_LATER", 60.0)
    thread = rounds("default")
    until(lambda: thread.claims.vain)
    made = tasks.adds.delay_args((1,), key="k")

    thread.wake()

    until(lambda: are_done(made), 5)


def test_successors_and_subtasks_with_a_key_are_started_without_a_poll(rounds):
    first = tasks.adds.delay(1)
    behind = first.chain(tasks.adds, (1,), key="k").chain(tasks.adds, (1,), key="k", limit=1)

    rounds()

    until(lambda: are_done(first, behind), 5)


def test_what_is_promoted_is_admitted(rounds, slots):
    later = tasks.adds.delay_args((1,), key="k", run_after=0.3)

    thread = rounds()
    thread.wake()

    until(lambda: are_done(later), 5)


def test_a_rate_goes_on_without_a_poll(rounds):
    made = tasks.adds.delay_many([(n,) for n in range(5)], key="k", rate="2/s")

    rounds()

    until(lambda: are_done(*made), 10)
    starts = sorted(Task.objects.values_list("started_at", flat=True))
    assert all(later - earlier > timedelta(seconds=1) for earlier, later in zip(starts, starts[2:], strict=False))
    assert starts[-1] - starts[0] < timedelta(seconds=4)


def test_what_is_too_late_is_ended_on_time(rounds):
    late = tasks.adds.delay_args((1,), expires=0.4)
    Task.objects.filter(pk=late.pk).update(name="nobody.knows")
    thread = rounds()

    thread.wake()

    until(lambda: make.status(late) == Status.EXPIRED, 5)
    assert Task.objects.filter(pk=late.pk, finished_at__lt=F("start_by") + timedelta(seconds=1)).exists()


def test_a_row_that_is_locked_for_long_is_admitted_soon_after(rounds):

    made = tasks.adds.delay_args((1,), key="k")
    with elsewhere() as there:
        there.open()
        there(lambda: Task.objects.select_for_update(no_key=True).get(pk=made.pk))
        thread = rounds()
        thread.wake()
        until(lambda: thread._vain_admissions > 6, 5)
        there.commit()

    until(lambda: are_done(made), 5)
    until(lambda: not KeyRequest.objects.exists(), 5)
