"""Stopping tasks: everything unfinished at and below one, and what comes after."""

import pytest
from django.contrib.auth.models import Group
from django.db import transaction

from cq import states as table
from cq import task
from cq.exceptions import TaskFailed
from cq.models import Task
from cq.states import Status
from cq.testing import drain
from tests.api.run import ended, states
from tests.rows.make import image, row
from tests.tasks import adds, raises, spawns, sums

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("status", sorted(table.UNFINISHED))
def test_what_is_unfinished_is_revoked(status):
    stopped = row(status)

    assert stopped.revoke() is True

    assert (stopped.status, stopped.is_done) == ("REVOKED", True)
    assert stopped.reason == "It was revoked."
    assert stopped.finished_at is not None
    assert stopped.process_id is None


@pytest.mark.parametrize("status", sorted(table.TERMINAL))
def test_what_has_ended_stays(status):
    over = row(status)
    before = image(over.pk)

    assert over.revoke() is False

    assert image(over.pk) == before


def test_it_is_revoked_once():
    stopped = adds.delay(1)

    assert [stopped.revoke(), stopped.revoke()] == [True, False]


def test_a_revoked_task_never_runs():
    stopped = adds.delay(1)
    stopped.revoke()

    assert drain() == 0
    assert states(stopped) == ["REVOKED"]


def test_everything_unfinished_below_and_after_is_revoked():
    root = spawns.delay(3)
    after = root.chain(sums, (1,))
    forced = after.chain(adds, (1,), force_chain=True)
    drain(max_tasks=2)
    done = root.subtasks.get(status="SUCCESS")

    assert root.revoke() is True

    drain()
    assert states(root, after, forced) == ["REVOKED"] * 3
    assert sorted(root.subtasks.values_list("status", flat=True)) == ["REVOKED", "REVOKED", "SUCCESS"]
    done.refresh_from_db()
    assert done.result is not None


@task
def has_grandchildren(cqt, depth):
    for _ in range(2):
        if depth:
            cqt.subtask(has_grandchildren, (depth - 1,)).chain(adds, (1,))


def test_a_revoke_reaches_the_last_leaf():
    root = has_grandchildren.delay(3)
    drain(max_tasks=5)

    root.revoke()
    drain()

    assert not Task.objects.unfinished().exists()
    assert set(Task.objects.filter(status="REVOKED").values_list("reason", flat=True)) <= {
        "It was revoked.",
        "Its parent was revoked.",
        "Its predecessor was revoked.",
    }
    root.refresh_from_db()
    assert root.status == "REVOKED"


def test_a_revoked_subtask_leaves_its_parent_incomplete_and_its_siblings_alone():
    root = spawns.delay(3)
    drain(max_tasks=1)
    first, *others = root.subtasks.all()

    first.revoke()
    ended(root)

    assert root.status == "INCOMPLETE"
    assert states(first, *others) == ["REVOKED", "SUCCESS", "SUCCESS"]


def test_a_revoked_successor_leaves_its_predecessor_alone():
    first = adds.delay(1)
    after = first.chain(sums, (1,))
    last = after.chain(sums, (1,))

    after.revoke()
    drain()

    assert states(first, after, last) == ["SUCCESS", "REVOKED", "REVOKED"]


def test_revoking_a_task_that_has_ended_stops_what_comes_after_it():
    first = ended(adds.delay(1))
    second = first.chain(sums.using(run_after=3600), (1,))
    third = second.chain(sums, (1,), force_chain=True)

    assert first.revoke() is True

    drain()
    assert states(first, second, third) == ["SUCCESS", "REVOKED", "REVOKED"]
    assert first.revoke() is False


def test_revoking_goes_on_through_successors_that_have_ended():
    first = adds.delay(1)
    second = first.chain(sums, (1,))
    third = second.chain(sums.using(run_after=3600), (1,))
    drain()

    assert first.revoke() is True

    drain()
    assert states(first, second, third) == ["SUCCESS", "SUCCESS", "REVOKED"]


def test_revoking_the_end_of_a_skipped_chain_stops_the_forced_one_behind_it():
    first = raises.delay()
    second = first.chain(adds, (1,))
    forced = second.chain(adds.using(run_after=3600), (1,), force_chain=True)
    drain()

    assert first.revoke() is True

    drain()
    assert states(first, second, forced) == ["FAILURE", "SKIPPED", "REVOKED"]


def test_revoking_the_root_stops_the_whole_chain():
    last = adds.delay(1).chain(sums, (1,)).chain(sums, (1,))

    last.root.revoke()
    drain()

    assert set(Task.objects.values_list("status", flat=True)) == {"REVOKED"}


@task
def revokes_itself_and_writes(cqt):
    Group.objects.create(name="written")
    assert cqt.row.revoke()


@pytest.mark.django_db(transaction=True)
def test_a_revoke_in_a_body_of_its_own_task_is_kept_or_undone_with_it():
    stopped = ended(revokes_itself_and_writes.delay())

    assert stopped.status in ("REVOKED", "FAILURE")
    assert not Group.objects.exists()
    assert not Task.objects.unfinished().exists()


@task(atomic=False)
def is_revoked_meanwhile(cqt):
    cqt.subtask(adds, (1,))
    cqt.row.revoke()
    return "done"


@pytest.mark.django_db(transaction=True)
def test_a_body_that_was_revoked_meanwhile_leaves_nothing():
    stopped = ended(is_revoked_meanwhile.delay())

    assert (stopped.status, stopped.result) == ("REVOKED", None)
    assert [a.outcome for a in stopped.attempts.all()] == ["revoked"]
    assert not stopped.subtasks.exists()


@pytest.mark.django_db(transaction=True)
def test_a_revoke_that_is_rolled_back_never_was():
    going_on = adds.delay(1)
    going_on.chain(sums, (1,))

    with transaction.atomic():
        assert going_on.revoke()
        transaction.set_rollback(True)
    drain()

    assert set(Task.objects.values_list("status", flat=True)) == {"SUCCESS"}


@pytest.mark.django_db(transaction=True)
def test_what_is_below_and_after_is_stopped_when_revoke_returns():
    root = has_grandchildren.delay(2)
    after = root.chain(adds, (1,))
    drain(max_tasks=3)

    root.revoke()

    assert not Task.objects.unfinished().exists()
    assert states(after) == ["REVOKED"]


def test_terminate_is_noted_for_those_who_run_it():
    stopped = row(Status.RUNNING)

    stopped.revoke(terminate=True)

    assert Task.objects.get(pk=stopped.pk).terminate is True


def test_chaining_onto_a_revoked_task_is_skipped_at_once():
    stopped = adds.delay(1)
    stopped.revoke()

    assert stopped.chain(adds, (1,), force_chain=True).status == "SKIPPED"


@pytest.mark.django_db(transaction=True)
def test_a_revoked_task_has_no_result_to_get():
    stopped = adds.delay(1)
    stopped.revoke()

    with pytest.raises(TaskFailed, match="ended in REVOKED: It was revoked") as error:
        stopped.get(0)

    assert (error.value.task, error.value.status, error.value.error) == (stopped, "REVOKED", None)
