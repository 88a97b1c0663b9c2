"""How a parent judges its subtasks: `fail_fast`, `ignore_failures`, and what undoes those that had succeeded."""

from __future__ import annotations

from typing import Any

import pytest

from cq import chain, engine, group, settle, task
from cq.exceptions import InvalidOption, NotAllowedHere
from cq.models import Lingering, SettleRequest, Task
from cq.states import Status
from cq.testing import drain
from tests.api.run import ended, states
from tests.rows import make
from tests.rows.elsewhere import elsewhere
from tests.tasks import adds, collects, doubles, raises, spawns_failing

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


@task(fail_fast=True)
def hurries(cqt: Any, *numbers: int) -> None:
    for number in numbers:
        cqt.subtask(adds, (number,)) if number else cqt.subtask(raises)


@task(ignore_failures=True)
def shrugs(cqt: Any, *numbers: int) -> None:
    hurries.definition.func(cqt, *numbers)


@task
def parents(cqt: Any, *numbers: int) -> None:
    hurries.definition.func(cqt, *numbers)


@task(queue="undo", retries=1, backoff=0)
def refund(cqt: Any, task_id: Any, result: Any) -> list[Any]:
    return [task_id, result]


@task(compensate=refund)
def books(cqt: Any, what: str) -> str:
    return f"booked {what}"


@task(compensate=refund.using(priority=9))
def books_below(cqt: Any, what: str) -> Task:
    return cqt.subtask(group(adds.s(1), adds.s(2)))


@task
def travels(cqt: Any, fails: bool = True) -> None:
    cqt.subtask(books, ("flight",)).chain(books, ("hotel",)).chain(books_below, ("car",))
    cqt.subtask(adds, (1,))
    if fails:
        cqt.subtask(raises)


@task
def travels_twice(cqt: Any) -> None:
    cqt.subtask(travels)
    cqt.subtask(travels, (False,))


@task(retries=0)
def fails_to_refund(cqt: Any, task_id: Any, result: Any) -> None:
    if cqt.attempt == 1:
        raise ValueError("bank closed")


@task(compensate=fails_to_refund)
def pays(cqt: Any) -> None: ...


@task
def pays_twice(cqt: Any) -> None:
    cqt.subtask(pays).chain(pays).chain(raises)


def below(parent: Task) -> list[str]:
    return [subtask.status for subtask in parent.subtasks.order_by("id")]


def test_the_first_failure_revokes_the_rest() -> None:
    parent = hurries.delay(1, 0, 2, 3)

    drain()

    parent.refresh_from_db()
    assert (parent.status, below(parent)) == ("INCOMPLETE", ["SUCCESS", "FAILURE", "REVOKED", "REVOKED"])
    assert parent.subtasks.last().reason == "Another subtask of its parent failed."
    assert not SettleRequest.objects.exists()


def test_without_it_the_rest_goes_on() -> None:
    parent = parents.delay(0, 2)

    assert ended(parent).status == "INCOMPLETE"
    assert below(parent) == ["FAILURE", "SUCCESS"]


def test_it_can_be_said_of_a_call_and_of_a_group() -> None:
    call = parents.using(fail_fast=True).delay(0, 2)
    whole = group(raises.s(), adds.s(1), group(adds.s(2), chain(adds.s(1), adds.s(3)))).using(fail_fast=True).delay()
    ignoring = group(raises.s(), adds.s(1)).using(ignore_failures=True).delay()

    drain()

    assert below(call) == ["FAILURE", "REVOKED"]
    assert below(whole) == ["FAILURE", "REVOKED", "REVOKED"]
    assert set(Task.objects.filter(parent__parent=whole).values_list("status", flat=True)) == {"REVOKED"}
    ignoring.refresh_from_db()
    assert (ignoring.status, ignoring.result[0].status, ignoring.result[1]) == ("SUCCESS", "FAILURE", 1)


@pytest.mark.parametrize("status", sorted(Status))
def test_any_end_but_success_stops_the_others(status: Status) -> None:
    parent = make.row(Status.WAITING, fail_fast=True)
    make.row(status, parent=parent)
    other = make.row(Status.SUSPENDED, parent=parent)

    settle.settle([parent.id])

    stops = status in (Status.FAILURE, Status.INCOMPLETE, Status.LOST, Status.EXPIRED, Status.REVOKED, Status.SKIPPED)
    assert make.statuses(other, parent) == (
        [Status.REVOKED, Status.INCOMPLETE] if stops else [Status.SUSPENDED, Status.WAITING]
    )


