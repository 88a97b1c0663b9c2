"""A revoke goes down level by level: what returns before it has come there keeps its end, and after that nothing of it is kept."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.db import transaction

from cq import engine, settle
from cq.exceptions import Fenced
from cq.models import SettleRequest, Task
from cq.outcome import Claimed
from cq.states import Status
from tests.rows.elsewhere import elsewhere
from tests.rows.make import held, process, row, statuses, succeeded, take

pytestmark = pytest.mark.django_db(transaction=True)

Stop = Callable[[Task], None]


def by_hand(branch: Task) -> None:
    """Do what `revoke()` does in its transaction."""
    engine.revoke([branch.id], reason="By a test.")


def by_a_failure(branch: Task) -> None:
    """Let another subtask of its parent fail, and that one be settled, once."""
    row(Status.FAILURE, parent=branch.parent)
    settle.settle([branch.parent_id])


def tree() -> tuple[Task, Task, Task]:
    """Make a branch, which waits, with two leaves: one that runs, and one that is ready."""
    branch = row(Status.WAITING, parent=row(Status.WAITING, fail_fast=True))
    return branch, row(Status.RUNNING, parent=branch), row(Status.QUEUED, parent=branch)


def return_with_effect(claimed: Claimed) -> None:
    with transaction.atomic():
        Group.objects.create(name="effect")
        engine.finish_own(succeeded(claimed))


ways = pytest.mark.parametrize("stop", [by_hand, by_a_failure], ids=lambda way: way.__name__)


@ways
def test_a_body_that_returns_before_the_revoke_of_its_parent_has_come_down_to_it_keeps_its_end(stop: Stop) -> None:
    branch, running, ready = tree()

    stop(branch)
    return_with_effect(held(running))
    (started,) = take(process())
    settle.settle_all()

    assert started.id == ready.id
    assert statuses(branch, running, ready) == [Status.REVOKED, Status.SUCCESS, Status.REVOKED]
    assert Task.objects.get(pk=running.pk).finished_at > Task.objects.get(pk=branch.pk).finished_at
    assert Group.objects.count() == 1


@ways
def test_once_a_revoke_has_come_down_nothing_below_it_starts_or_is_kept(stop: Stop) -> None:
    branch, running, ready = tree()

    stop(branch)
    settle.settle_all()

    with pytest.raises(Fenced):
        return_with_effect(held(running))
    assert engine.finish([succeeded(held(running))]).moved == []
    assert take(process()) == []
    assert statuses(branch, running, ready) == [Status.REVOKED] * 3
    assert not Group.objects.exists()


@ways
def test_whoever_settles_next_carries_a_revoke_down_if_its_author_dies(stop: Stop) -> None:
    branch, running, ready = tree()

    stop(branch)

    assert SettleRequest.objects.filter(task_id=branch.id).exists()
    with elsewhere() as worker:
        worker(settle.settle_all)
    assert statuses(running, ready) == [Status.REVOKED] * 2


@pytest.mark.parametrize("is_kept", [True, False], ids=["commits", "rolls back"])
def test_a_revoke_does_not_wait_for_a_body_that_is_just_being_committed_below_it(is_kept: bool) -> None:
    branch = row(Status.WAITING)
    running = row(Status.RUNNING, parent=branch)
    with elsewhere() as worker:
        worker.open()
        worker(engine.finish_own, succeeded(held(running)))

        assert branch.revoke()

        assert statuses(branch, running) == [Status.REVOKED, Status.RUNNING]
        worker.commit() if is_kept else worker.rollback()
    settle.settle_all()
    assert statuses(branch, running) == [Status.REVOKED, Status.SUCCESS if is_kept else Status.REVOKED]


def test_when_revoke_returns_no_body_below_can_be_kept_any_more() -> None:
    branch, running, ready = tree()

    branch.parent.revoke()

    assert statuses(branch.parent, branch, running, ready) == [Status.REVOKED] * 4
    with pytest.raises(Fenced):
        return_with_effect(held(running))
    assert not Group.objects.exists()
