"""A body asks whether it is to end; and what a timeout is to those who decide about another attempt."""

import time

import pytest
from django.contrib.auth.models import Group

import cq
from cq import task
from cq.exceptions import Fenced, NotAllowedHere, TaskTimeout
from cq.models import Task
from tests.api.run import ended, ended_in_time
from tests.processes import until
from tests.rows.elsewhere import elsewhere
from tests.tasks import adds

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


@task
def asks(cqt):
    cqt.checkpoint()
    return "went on"


@task
async def asks_in_a_coroutine(cqt):
    cqt.checkpoint()
    return "went on"


def test_nobody_is_to_end_who_is_not_told():
    assert ended(asks.delay()).result == "went on"
    assert ended(asks_in_a_coroutine.delay()).result == "went on"


def test_it_does_nothing_in_a_direct_call():
    assert asks() == "went on"


@task(atomic=False)
def is_revoked_and_asks(cqt):
    with elsewhere() as person:
        person(lambda: Task.objects.get(pk=cqt.id).revoke())
    try:
        cqt.checkpoint()
    except Fenced:
        Group.objects.create(name="asked")
    try:
        cqt.subtask(adds, (1,))
    except Fenced:
        Group.objects.create(name="added")
    cqt.checkpoint()


@committed
def test_a_body_that_was_revoked_is_told_when_it_asks():
    stopped = ended(is_revoked_and_asks.delay())

    assert stopped.status == "REVOKED"
    assert set(Group.objects.values_list("name", flat=True)) == {"asked", "added"}
    assert not stopped.subtasks.exists()


SEEN = []


def notes(error):
    SEEN.append(error)
    return isinstance(error, cq.TaskTimeout)


def pause(attempt, error):
    SEEN.append(error)
    return 0


@task(timeout=0.02, retries=2, retry_exceptions=notes, backoff=pause)
def lasts(cqt, seconds):
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)
    cqt.checkpoint()
    return cqt.attempt


def test_a_timeout_is_an_exception_to_those_who_decide_about_another_attempt():
    SEEN.clear()

    late = ended_in_time(lasts.delay(0.03))

    assert [type(error) for error in SEEN] == [TaskTimeout] * 4
    assert (late.status, late.attempt, late.retries) == ("FAILURE", 3, 2)
    assert (late.exception, late.error) == (
        "cq.exceptions.TaskTimeout",
        "The body ran longer than its timeout of 0.02 s.",
    )
    assert [a.outcome for a in late.attempts.all()] == ["timeout"] * 3


@pytest.mark.parametrize("timeout", [None, 5])
def test_a_timeout_given_at_the_call_is_the_one_that_counts(timeout):
    assert ended(lasts.using(timeout=timeout).delay(0.03)).result == 1


def test_what_is_asked_after_the_time_ends_by_the_timeout_whatever_follows():
    assert ended(swallows.delay()).exception == "cq.exceptions.TaskTimeout"


@task(timeout=0.001)
def swallows(cqt):
    until(lambda: time.monotonic() > cqt._interruption.deadline)
    with pytest.raises(TaskTimeout):
        cqt.checkpoint()
    return "fine"


@task
def revokes_what_it_makes(cqt):
    made = cqt.subtask(adds, (1,))
    with pytest.raises(NotAllowedHere, match="is in the memory of the body"):
        made.revoke()
    return "refused"


def test_a_subtask_cannot_be_revoked_before_it_is_stored():
    parent = ended(revokes_what_it_makes.delay())

    assert (parent.status, parent.subtasks.get().status) == ("SUCCESS", "SUCCESS")