@pytest.mark.parametrize("status", [status for status in Status if status != Status.WAITING])
def test_nothing_is_stopped_below_a_parent_that_does_not_wait(status: Status) -> None:
    parent = make.row(status, fail_fast=True)
    make.row(Status.FAILURE, parent=parent)
    other = make.row(Status.SUSPENDED, parent=parent)

    settle.settle([parent.id])

    assert make.status(other) == (Status.REVOKED if status == Status.REVOKED else Status.SUSPENDED)


def test_thousands_are_stopped_in_bounded_rounds() -> None:
    parent = make.row(Status.WAITING, fail_fast=True)
    make.row(Status.FAILURE, parent=parent)
    make.many(2300, Status.QUEUED, parent_id=parent.id)

    assert len(settle.settle([parent.id]).ended) == 1000
    settle.settle_all()

    assert make.status(parent) == Status.INCOMPLETE
    assert parent.subtasks.filter(status="REVOKED").count() == 2300


@committed
def test_one_that_somebody_has_locked_is_stopped_by_a_later_look() -> None:
    parent = make.row(Status.WAITING, fail_fast=True)
    make.row(Status.FAILURE, parent=parent)
    held, free = make.row(Status.QUEUED, parent=parent), make.row(Status.QUEUED, parent=parent)
    with elsewhere() as other:
        other.open()
        other(lambda: list(Task.objects.select_for_update().filter(pk=held.pk)))

        settle.settle([parent.id])
        assert make.statuses(held, free, parent) == [Status.QUEUED, Status.REVOKED, Status.WAITING]
        settle.settle_all()
        other.rollback()
    settle.settle_all()

    assert make.statuses(held, parent) == [Status.REVOKED, Status.INCOMPLETE]


def test_a_running_body_that_was_stopped_cannot_finish() -> None:
    parent = make.row(Status.WAITING, fail_fast=True)
    make.row(Status.FAILURE, parent=parent)
    running = make.row(Status.RUNNING, parent=parent)

    settle.settle([parent.id])

    assert engine.finish([make.succeeded(make.held(running))]).moved == []
    running.refresh_from_db()
    assert (running.status, running.outcome, running.process_id) == ("REVOKED", "revoked", None)
    assert Lingering.objects.get().task_id == running.id


def test_failures_can_be_ignored() -> None:
    parent = shrugs.delay(0, 2)
    after = parent.chain(doubles, (4,))

    drain()

    assert states(parent, after) == ["SUCCESS", "SUCCESS"]
    assert below(parent) == ["FAILURE", "SUCCESS"]
    with pytest.raises(NotAllowedHere, match="ended in SUCCESS whatever became of its subtasks"):
        parent.subtasks.first().retry()


def test_what_had_succeeded_is_undone_last_one_first() -> None:
    parent = travels.delay()

    drain()

    parent.refresh_from_db()
    flight, hotel, car = Task.objects.filter(name__in=[books.name, books_below.name]).order_by("id")
    first = parent.next.get()
    second = first.next.get()
    third = second.next.get()
    assert parent.status == "INCOMPLETE"
    assert [first.result, second.result, third.result] == [
        [car.id, [1, 2]],
        [hotel.id, "booked hotel"],
        [flight.id, "booked flight"],
    ]
    assert (first.queue, first.priority, second.priority) == ("undo", 9, 0)
    assert {undoing.root for undoing in (first, second, third)} == {parent}
    assert not third.next.exists()
    assert not SettleRequest.objects.exists()


def test_nothing_is_undone_where_all_went_well() -> None:
    parent = travels.delay(False)

    assert ended(parent).status == "SUCCESS"
    assert not Task.objects.filter(name=refund.name).exists()


def test_only_what_is_right_below_is_undone() -> None:
    root = travels_twice.delay()

    drain()

    fine = root.subtasks.get(status="SUCCESS")
    undone = {undoing.args[0] for undoing in Task.objects.filter(name=refund.name)}
    assert len(undone) == 3
    assert not undone & set(fine.subtasks.values_list("id", flat=True))


def test_members_of_a_group_are_undone() -> None:
    whole = group(books.s("a"), chain(books.s("b"), raises.s().using(pass_result=False))).delay()

    drain()

    undoing = whole.next.get()
    assert {undoing.args[1], undoing.next.get().args[1]} == {"booked a", "booked b"}


def test_after_a_revoke_it_waits_for_all_below_to_end() -> None:
    parent = make.row(Status.WAITING)
    done = make.row(Status.SUCCESS, parent=parent, result="done", compensate=books.definition.compensate.template())
    engine.revoke([parent.id], reason="By a test.")
    running = make.row(Status.RUNNING, parent=parent)
    SettleRequest.objects.filter(task_id=parent.id).delete()
    Task.objects.filter(pk=running.pk).update(parent=parent)
    from cq import compensate

    compensate.make([parent.id])
    assert not Task.objects.filter(name=refund.name).exists()
    engine.revoke([running.id], reason="By a test.")
    settle.settle_all()

    undoing = Task.objects.get(name=refund.name)
    assert (undoing.status, undoing.args, undoing.previous, undoing.root) == ("QUEUED", (done.id, "done"), done, parent)


