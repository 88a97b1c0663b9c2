"""Races of ends: the request is deleted before the look, never after. The same races show that the wrong order loses parents."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from uuid import UUID

import pytest

from cq import database, engine, failpoints, settle, sql
from cq.failpoints import failpoint as reach
from cq.models import SettleRequest, Task
from cq.outcome import Claimed
from cq.states import Status
from cq.testing import drain, failpoint
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import elsewhere, others, together
from tests.rows.make import held, process, row, status, subtask_of, succeeded

pytestmark = pytest.mark.django_db(transaction=True)

Settle = Callable[[Sequence[UUID]], object]


def look_first(ids: Sequence[UUID]) -> None:
    """Settle in the wrong order: look, then delete the requests."""
    with database.atomic():
        mine = [task_id for task_id, *_ in database.execute(sql.SETTLE_LOCK, list(ids))]
        reach("settle.taken")
        database.execute(sql.SETTLE_END, mine)
        reach("settle.looked")
        database.execute(sql.SETTLE_TAKE, mine, list(ids))


def family(children: int) -> tuple[Task, list[Claimed]]:
    """Make a parent whose subtasks run."""
    parent, process_id = row(Status.WAITING), process()
    return parent, [held(row(Status.RUNNING, parent=parent, process_id=process_id)) for _ in range(children)]


def end_and_settle(claimed: Claimed, settle_with: Settle) -> None:
    """Do what a worker does: write the end, then settle what was asked for."""
    engine.finish([succeeded(claimed)])
    if ids := settle.asked():
        settle_with(ids)


@contextmanager
def widened() -> Iterator[None]:
    """Take a little time between the steps of a settle, at random."""
    with failpoint("finish.swapped=sleep:0.5:4ms,settle.taken=sleep:0.5:4ms,settle.looked=sleep:0.5:4ms"):
        yield


def strand(rounds: int, settle_with: Settle) -> int:
    """Let the last two subtasks of many parents end at once; count the parents that nothing will ever end."""
    stranded = 0
    with others(2) as at_once:
        for _ in range(rounds):
            parent, last = family(2)
            at_once(*(partial(end_and_settle, claimed, settle_with) for claimed in last))
            settle.settle_all()
            stranded += status(parent) == Status.WAITING
    return stranded


def test_two_last_subtasks_that_end_at_once_end_their_parent() -> None:
    assert strand(200, settle.settle) == 0


def test_two_last_subtasks_that_end_at_once_end_their_parent_however_slow_the_settling_is() -> None:
    with widened():
        assert strand(60, settle.settle) == 0


def test_looking_first_would_strand_parents() -> None:
    with widened():
        assert any(strand(40, look_first) for _ in range(10))  # how often depends on the machine


def end_while_another_settles(settle_with: Settle, point: str) -> Task:
    """Let the last subtask end while a settle stands at a point; then let that go on, and look once more."""
    parent, (one, two) = family(2)
    engine.finish([succeeded(one)])
    with elsewhere() as other, pausing_at(point, lambda: other(end_and_settle, two, settle_with)):
        settle_with([parent.id])
    settle.settle_all()
    return parent


@contextmanager
def pausing_at(point: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something else when this thread first reaches a failpoint."""
    original = failpoints._reach
    done: list[str] = []

    def reached(name: str, failure: failpoints.Failure) -> None:
        if name == point and not done:
            done.append(name)
            act()

    failpoints._reach = reached
    try:
        with failpoint(f"{point}=sleep:0ms"):
            yield
    finally:
        failpoints._reach = original
    assert done


@pytest.mark.parametrize("point", ["settle.locked", "settle.taken", "settle.looked", "settle.before_commit"])
def test_an_end_at_any_point_of_a_settle_is_seen(point: str) -> None:
    parent = end_while_another_settles(settle.settle, point)

    assert status(parent) == Status.SUCCESS
    assert not SettleRequest.objects.exists()


