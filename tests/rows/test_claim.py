"""Claiming: disjoint, in order, in turns, and only for the living."""

import random
from datetime import timedelta
from itertools import chain

import pytest
from django.db.models.functions import Now

from cq import engine, registry
from cq.models import Process, Task
from cq.states import Status
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import ago, process, row, take

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


@committed
def test_eight_racing_threads_never_take_the_same_task() -> None:
    made = tasks.adds.delay_many([(n,) for n in range(400)])
    processes = [process() for _ in range(8)]

    def take_all(process_id):
        taken = []
        while batch := take(process_id, random.randint(1, 10)):
            taken += [claimed.id for claimed in batch]
        return taken

    taken = together(*(lambda process_id=process_id: take_all(process_id) for process_id in processes))

    assert sorted(chain.from_iterable(taken)) == sorted(task.id for task in made)
    assert set(Task.objects.values_list("claims", "attempt", "status")) == {(1, 1, Status.RUNNING)}
    for process_id, ids in zip(processes, taken, strict=True):
        assert set(Task.objects.filter(process=process_id).values_list("id", flat=True)) == set(ids)


@committed
def test_a_claim_that_is_not_committed_hides_nothing_else() -> None:
    first, second = row(), row()
    with elsewhere() as other:
        other.open()
        others = other(lambda: take(process()))
        mine = take(process(), 5)
        other.rollback()

    assert [claimed.id for claimed in others] == [first.id]
    assert [claimed.id for claimed in mine] == [second.id]
    assert make.status(first) == Status.QUEUED


def test_the_best_is_taken_first() -> None:
    late = row(run_after=ago(1))
    early = row(run_after=ago(9))
    low = row(priority=-5, run_after=ago(99))
    high = row(priority=5)

    taken = [take(process_id)[0].id for process_id in [process()] for _ in range(4)]

    assert taken == [high.id, early.id, late.id, low.id]


def test_what_is_equally_good_is_taken_in_the_order_of_making() -> None:
    now = "2026-01-01T00:00:00Z"
    made = [row(run_after=now) for _ in range(5)]

    assert [claimed.id for claimed in take(process(), 5)] == [task.id for task in made]


def test_several_are_returned_in_the_order_in_which_they_are_to_start() -> None:
    late = row(run_after=ago(1))
    early = row(run_after=ago(9))
    low = row(priority=-5, run_after=ago(99))
    high = row(priority=5)

    assert [claimed.id for claimed in take(process(), 4)] == [high.id, early.id, late.id, low.id]


def test_each_queue_gives_its_share() -> None:
    process_id = process()
    for queue in "abc":
        make.rows(10, queue=queue, run_after=Now())

    taken = engine.claim(engine.Wish(process_id, {"a": 3, "b": 0, "c": 2}, registry.names()))

    assert sorted(claimed.queue for claimed in taken) == ["a"] * 3 + ["c"] * 2


def test_ready_queues_are_those_with_something_to_claim() -> None:
    row(queue="ready")
    row(queue="ready")
    row(queue="also-ready", priority=-100)
    row(queue="held", admitted=False)
    row(Status.SCHEDULED, queue="later")

    assert engine.ready_queues() == ["also-ready", "ready"]


def test_a_claim_notes_who_when_and_how_often() -> None:
    process_id = process()
    task = row(error="old", outcome="error", claims=7, attempt=3)

    (claimed,) = take(process_id)

    task.refresh_from_db()
    assert (claimed.claims, claimed.attempt) == (task.claims, task.attempt) == (8, 4)
    assert (task.process_id, task.worker, task.outcome, task.ended_at) == (process_id, "test/1", None, None)
    assert task.started_at > task.created_at
    assert task.error == "old"


@pytest.mark.parametrize(
    "columns",
    [{"name": "nobody.knows"}, {"admitted": False}, {"queue": "other"}, {"crashes": 1}],
    ids=lambda columns: next(iter(columns)),
)
def test_what_is_not_for_this_process_is_left(columns: dict[str, object]) -> None:
    row(**columns)

    assert take(process(), 5) == []


def test_suspects_are_taken_by_those_who_ask_for_them() -> None:
    innocent, suspect = row(), row(crashes=1)
    process_id = process()

    suspects = take(process_id, 5, suspects=True)
    others = take(process_id, 5)

    assert [claimed.id for claimed in suspects] == [suspect.id]
    assert [claimed.id for claimed in others] == [innocent.id]


def test_a_process_that_was_declared_dead_claims_nothing() -> None:
    row()
    process_id = process()
    engine.end_process(process_id, [])

    assert take(process_id) == []


def test_a_process_that_nobody_knows_claims_nothing() -> None:
    row()

    assert take(make.uuid4()) == []


def test_a_process_whose_workers_lease_is_over_claims_nothing() -> None:
    row()
    process_id = process()
    make.let_lease_run_out(process_id)

    assert take(process_id) == []


@committed
def test_a_claim_in_flight_is_seen_by_whoever_declares_its_process_dead() -> None:
    task = row()
    process_id = process()
    with elsewhere() as child, elsewhere() as keeper:
        child.open()
        child(take, process_id)
        ending = keeper.begin(engine.end_process, process_id, [task.id])
        child.commit()
        ending.result(10)

    engine.rescue()

    assert make.status(task) == Status.RETRY
    assert not Process.objects.filter(pk=process_id).exists()


@committed
def test_a_claim_in_flight_keeps_its_worker_from_being_declared_dead() -> None:
    process_id = process()
    task = row()
    with elsewhere() as child:
        child.open()
        child(take, process_id)
        with elsewhere() as clock:
            running_out = clock.begin(make.let_lease_run_out, process_id)
            running_out.result(10)

        engine.rescue()

        assert Process.objects.get(pk=process_id).ended_at is None
        child.commit()
    engine.rescue()
    assert make.status(task) == Status.RETRY


def test_what_is_due_is_promoted_and_the_rest_waits() -> None:
    due = [row(status, run_after=ago(1), queue=status) for status in make.states.DELAYED]
    later = row(Status.SCHEDULED, run_after=Now() + timedelta(hours=1))

    queues = engine.promote()

    assert queues == {str(status) for status in make.states.DELAYED}
    assert make.statuses(*due) == [Status.QUEUED] * 3
    assert make.status(later) == Status.SCHEDULED


@committed
def test_two_who_promote_share_the_work() -> None:
    make.many(1500, Status.SCHEDULED)

    together(engine.promote, engine.promote)

    assert Task.objects.filter(status=Status.QUEUED).count() == 1500


@committed
def test_a_row_that_an_outsider_has_locked_holds_up_no_other() -> None:
    locked, free = row(), row()
    with elsewhere() as outsider:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=locked.pk))

        taken = take(process(), 5)

    assert [claimed.id for claimed in taken] == [free.id]


@committed
def test_a_row_that_somebody_is_chaining_onto_can_be_claimed() -> None:
    task = row()
    with elsewhere() as web:
        web.open()
        web(task.chain, tasks.adds, (1,))

        taken = take(process(), 5)

    assert [claimed.id for claimed in taken] == [task.id]