def test_a_revoked_saga_is_undone_and_the_revoke_does_not_stop_that() -> None:
    parent = travels.delay()
    drain(max_tasks=2)
    parent.revoke()

    drain()

    undoing = Task.objects.get(name=refund.name)
    assert (undoing.status, undoing.result[1]) == ("SUCCESS", "booked flight")
    assert {made.status for made in parent.subtasks.all()} == {"SUCCESS", "REVOKED"}


def test_a_revoke_of_what_has_failed_already_stops_its_undoing_with_all_that_comes_after_it() -> None:
    parent = make.row(Status.WAITING)
    for _ in range(2):
        make.row(Status.SUCCESS, parent=parent, compensate=books.definition.compensate.template())
    make.row(Status.FAILURE, parent=parent)
    settle.settle([parent.id])

    assert parent.revoke()

    assert parent.status == "INCOMPLETE"
    drain()
    assert [undoing.status for undoing in Task.objects.filter(name=refund.name)] == ["REVOKED"] * 2


@pytest.mark.parametrize("times", [1, 3])
def test_however_often_it_is_settled_it_is_undone_once(times: int) -> None:
    parent = travels.delay()
    drain()

    for _ in range(times):
        settle.settle([parent.id])

    assert Task.objects.filter(name=refund.name).count() == 3


def test_it_is_made_in_the_transaction_that_ends_the_parent(monkeypatch: Any) -> None:
    parent = make.row(Status.WAITING)
    make.row(Status.SUCCESS, parent=parent, compensate=books.definition.compensate.template())
    make.row(Status.FAILURE, parent=parent)

    settled = settle.settle([parent.id])

    undoing = parent.next.get()
    assert (undoing.status, settled.queues) == ("QUEUED", {"undo"})


def test_what_was_undone_cannot_be_reopened() -> None:
    root = travels_twice.delay()
    drain()
    saga = root.subtasks.get(status="INCOMPLETE")
    before = list(Task.objects.values_list("id", "status"))

    for refused in (root, saga, saga.subtasks.get(status="FAILURE")):
        with pytest.raises(NotAllowedHere, match="compensations of its subtasks were made"):
            refused.retry()

    assert list(Task.objects.values_list("id", "status")) == before


def test_a_compensation_that_failed_is_retried_and_the_next_ones_follow() -> None:
    parent = pays_twice.delay()
    drain()
    first = parent.next.get()
    second = first.next.get()
    assert states(first, second) == ["FAILURE", "SKIPPED"]

    assert first.retry()
    drain()
    assert states(first, second) == ["SUCCESS", "FAILURE"]
    assert second.retry()
    drain()

    assert states(parent, first, second) == ["INCOMPLETE", "SUCCESS", "SUCCESS"]


@pytest.mark.parametrize("nested", [1, 2])
def test_a_failing_compensation_changes_no_parent(nested: int) -> None:
    root = chain(group(pays_twice.s()), collects.s()).delay()

    drain()

    assert root.previous.subtasks.get(name=pays_twice.name).status == "INCOMPLETE"
    assert states(root, root.previous) == ["SKIPPED", "INCOMPLETE"]
    assert spawns_failing.delay(nested).status == "QUEUED"


@task(key=lambda task_id, result: "k")
def keyed(cqt: Any, task_id: Any, result: Any) -> None: ...


@task(unique="args")
def unique(cqt: Any, task_id: Any, result: Any) -> None: ...


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1, "expected None or a task function"),
        ("shop.refund", "expected None or a task function"),
        (lambda cqt, task_id, result: None, "Decorate it with @task, above this one"),
        (doubles, "it is passed a task's id and its result"),
        (keyed, "its key= is made from arguments"),
        (unique, "its unique= is made from arguments"),
        (refund.using(unique_key="k"), "unique_key= is not possible for a compensation"),
        (refund.using(submit=False), "stand alone"),
    ],
)
def test_what_cannot_undo_a_task_is_refused_at_decoration(value: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        task("tests.not_undone", compensate=value)(adds.definition.func)


@pytest.mark.parametrize("option", ["fail_fast", "ignore_failures"])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_other_values_are_refused(option: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=f"{option}=.*expected True or False"):
        task("tests.judges", **{option: value})(adds.definition.func)
    with pytest.raises(InvalidOption, match=f"{option}=.*expected True or False"):
        adds.using(**{option: value})


def test_compensations_belong_to_the_decorator() -> None:
    with pytest.raises(InvalidOption, match=r"write @task\(compensate=…\)"):
        adds.using(compensate=refund)