def test_an_end_between_a_look_and_a_deletion_would_be_lost() -> None:
    parent = end_while_another_settles(look_first, "settle.looked")

    assert status(parent) == Status.WAITING
    assert not SettleRequest.objects.exists()


@pytest.mark.parametrize("point", ["settle.locked", "settle.taken", "settle.looked", "settle.before_commit"])
def test_a_chain_at_any_point_of_a_settle_is_released(point: str) -> None:
    first = row(Status.WAITING)
    SettleRequest.objects.create(task_id=first.id)

    with elsewhere() as web, pausing_at(point, lambda: web(first.chain, tasks.adds, (1,))):
        settle.settle_all()
    settle.settle_all()

    assert [task.status for task in first.next.all()] == [Status.QUEUED]
    assert not SettleRequest.objects.exists()


def test_a_parent_that_returns_while_its_subtask_ends_is_ended() -> None:
    """The subtask of a body starts at the commit that makes its parent wait: nothing can end in between."""
    process_id = process()
    for _ in range(30):
        parent = row(Status.RUNNING)
        claimed = held(parent)
        child = subtask_of(claimed)

        def run_child(process_id: UUID = process_id) -> None:
            while not (taken := make.take(process_id)):
                pass
            end_and_settle(taken[0], settle.settle)

        together(
            lambda claimed=claimed, child=child: (
                engine.finish([succeeded(claimed, 7, (child,))]),
                settle.settle_all(),
            ),
            run_child,
        )
        settle.settle_all()

        assert status(parent) == Status.SUCCESS


def test_a_sibling_added_while_the_others_end_is_waited_for() -> None:
    process_id = process()
    for _ in range(30):
        parent, (adder, other) = family(2)
        sibling = subtask_of(adder, parent_id=parent.id)

        together(
            lambda adder=adder, sibling=sibling: (
                engine.finish([succeeded(adder, 1, (sibling,))]),
                settle.settle_all(),
            ),
            lambda other=other: end_and_settle(other, settle.settle),
        )
        settle.settle_all()

        assert status(parent) == Status.WAITING
        end_and_settle(make.take(process_id)[0], settle.settle)
        assert status(parent) == Status.SUCCESS


def test_a_sibling_added_while_the_parent_is_revoked_does_not_stay_behind() -> None:
    for _ in range(30):
        parent, (adder,) = family(1)
        sibling = subtask_of(adder, parent_id=parent.id)

        together(
            lambda adder=adder, sibling=sibling: engine.finish([succeeded(adder, 1, (sibling,))]),
            lambda parent=parent: parent.revoke(),
        )
        settle.settle_all()

        assert status(parent) == Status.REVOKED
        assert not parent.subtasks.unfinished().exists()


def test_many_who_settle_at_once_do_it_once() -> None:
    parents = [family(1) for _ in range(20)]
    engine.finish([succeeded(claimed) for _, (claimed,) in parents])
    after = [row(Status.PENDING, previous=parent) for parent, _ in parents]

    settled = together(*[settle.settle_all] * 4)
    settle.settle_all()

    ended = [task_id for one in settled for task_id in one.ended]
    assert len(ended) == len(set(ended))
    assert {status(task) for task in after} == {Status.QUEUED}


def test_revokes_in_opposite_orders_do_not_deadlock() -> None:
    for _ in range(20):
        ids = [task.id for task in make.rows(20)]

        revoked = together(
            lambda ids=ids: engine.revoke(ids, reason=""), lambda ids=ids: engine.revoke(ids[::-1], reason="")
        )

        assert sorted(chain.from_iterable(revoked)) == ids


def test_a_tree_run_by_many_at_once_ends_once() -> None:
    root = tasks.spawns.delay(40)
    after = root.chain(tasks.adds, (1,))

    together(*[drain] * 4)
    drain()

    root.refresh_from_db()
    assert (root.status, root.subtasks.finished().count()) == (Status.SUCCESS, 40)
    assert status(after) == Status.SUCCESS
    assert set(Task.objects.values_list("attempt", flat=True)) == {1}
