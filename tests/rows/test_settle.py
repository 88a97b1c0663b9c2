"""Settling: what the end of a task means for its neighbours, whoever looks, whenever, however often."""

from functools import partial
from itertools import permutations

import pytest
from django.db.models.functions import Now

from cq import engine, settle, states
from cq.models import SettleRequest, Task
from cq.states import Status
from cq.testing import failpoint
from tests.rows import make
from tests.rows.elsewhere import elsewhere
from tests.rows.make import image, row, status, statuses

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def ask(*tasks: Task) -> None:
    SettleRequest.objects.bulk_create([SettleRequest(task_id=task.id) for task in tasks])


@pytest.mark.parametrize("ends", [(), *sorted(states.TERMINAL)], ids=str)
def test_a_parent_ends_by_how_its_subtasks_ended(ends) -> None:
    parent = row(Status.WAITING)
    row(Status.SUCCESS, parent=parent)
    if ends:
        row(ends, parent=parent)

    settled = settle.settle([parent.id])

    assert settled.ended == [parent.id]
    assert status(parent) == (Status.SUCCESS if ends in ((), Status.SUCCESS) else Status.INCOMPLETE)


@pytest.mark.parametrize("unfinished", sorted(states.UNFINISHED))
@pytest.mark.parametrize("other", [Status.SUCCESS, Status.FAILURE])
def test_a_parent_does_not_end_before_all_its_subtasks_have(unfinished: Status, other: Status) -> None:
    parent = row(Status.WAITING)
    row(other, parent=parent)
    row(unfinished, parent=parent)
    before = image(parent.id)

    settle.settle([parent.id])

    assert image(parent.id) == before


def test_an_incomplete_parent_says_why_and_keeps_its_result() -> None:
    parent = row(Status.WAITING, result={"kept": 1})
    row(Status.FAILURE, parent=parent)

    settle.settle([parent.id])

    parent.refresh_from_db()
    assert (parent.result, parent.reason) == ({"kept": 1}, "Not all of its subtasks succeeded.")


def test_a_parent_takes_the_result_of_the_task_it_handed_on_to() -> None:
    parent = row(Status.WAITING)
    returned = row(Status.SUCCESS, parent=parent, result=(1, 2))
    Task.objects.filter(pk=parent.pk).update(result_of=returned)

    settle.settle([parent.id])

    parent.refresh_from_db()
    assert parent.result == (1, 2)


def test_ends_climb_up_to_the_root_and_on_to_successors() -> None:
    root = row(Status.WAITING)
    middle = row(Status.WAITING, parent=root)
    row(Status.SUCCESS, parent=middle)
    after = row(Status.PENDING, previous=root)
    ask(middle)

    settled = settle.settle_all()

    assert statuses(root, middle, after) == [Status.SUCCESS, Status.SUCCESS, Status.QUEUED]
    assert settled.queues == {"default"}
    assert not SettleRequest.objects.exists()


def test_a_skip_runs_down_a_chain_and_ends_the_parent_above_it() -> None:
    parent = row(Status.WAITING)
    first = row(Status.FAILURE, parent=parent)
    second = row(Status.PENDING, parent=parent, previous=first)
    third = row(Status.PENDING, parent=parent, previous=second)
    forced = row(Status.PENDING, parent=parent, previous=third, force_chain=True)
    ask(first)

    settle.settle_all()

    assert statuses(second, third, forced) == [Status.SKIPPED, Status.SKIPPED, Status.QUEUED]
    assert status(parent) == Status.WAITING
    Task.objects.filter(pk=forced.pk).update(status=Status.SUCCESS, finished_at=Now())
    ask(parent)
    settle.settle_all()
    assert status(parent) == Status.INCOMPLETE


def test_a_skipped_task_says_why() -> None:
    task = row(Status.PENDING, previous=row(Status.LOST))

    settle.settle([task.previous_id])

    task.refresh_from_db()
    assert task.reason == "Its predecessor did not succeed."
    assert task.finished_at is not None


def test_a_revoke_goes_down_and_along_to_the_last_leaf() -> None:
    root = row(Status.RUNNING)
    engine.revoke([root.id], reason="By a test.")
    made = [row(Status.WAITING, parent=root), row(Status.RUNNING, parent=root), row(Status.SCHEDULED, parent=root)]
    made += [row(Status.PENDING, previous=made[0], parent=root, created_at=make.ago(9), force_chain=True)]
    made += [row(Status.QUEUED, parent=made[0]), row(Status.PENDING, previous=root, created_at=make.ago(9))]
    done = row(Status.SUCCESS, parent=made[0])
    ask(root)

    settled = settle.settle_all()

    assert statuses(*made) == [Status.REVOKED] * 6
    assert status(done) == Status.SUCCESS
    assert set(settled.ended) == {task.id for task in made}
    assert not SettleRequest.objects.exists()


def test_a_sibling_made_under_a_parent_that_was_revoked_is_revoked() -> None:
    parent = row(Status.REVOKED)
    adder = row(Status.RUNNING, parent=parent)
    claimed = make.held(adder)
    sibling, own = make.subtask_of(claimed, parent_id=parent.id), make.subtask_of(claimed)

    engine.finish([make.succeeded(claimed, None, (sibling, own))])
    settle.settle_all()

    assert [status(task_id) for task_id in (sibling.id, own.id, adder.id)] == [Status.REVOKED] * 3


def test_a_revoke_of_thousands_goes_down_in_rounds() -> None:
    root = row(Status.WAITING)
    make.many(2300, Status.QUEUED, parent_id=root.id)
    engine.revoke([root.id], reason="By a test.")

    settle.settle_all()

    assert Task.objects.filter(status=Status.REVOKED).count() == 2301


