"""Retrying by hand: what went wrong runs again, what succeeded stays, and what waited for it waits again."""

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import transaction

from cq import notifier, task
from cq import states as table
from cq.exceptions import NotAllowedHere, TaskGone
from cq.models import PastAttempt, Task
from cq.testing import drain
from tests.api.run import ended, ended_in_time, states
from tests.rows.make import image, row
from tests.tasks import adds, spawns, sums

pytestmark = pytest.mark.django_db


@task
def needs(cqt, name):
    if not Group.objects.filter(name=name).exists():
        raise ValueError(f"there is no {name}")
    return name


@task
def needs_each(cqt, *names):
    for name in names:
        cqt.subtask(needs, name)


@task
def needs_below(cqt, name):
    cqt.subtask(needs_each, name)


def provide(*names):
    for name in names:
        Group.objects.create(name=name)


def attempts(which):
    return list(which.attempts.values_list("number", "outcome"))


def test_what_failed_runs_again():
    failed = ended(needs.delay("a"))
    provide("a")

    assert failed.retry() is True

    assert (failed.status, failed.is_done, failed.reason, failed.finished_at) == ("QUEUED", False, None, None)
    assert failed.error == "there is no a", "until it succeeds"
    ended(failed)
    assert (failed.status, failed.result, failed.error) == ("SUCCESS", "a", None)
    assert attempts(failed) == [(1, "error"), (2, "success")]


@pytest.mark.parametrize("status", sorted(table.REOPEN.sources))
def test_budgets_are_fresh(status):
    over = row(status, retries=3, crashes=2, transients=1, claims=4, attempt=4, reason="Because.")

    assert over.retry() is True

    assert over.status == "QUEUED"
    assert (over.retries, over.crashes, over.transients, over.reason) == (0, 0, 0, None)
    assert (over.claims, over.attempt) == (4, 4), "these count on"


@pytest.mark.parametrize("status", [table.Status.SUCCESS, *sorted(table.UNFINISHED)])
def test_where_nothing_went_wrong_nothing_changes(status):
    fine = row(status)
    before = image(fine.pk)

    assert fine.retry() is False

    assert image(fine.pk) == before


def test_it_may_fail_again():
    failed = ended(needs.using(retries=1).delay("a"))
    ended_in_time(failed)
    failed.retry()

    ended_in_time(failed)

    assert failed.status == "FAILURE"
    assert attempts(failed) == [(number, "error") for number in (1, 2, 3, 4)]


def test_of_a_parent_only_what_failed_below_it_runs_again():
    provide("a")
    parent = ended(needs_each.delay("a", "b"))
    fine, failed = parent.subtasks.all()
    assert states(parent, fine, failed) == ["INCOMPLETE", "SUCCESS", "FAILURE"]
    provide("b")

    assert parent.retry() is True

    assert states(parent, fine, failed) == ["WAITING", "SUCCESS", "QUEUED"]
    assert drain() == 1
    assert states(parent, fine, failed) == ["SUCCESS", "SUCCESS", "SUCCESS"]
    assert [attempts(each) for each in (parent, fine)] == [[(1, "success")]] * 2


def test_all_above_waits_again_and_what_was_skipped_behind_it_is_held_back_again():
    top = needs_below.delay("a")
    after = top.chain(adds, (1,))
    last = after.chain(adds, (2,))
    ended(top)
    middle = top.subtasks.get()
    failed = middle.subtasks.get()
    assert states(top, middle, failed, after, last) == ["INCOMPLETE", "INCOMPLETE", "FAILURE", "SKIPPED", "SKIPPED"]
    provide("a")

    assert failed.retry() is True

    assert states(top, middle, failed, after, last) == ["WAITING", "WAITING", "QUEUED", "PENDING", "PENDING"]
    drain()
    assert states(top, middle, failed, after, last) == ["SUCCESS"] * 5


def test_a_failed_subtask_of_a_parent_that_still_waits_is_reopened_alone():
    parent = needs_each.delay("a", "b")
    drain(max_tasks=2)
    failed, other = parent.subtasks.all()
    assert states(parent, failed, other) == ["WAITING", "FAILURE", "QUEUED"]

    assert parent.retry() is True

    assert states(parent, failed, other) == ["WAITING", "QUEUED", "QUEUED"]


def test_a_successor_that_fails_is_not_its_predecessor_s_business():
    first = adds.delay(1)
    second = first.chain(needs, ("a",))
    ended(first)

    assert first.retry() is False
    assert second.retry() is True
    assert states(first, second) == ["SUCCESS", "QUEUED"]


def test_a_skipped_task_waits_for_its_predecessor_to_be_retried():
    first = needs.delay("a")
    second = first.chain(adds, (1,))
    ended(first)
    before = image(second.pk)

    with pytest.raises(NotAllowedHere, match=f"comes after task {first.id}, which ended in FAILURE. Retry that one"):
        second.retry()

    assert image(second.pk) == before


def test_what_is_below_a_parent_that_ended_well_all_the_same_stays():
    failed = row(table.Status.FAILURE, parent=row(table.Status.SUCCESS))
    before = image(failed.pk)

    with pytest.raises(NotAllowedHere, match=f"below task {failed.parent_id}, which ended in SUCCESS"):
        failed.retry()

    assert image(failed.pk) == before


