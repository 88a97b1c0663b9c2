"""A task that was not started in time ends as EXPIRED; what has started once, it never comes too late for."""

from datetime import timedelta

import pytest

from cq import engine, settle, task
from cq.models import Task
from cq.states import Status
from cq.testing import drain, failpoint
from tests.api.run import ended, states
from tests.rows.elsewhere import elsewhere
from tests.rows.make import ago, process, row, status, take
from tests.tasks import adds, succeeds_at

pytestmark = pytest.mark.django_db


@task("expires.soon", expires=30)
def soon(cqt):
    return 1


@task("expires.below")
def below(cqt):
    cqt.subtask(soon)


def let_time_pass(*tasks):
    """Make it too late for all that are to start in time."""
    Task.objects.filter(start_by__isnull=False).update(start_by=ago(1))


def test_it_says_until_when_it_must_start():
    by_decorator, by_call = soon.delay(), adds.using(expires=timedelta(minutes=2), run_after=60).delay(1)

    for made, seconds in ((by_decorator, 30), (by_call, 120)):
        assert made.start_by - made.run_after == timedelta(seconds=seconds)
        assert Task.objects.get(pk=made.pk).start_by == made.start_by
    assert adds.delay(1).start_by is None
    assert soon.using(expires=None).delay().start_by is None


def test_in_time_it_runs():
    assert ended(soon.delay()).result == 1


def test_too_late_it_expires_and_says_how_long_it_had():
    late = soon.delay()
    let_time_pass()

    assert drain() == 0

    late.refresh_from_db()
    assert (late.status, late.reason) == ("EXPIRED", "It was not started within 30 s after it was due.")
    assert (late.attempt, late.error) == (0, None)
    assert late.prune_after > late.finished_at


def test_a_parent_falls_short_and_successors_are_skipped_or_forced():
    parent = below.delay()
    drain(max_tasks=1)
    child = parent.subtasks.get()
    alone = soon.delay()
    skipped, forced = alone.chain(adds, (1,)), alone.chain(adds, (1,), force_chain=True)
    let_time_pass()

    drain()

    assert states(parent, child, alone, skipped, forced) == ["INCOMPLETE", "EXPIRED", "EXPIRED", "SKIPPED", "SUCCESS"]


def test_for_a_successor_the_time_counts_from_its_release():
    first = adds.delay(1)
    behind = first.chain(soon)
    Task.objects.update(run_after=ago(3600), created_at=ago(3600), start_by=None)

    drain(max_tasks=1)
    settle.settle_all()

    behind.refresh_from_db()
    assert behind.start_by - behind.run_after == timedelta(seconds=30)
    assert ended(behind).status == "SUCCESS"


def test_for_what_is_held_back_it_counts_from_its_submit():
    held = soon.using(submit=False).delay()
    Task.objects.update(start_by=ago(60))

    held.submit()

    assert ended(held).status == "SUCCESS"


def test_a_retry_does_not_expire():
    again = succeeds_at.using(expires=30).delay(2)
    drain(max_tasks=1)
    let_time_pass()

    assert ended(again).result == 2


def test_what_a_person_retries_does_not_expire():
    late = soon.delay()
    let_time_pass()
    drain()
    late.retry()

    assert late.start_by is None
    assert ended(late).status == "SUCCESS"


def test_what_waits_for_a_place_expires_too():
    late = soon.using(key="k", limit=1).delay()
    row(Status.RUNNING, key="k")
    let_time_pass()
    drain()

    assert states(late) == ["EXPIRED"]


@pytest.mark.django_db(transaction=True)
def test_what_is_too_late_is_not_claimed_even_before_it_is_swept():
    soon.delay()
    let_time_pass()

    assert take(process()) == []


@pytest.mark.django_db(transaction=True)
def test_who_looks_hears_when_the_next_one_is_too_late():
    soon.delay()

    _, seconds = engine.peek()

    assert 28 < seconds <= 30
    assert 28 < engine.look(None, []).next_due <= 30


@pytest.mark.django_db(transaction=True)
def test_the_sweep_leaves_what_somebody_has_locked():
    one, other = soon.delay(), soon.delay()
    let_time_pass()
    with elsewhere() as there:
        there.open()
        there(lambda: Task.objects.select_for_update(no_key=True).get(pk=one.pk))

        assert engine.expire() == [other.id]

        there.commit()
    assert engine.expire() == [one.id]


@pytest.mark.django_db(transaction=True)
def test_the_sweep_takes_the_most_overdue_first_and_a_thousand_at_most():
    adds.delay_many([(n,) for n in range(1005)], expires=1)
    Task.objects.update(start_by=ago(1))
    first = Task.objects.last()
    Task.objects.filter(pk=first.pk).update(start_by=ago(60))

    swept = engine.expire()

    assert (len(swept), first.id in swept, len(engine.expire())) == (1000, True, 5)


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_breaks_off_ends_nothing():
    parent = row(Status.WAITING)
    late = row(Status.QUEUED, parent=parent, start_by=ago(1), expires=5.0)

    with pytest.raises(Exception, match=r"expire\.swapped"), failpoint("expire.swapped=raise"):
        engine.expire()

    assert status(late) == Status.QUEUED
    engine.expire()
    settle.settle_all()
    assert status(parent) == Status.INCOMPLETE