def test_thousands_of_successors_are_released_in_rounds() -> None:
    first = row(Status.SUCCESS)
    make.many(5200, Status.PENDING, previous_id=first.id)
    ask(first)

    settle.settle_all()

    assert Task.objects.filter(status=Status.QUEUED).count() == 5200


def test_a_successor_made_after_the_revoke_is_skipped_not_revoked() -> None:
    first = row(Status.REVOKED, finished_at=make.ago(60))
    task = row(Status.PENDING, previous=first, force_chain=True)

    settle.settle([first.id])

    assert status(task) == Status.SKIPPED


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_order_of_settling_makes_no_difference(order: tuple[int, ...]) -> None:
    root = row(Status.WAITING)
    middle = row(Status.WAITING, parent=root)
    leaf = row(Status.SUCCESS, parent=middle)
    task = row(Status.PENDING, previous=leaf, parent=middle, force_chain=True)
    Task.objects.filter(pk=task.pk).update(status=Status.FAILURE, finished_at=Now())
    nodes = [root, middle, leaf]

    for index in order:
        settle.settle([nodes[index].id])
    settle.settle_all()

    assert statuses(root, middle) == [Status.INCOMPLETE, Status.INCOMPLETE]


def test_settling_what_needs_none_changes_nothing() -> None:
    tasks = [row(status) for status in Status]
    before = [image(task.id) for task in tasks]
    Task.objects.filter(pk=next(t.pk for t in tasks if t.status == Status.WAITING)).delete()
    tasks = [task for task in tasks if task.status != Status.WAITING]
    before = [image(task.id) for task in tasks]

    for _ in range(2):
        settled = settle.settle([task.id for task in tasks])

    assert (settled.ended, settled.queues) == ([], {"default"})  # that of the ready one, see below
    assert [image(task.id) for task in tasks] == before


def test_requests_for_tasks_that_are_gone_are_cleared_away() -> None:
    SettleRequest.objects.create(task_id=make.uuid4())

    settle.settle_all()

    assert not SettleRequest.objects.exists()


def test_a_pile_of_requests_hides_no_other() -> None:
    parent, other = row(Status.WAITING), row(Status.WAITING)
    row(Status.QUEUED, parent=parent)
    ask(*[parent] * 1000, other)

    settle.settle_all()

    assert status(other) == Status.SUCCESS
    assert not SettleRequest.objects.exists()


def test_more_tasks_than_a_batch_are_all_settled() -> None:
    parents = make.rows(settle.BATCH * 2 + 1, status=Status.WAITING)
    ask(*parents)

    settle.settle_all()

    assert Task.objects.filter(status=Status.SUCCESS).count() == len(parents)


@committed
def test_a_parent_that_somebody_has_locked_keeps_its_request_and_holds_up_nobody() -> None:
    locked, free = row(Status.WAITING), row(Status.WAITING)
    ask(locked, free)
    with elsewhere() as outsider:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=locked.pk))

        settle.settle_all()

        assert statuses(locked, free) == [Status.WAITING, Status.SUCCESS]
    settle.settle_all()
    assert status(locked) == Status.SUCCESS


@committed
def test_a_successor_that_somebody_has_locked_is_asked_for_again() -> None:
    first = row(Status.SUCCESS)
    locked, free = (row(Status.PENDING, previous=first) for _ in range(2))
    ask(first)
    with elsewhere() as outsider:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=locked.pk))

        settle.settle_all()

        assert statuses(locked, free) == [Status.PENDING, Status.QUEUED]
        assert SettleRequest.objects.filter(task_id=first.id).exists()
    settle.settle_all()
    assert status(locked) == Status.QUEUED
    assert not SettleRequest.objects.exists()


@committed
def test_a_subtask_that_somebody_has_locked_is_revoked_later() -> None:
    root = row(Status.WAITING)
    locked, free = (row(Status.QUEUED, parent=root) for _ in range(2))
    engine.revoke([root.id], reason="By a test.")
    with elsewhere() as outsider:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=locked.pk))

        settle.settle_all()

        assert statuses(locked, free) == [Status.QUEUED, Status.REVOKED]
    settle.settle_all()
    assert status(locked) == Status.REVOKED
    assert not SettleRequest.objects.exists()


@committed
@pytest.mark.parametrize("point", ["locked", "taken", "looked", "before_commit"])
def test_a_settle_that_dies_anywhere_is_done_by_another(point: str) -> None:
    parent = row(Status.WAITING)
    row(Status.SUCCESS, parent=parent)
    after = row(Status.PENDING, previous=parent)
    ask(parent)

    with failpoint(f"settle.{point}=raise"), pytest.raises(Exception, match=f"settle.{point}"):
        settle.settle_all()
    assert statuses(parent, after) == [Status.WAITING, Status.PENDING]
    settle.settle_all()

    assert statuses(parent, after) == [Status.SUCCESS, Status.QUEUED]


@committed
def test_a_queue_is_looked_at_again_whose_task_a_claim_passed_over_meanwhile(monkeypatch) -> None:
    ready = row(Status.QUEUED, queue="mail")
    ask(ready)
    claim = partial(make.take, make.process(), queue="mail")
    with elsewhere() as worker:
        seen = []
        monkeypatch.setattr(settle, "failpoint", lambda name: name == "settle.looked" and seen.extend(worker(claim)))

        settled = settle.settle_all()

        assert (seen, settled.queues) == ([], {"mail"})
        assert [task.id for task in worker(claim)] == [ready.id]