def test_a_revoked_tree_goes_on_where_it_was():
    root = spawns.delay(3)
    drain(max_tasks=2)
    root.revoke()
    assert drain() == 0
    below = list(root.subtasks.all())
    assert states(root, *below) == ["REVOKED", "SUCCESS", "REVOKED", "REVOKED"]

    assert root.retry() is True

    assert states(root, *below) == ["WAITING", "SUCCESS", "QUEUED", "QUEUED"]
    assert drain() == 2
    assert states(root, *below) == ["SUCCESS"] * 4
    assert attempts(root) == [(1, "success")]


@pytest.mark.parametrize("forced", [False, True])
def test_a_revoked_successor_comes_after_its_predecessor_again(forced):
    first = adds.delay(1)
    second = first.chain(sums, (1,), force_chain=forced)
    first.revoke()
    assert drain() == 0
    with pytest.raises(NotAllowedHere, match=f"comes after task {first.id}, which ended in REVOKED"):
        second.retry()

    first.retry()
    assert states(first, second) == ["QUEUED", "REVOKED"]
    second.retry()
    assert states(first, second) == ["QUEUED", "PENDING"]

    drain()
    assert states(first, second) == ["SUCCESS", "SUCCESS"]


def test_a_forced_successor_that_was_revoked_starts_after_a_predecessor_that_failed():
    first = needs.delay("a")
    second = first.chain(adds, (1,), force_chain=True)
    ended_first = drain(max_tasks=1)
    second.revoke()

    assert (ended_first, second.retry()) == (1, True)

    drain()
    assert states(first, second) == ["FAILURE", "SUCCESS"]


def test_a_revoked_parent_whose_subtasks_have_all_ended_ends():
    parent = row(table.Status.REVOKED, outcome="success")
    row(table.Status.SUCCESS, parent=parent)

    assert parent.retry() is True

    assert ended(parent).status == "SUCCESS"


def test_below_what_has_ended_well_nothing_is_reopened():
    top = row(table.Status.INCOMPLETE)
    failed = row(table.Status.FAILURE, parent=top)
    fine = row(table.Status.SUCCESS, parent=top)
    below = row(table.Status.FAILURE, parent=fine)

    assert top.retry() is True

    assert states(top, failed, fine, below) == ["WAITING", "QUEUED", "SUCCESS", "FAILURE"]


def test_what_ended_well_whatever_became_of_its_subtasks_stays():
    fine = row(table.Status.SUCCESS)
    failed = row(table.Status.FAILURE, parent=fine)

    assert fine.retry() is False

    assert states(fine, failed) == ["SUCCESS", "FAILURE"]


def test_what_failed_is_found_below_what_still_waits():
    top = row(table.Status.WAITING)
    middle = row(table.Status.WAITING, parent=top)
    failed = row(table.Status.FAILURE, parent=middle)

    assert top.retry() is True

    assert states(top, middle, failed) == ["WAITING", "WAITING", "QUEUED"]


def test_above_what_has_ended_well_nothing_is_reopened():
    fine = row(table.Status.SUCCESS, parent=row(table.Status.INCOMPLETE))

    assert fine.retry() is False

    assert states(fine, fine.parent) == ["SUCCESS", "INCOMPLETE"]


def test_an_attempt_is_kept_once():
    waiting = needs.using(retries=1).delay("a")
    drain()
    waiting.revoke()
    assert PastAttempt.objects.filter(task=waiting).count() == 1
    provide("a")

    waiting.retry()
    ended(waiting)

    assert attempts(waiting) == [(1, "error"), (2, "success")]


def test_what_was_never_submitted_has_nothing_to_run_with():
    held = sums.using(submit=False).delay()
    held.revoke()

    with pytest.raises(NotAllowedHere, match=r"revoked before it was submitted: .*missing a required argument"):
        held.retry()

    assert states(held) == ["REVOKED"]


@pytest.mark.django_db(transaction=True)
def test_workers_hear_of_it_when_it_is_committed(monkeypatch):
    failed = row(table.Status.FAILURE, queue="mail")
    woken = []
    monkeypatch.setattr(notifier, "wake", woken.append)

    with transaction.atomic():
        failed.retry()
        assert woken == []

    assert woken == [{"mail"}]


@pytest.mark.django_db(transaction=True)
def test_rolled_back_it_never_was():
    failed = row(table.Status.FAILURE)
    before = image(failed.pk)

    with transaction.atomic():
        failed.retry()
        transaction.set_rollback(True)

    assert image(failed.pk) == before


def test_what_is_no_longer_stored_is_gone():
    gone = row(table.Status.FAILURE)
    Task.objects.filter(pk=gone.pk).delete()

    with pytest.raises(TaskGone):
        gone.retry()


@pytest.mark.django_db(transaction=True)
def test_it_can_be_awaited():
    failed = row(table.Status.LOST)

    assert async_to_sync(failed.aretry)() is True

    assert failed.status == "QUEUED"


def test_a_wide_tree_is_reopened_in_one_go(django_assert_max_num_queries):
    root = spawns.delay(500)
    drain(max_tasks=1)
    root.revoke()
    assert drain() == 0

    with django_assert_max_num_queries(20):
        assert root.retry() is True

    assert set(Task.objects.filter(parent=root).values_list("status", flat=True)) == {"QUEUED"}
