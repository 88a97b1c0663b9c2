"""Guards, locks and orders that no other test would miss: each of these was seen to fail without the one it is about."""

import asyncio
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from psycopg import IsolationLevel

from cq import database, engine, executor, notifier, settle, sql, states, task, wire
from cq.exceptions import DuplicateSubmitError, Fenced
from cq.executor import Executed
from cq.ids import uuid7
from cq.models import Event, Process, Task, Worker
from cq.outcome import Outcome, given_back, suspended
from cq.states import Status
from cq.suspension import Wait
from cq.transactions import Block
from cq.worker.bodies import Bodies, Body
from cq.worker.options import WorkerOptions
from cq.worker.rounds import Rounds
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import DEADLINE, Elsewhere, elsewhere
from tests.rows.make import ago, held, process, row, status, statuses, subtask_of, succeeded, take

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def waits(doing: "Future[Any]") -> bool:
    """Say whether something waits for a lock, or gets done."""
    while not doing.done():
        with connection.cursor() as cursor:
            cursor.execute(WAITING)
            if cursor.fetchone()[0]:
                return True
    return False


def unhindered(session: Elsewhere, act: Callable[[], Any]) -> Any:
    """Do this in another session; it must not wait for anybody."""
    acting = session.begin(act)
    assert not waits(acting)
    return acting.result(DEADLINE)


def lock(task: Task) -> None:
    Task.objects.select_for_update().get(pk=task.pk)


def worker_of(process_id: UUID) -> UUID:
    return Process.objects.values_list("worker_id", flat=True).get(pk=process_id)


# Whoever moves many rows: two of them, what moves them, and where to.

Move = tuple[list[Task], Callable[[], object], Status]


def pair(status: Status, **columns: Any) -> list[Task]:
    return [row(status, **columns) for _ in range(2)]


def claim() -> Move:
    process_id = process()
    return pair(Status.QUEUED), lambda: take(process_id, 5), Status.RUNNING


def finish() -> Move:
    running = pair(Status.RUNNING)
    outcomes = [succeeded(held(task)) for task in running]
    return running, lambda: engine.finish(outcomes), Status.SUCCESS


def promote() -> Move:
    return pair(Status.SCHEDULED, run_after=ago(60)), engine.promote, Status.QUEUED


def rescue() -> Move:
    process_id = process()
    running = pair(Status.RUNNING, process_id=process_id)
    engine.end_process(process_id, [])
    return running, engine.rescue, Status.QUEUED


def hand_back() -> Move:
    process_id = process()
    running = pair(Status.RUNNING, process_id=process_id, started_at=ago(60))
    return running, lambda: engine.hand_back(process_id, [], before=time.monotonic() - 1), Status.QUEUED


def refuse() -> Move:
    unknown = pair(Status.QUEUED, name="nobody.knows", run_after=ago(10**6))
    return unknown, lambda: engine.refuse(["nobody.knows"]), Status.FAILURE


def end_parents() -> Move:
    parents = pair(Status.WAITING)
    return parents, lambda: settle.settle([task.id for task in parents]), Status.SUCCESS


def release() -> Move:
    first = row(Status.SUCCESS)
    return pair(Status.PENDING, previous=first), lambda: settle.settle([first.id]), Status.QUEUED


def resume() -> Move:
    waiting = pair(Status.SUSPENDED, awaits="go")
    Event.objects.bulk_create([Event(task=task, name="go", outcome="accepted") for task in waiting])
    return waiting, lambda: settle.settle([task.id for task in waiting]), Status.QUEUED


def suspend() -> Move:
    running = pair(Status.RUNNING)
    outcomes = [suspended(held(task), Wait("sleep", "#1", 60.0)) for task in running]
    return running, lambda: engine.finish(outcomes), Status.SUSPENDED


def revoke_subtasks() -> Move:
    root = row(Status.REVOKED)
    return pair(Status.QUEUED, parent=root), lambda: settle.settle([root.id]), Status.REVOKED


def revoke_successors() -> Move:
    first = row(Status.REVOKED)
    return pair(Status.PENDING, previous=first, created_at=ago(60)), lambda: settle.settle([first.id]), Status.REVOKED


def revoke() -> Move:
    queued = pair(Status.QUEUED)
    return queued, lambda: engine.revoke([task.id for task in queued], reason="By a test."), Status.REVOKED


# A person who revokes waits; everybody else goes on with other rows.
GO_ON = [
    claim,
    finish,
    promote,
    rescue,
    hand_back,
    refuse,
    end_parents,
    release,
    resume,
    suspend,
    revoke_subtasks,
    revoke_successors,
]


@pytest.mark.parametrize("move", GO_ON, ids=lambda move: move.__name__)
def test_a_row_that_somebody_has_locked_is_left_for_later_and_holds_up_no_other(move: Callable[[], Move]) -> None:
    (locked, free), act, target = move()
    before = locked.status
    with elsewhere() as mover, elsewhere() as outsider:
        outsider.open()
        outsider(lock, locked)

        unhindered(mover, act)

        assert statuses(locked, free) == [before, target]
    act()
    if move is revoke_successors:
        settle.settle_all()
    assert statuses(locked, free) == [target, target]


@pytest.mark.parametrize("move", [*GO_ON, revoke], ids=lambda move: move.__name__)
def test_a_row_that_somebody_is_just_chaining_onto_is_moved_at_once(move: Callable[[], Move]) -> None:
    (chained_onto, other), act, target = move()
    with elsewhere() as mover, elsewhere() as web:
        web.open()
        web(chained_onto.chain, tasks.adds, (1,))

        unhindered(mover, act)

        assert statuses(chained_onto, other) == [target, target]


@contextmanager
def reading_the_whole_table() -> Iterator[None]:
    """Let no index put rows in order: PostgreSQL finds them as they lie."""
    with transaction.atomic():
        database.execute("SET LOCAL enable_indexscan = off")
        database.execute("SET LOCAL enable_bitmapscan = off")
        yield


def test_the_best_is_claimed_first_however_it_is_found() -> None:
    low = row(priority=-5, run_after=ago(99))
    late, early = row(run_after=ago(1)), row(run_after=ago(9))
    high = row(priority=5)
    process_id = process()

    with reading_the_whole_table():
        taken = [take(process_id)[0].id for _ in range(4)]

    assert taken == [high.id, early.id, late.id, low.id]


def test_a_body_that_leaves_nothing_to_commit_hands_its_outcome_to_a_batch() -> None:
    task = tasks.adds.delay(1)
    (claimed,) = take(process())

    executed = executor.execute(claimed)

    assert (executed.finished, status(task)) == (None, Status.RUNNING)
    assert executed.outcome is not None
    assert [moved.status for moved in engine.finish([executed.outcome]).moved] == [Status.SUCCESS]


@pytest.mark.parametrize("claim_name", ["nobody.knows", "os.system"])
def test_only_what_is_registered_runs_whatever_was_claimed(claim_name: str) -> None:
    tasks.adds.delay("exit 1")
    (claimed,) = take(process())
    forged = claimed._replace(name=claim_name)

    executed = executor.execute(forged)
    in_loop = asyncio.run(executor.aexecute(forged))

    for outcome in (executed.outcome, in_loop.outcome):
        assert outcome is not None
        assert (outcome.transition, outcome.exception) == (states.FAIL, "cq.exceptions.TaskNotRegistered")


@task
def copies(cqt: Any) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY auth_group (name) FROM STDIN") as copy:
        copy.write_row(["copied"])
    with elsewhere() as person:
        person(lambda: engine.revoke([cqt.id], reason="By a test."))


def test_work_that_django_does_not_see_is_undone_with_its_task_too() -> None:
    copies.delay()
    (claimed,) = take(process())

    assert executor.execute(claimed) == executor.Executed()

    assert not Group.objects.exists()


@task
def closes_underneath(cqt: Any) -> None:
    Group.objects.create(name="lost")
    connection.connection.close()


def test_a_body_that_closes_the_connection_under_djangos_feet_is_not_run_again() -> None:
    closes_underneath.delay()
    (claimed,) = take(process())

    executed = executor.execute(claimed)

    assert (executed.outcome.transition, executed.outcome.exception) == (states.FAIL, "cq.exceptions.TransactionBroken")


@task
def leaves_a_hook_that_raises(cqt: Any) -> None:
    transaction.on_commit(lambda: 1 / 0)


def test_a_body_whose_hook_raises_has_ended_and_what_follows_is_told() -> None:
    first = leaves_a_hook_that_raises.delay()
    first.chain(tasks.adds, (1,))
    (claimed,) = take(process())

    executed = executor.execute(claimed)

    assert executed.outcome is None
    assert [moved.status for moved in executed.finished.moved] == [Status.SUCCESS]
    assert executed.finished.asked == [first.id]


@pytest.mark.parametrize(("known", "refused"), [([make.ADDS], []), (["nobody.knows"], [make.ADDS])])
def test_a_name_that_a_worker_has_come_to_know_meanwhile_is_not_refused(known: list[str], refused: list[str]) -> None:
    process(names=known)
    row(run_after=ago(10**6))
    row(run_after=ago(10**6), name="not.asked.for")

    ended = engine.refuse([make.ADDS])

    assert [Task.objects.get(pk=task_id).name for task_id in ended] == refused


# The end of a body


def test_a_body_that_ends_its_own_transaction_waits_for_whoever_has_its_row() -> None:
    task = row(Status.RUNNING)
    with elsewhere() as worker, elsewhere() as outsider:
        outsider.open()
        outsider(lock, task)

        finishing = worker.begin(engine.finish_own, succeeded(held(task)))

        assert waits(finishing)
        outsider.commit()
        assert [moved.id for moved in finishing.result(DEADLINE).moved] == [task.id]


def test_a_body_that_ends_behind_a_revoke_in_flight_is_fenced() -> None:
    task = row(Status.RUNNING)
    with elsewhere() as worker, elsewhere() as person:
        person.open()
        person(lambda: engine.revoke([task.id], reason="By a test."))

        finishing = worker.begin(engine.finish_own, succeeded(held(task)))

        assert waits(finishing)
        person.commit()
        with pytest.raises(Fenced):
            finishing.result(DEADLINE)
    assert status(task) == Status.REVOKED


def test_a_revoke_behind_an_end_in_flight_stops_nothing() -> None:
    task = row(Status.RUNNING)
    with elsewhere() as person, elsewhere() as worker:
        worker.open()
        worker(engine.finish_own, succeeded(held(task), "done"))

        revoking = person.begin(lambda: engine.revoke([task.id], reason="By a test."))

        assert waits(revoking)
        worker.commit()
        assert revoking.result(DEADLINE) == []
    task.refresh_from_db()
    assert (task.status, task.result, task.reason) == (Status.SUCCESS, "done", None)


def test_what_a_body_made_is_not_inserted_when_it_was_revoked_meanwhile() -> None:
    task = row(Status.RUNNING)
    claimed = held(task)
    engine.revoke([task.id], reason="By a test.")

    engine.finish([succeeded(claimed, None, (subtask_of(claimed),))])

    assert not task.subtasks.exists()


def test_what_a_body_made_is_not_inserted_while_its_row_is_locked() -> None:
    task = row(Status.RUNNING)
    claimed = held(task)
    outcomes = [succeeded(claimed, None, (subtask_of(claimed),))]
    with elsewhere() as outsider:
        outsider.open()
        outsider(lock, task)

        engine.finish(outcomes)

        assert not task.subtasks.exists()
    engine.finish(outcomes)
    assert (status(task), task.subtasks.count()) == (Status.WAITING, 1)


def test_an_outcome_that_is_written_twice_because_nobody_heard_of_the_commit_is_written_once() -> None:
    task = row(Status.RUNNING)
    claimed = held(task)
    outcomes = [succeeded(claimed, None, (subtask_of(claimed),))]
    engine.finish(outcomes)
    settle.settle_all()
    before = make.image(task.id)

    assert engine.finish(outcomes).moved == []

    assert make.image(task.id) == before
    assert task.subtasks.count() == 1


def returned_nothing(task: Task) -> Outcome:
    return succeeded(held(task))


def gave_back(task: Task) -> Outcome:
    return given_back(held(task))


@pytest.mark.parametrize(
    ("finish", "others"),
    [(sql.FINISH, [gave_back]), (sql.FINISH_LONE, []), (sql.FINISH_LONES, [returned_nothing])],
    ids=["one of many", "a lone one", "one of many lone ones"],
)
def test_a_chain_that_was_settled_just_before_the_swap_is_seen_by_the_end(
    finish: str, others: list[Callable[[Task], Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = row(Status.RUNNING)
    send = wire.RoundTrip.send
    with elsewhere() as web:

        def pausing(trip: wire.RoundTrip, statement: str, *parameters: Any) -> Any:
            if statement == finish:
                trip.arrive()
                web(first.chain, tasks.adds, (1,))
                web(settle.settle_all)
            return send(trip, statement, *parameters)

        monkeypatch.setattr(wire.RoundTrip, "send", pausing)
        engine.finish([succeeded(held(first)), *(end(row(Status.RUNNING)) for end in others)])
    settle.settle_all()

    assert status(first.next.get()) == Status.QUEUED


def test_what_a_body_chained_onto_itself_is_released_by_its_end() -> None:
    task = row(Status.RUNNING)
    claimed = held(task)
    after = subtask_of(claimed, parent_id=None, previous_id=task.id)

    finished = engine.finish([succeeded(claimed, None, (after,))])

    assert (finished.asked, finished.queues) == ([], {"default"})
    assert status(after.id) == Status.QUEUED


@pytest.mark.parametrize("is_link", [False, True], ids=["of a lone task", "of a link of a chain"])
def test_a_chain_that_a_body_cannot_see_in_its_snapshot_is_released(is_link: bool) -> None:
    first = row(Status.RUNNING, previous=row(Status.SUCCESS) if is_link else None)
    with elsewhere() as web, transaction.atomic():
        database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert Task.objects.exists()
        web(first.chain, tasks.adds, (1,))
        web(settle.settle_all)

        engine.finish_own(succeeded(held(first)))

    settle.settle_all()
    assert status(first.next.get()) == Status.QUEUED


# Projects whose connections are REPEATABLE READ by default


@pytest.fixture
def repeatable_read() -> Iterator[None]:
    connection.ensure_connection()
    connection.connection.isolation_level = IsolationLevel.REPEATABLE_READ
    database.execute("SET default_transaction_isolation = 'repeatable read'")
    yield
    connection.close()


def raise_priority(task: Task) -> None:
    Task.objects.filter(pk=task.pk).update(priority=7)


@pytest.mark.usefixtures("repeatable_read")
def test_settling_takes_rows_that_have_changed_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    after = row(Status.PENDING, previous=row(Status.SUCCESS))
    with elsewhere() as other:
        monkeypatch.setattr(settle, "failpoint", lambda name: name == "settle.taken" and other(raise_priority, after))

        settle.settle([after.previous_id])

    assert status(after) == Status.QUEUED


@pytest.mark.usefixtures("repeatable_read")
def test_claiming_takes_rows_that_have_changed_since_the_exchange_began(monkeypatch: pytest.MonkeyPatch) -> None:
    running, ready = row(Status.RUNNING), row()
    send = wire.RoundTrip.send
    with elsewhere() as other:

        def pausing(trip: wire.RoundTrip, statement: str, *parameters: Any) -> Any:
            if statement == sql.CLAIM:
                trip.arrive()
                other(raise_priority, ready)
            return send(trip, statement, *parameters)

        monkeypatch.setattr(wire.RoundTrip, "send", pausing)
        wish = engine.Wish(process(), {"default": 1}, [make.ADDS])

        finished, claimed, *_ = engine.exchange([succeeded(held(running))], wish)

    assert [moved.id for moved in finished.moved] == [running.id]
    assert [task.id for task in claimed] == [ready.id]


# The register


def test_the_end_of_a_process_waits_for_its_claim_in_flight() -> None:
    task = row()
    process_id = process()
    with elsewhere() as keeper, elsewhere() as child:
        child.open()
        child(take, process_id)

        ending = keeper.begin(engine.end_process, process_id, [])

        assert waits(ending)
        child.commit()
        ending.result(DEADLINE)
    engine.rescue()
    assert status(task) == Status.QUEUED


def test_a_claim_in_flight_holds_up_no_sign_of_life() -> None:
    row()
    process_id = process()
    worker_id = worker_of(process_id)
    with elsewhere() as keeper, elsewhere() as child:
        child.open()
        child(take, process_id)

        assert unhindered(keeper, lambda: engine.heartbeat(worker_id)) is True


def test_rescuers_do_not_wait_for_each_other() -> None:
    engine.end_process(process(), [])
    with elsewhere() as other, elsewhere() as first:
        first.open()
        first(engine.rescue)

        assert unhindered(other, engine.rescue) == []


def test_a_worker_that_is_just_leaving_holds_up_no_rescuer() -> None:
    process_id = process()
    make.let_lease_run_out(process_id)
    with elsewhere() as rescuer, elsewhere() as leaving:
        leaving.open()
        leaving(engine.leave, worker_of(process_id))

        assert unhindered(rescuer, engine.rescue) == []


@pytest.mark.parametrize("who", ["leaves", "claims"])
def test_whoever_locks_a_worker_and_its_process_locks_the_worker_first(who: str) -> None:
    """As the rescuer does who declares both dead: so the two cannot wait for each other."""
    row()
    process_id = process()
    worker_id = worker_of(process_id)
    with elsewhere() as worker, elsewhere() as rescuer:
        rescuer.open()
        rescuer(lambda: Worker.objects.select_for_update().get(pk=worker_id))

        acting = worker.begin(engine.leave, worker_id) if who == "leaves" else worker.begin(take, process_id)

        assert waits(acting)
        with transaction.atomic():
            assert Process.objects.select_for_update(nowait=True).get(pk=process_id)


def test_a_worker_that_leaves_does_not_clear_a_process_that_had_died_before() -> None:
    task = row(Status.RUNNING)
    engine.end_process(task.process_id, [task.id])
    engine.leave(worker_of(task.process_id))

    engine.rescue()

    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.RETRY, 1)


# Settling and revoking


def test_a_revoke_of_many_locks_in_id_order_however_it_finds_them() -> None:
    ids = [uuid7() for _ in range(4)]
    made = {task_id: row(id=task_id) for task_id in reversed(ids)}

    def revoke_all() -> list[UUID]:
        with reading_the_whole_table():
            return engine.revoke(ids, reason="By a test.")

    with elsewhere() as person, elsewhere() as outsider:
        outsider.open()
        outsider(lock, made[ids[0]])
        revoking = person.begin(revoke_all)

        assert waits(revoking)
        with transaction.atomic():
            free = Task.objects.select_for_update(skip_locked=True).values_list("id", flat=True)
            assert sorted(free) == ids[1:]
        outsider.commit()
        assert sorted(revoking.result(DEADLINE)) == ids


def test_thousands_of_successors_are_revoked_not_skipped() -> None:
    first = row(Status.QUEUED)
    make.many(1200, Status.PENDING, previous_id=first.id)
    engine.revoke([first.id], reason="By a test.")

    settle.settle_all()

    assert Task.objects.filter(status=Status.REVOKED).count() == 1201


def test_a_parent_ends_when_the_last_of_a_revoked_chain_is_stopped() -> None:
    parent = row(Status.WAITING)
    first = row(Status.RUNNING, parent=parent)
    after = row(Status.PENDING, parent=parent, previous=first)
    engine.revoke([first.id], reason="By a test.")
    settle.settle([parent.id])

    settle.settle_all()

    assert statuses(after, parent) == [Status.REVOKED, Status.INCOMPLETE]


def test_what_is_held_back_by_its_predecessor_cannot_be_submitted() -> None:
    task = row(Status.PENDING, previous=row(Status.RUNNING))

    with pytest.raises(DuplicateSubmitError):
        engine.submit(task.id, "[]")

    assert status(task) == Status.PENDING


def test_a_task_that_has_a_parent_is_not_adopted() -> None:
    other = row(Status.WAITING)
    task, maker = row(parent=other), row(Status.RUNNING)

    assert engine.adopt(maker.id, [task.id]) == set()

    task.refresh_from_db()
    assert task.parent_id == other.id


# Halves


@contextmanager
def breaking_at(statement: str) -> Iterator[None]:
    """Let this statement fail."""

    def execute(do: Callable[..., Any], text: str, *rest: Any) -> Any:
        if text == statement:
            raise InterruptedError
        return do(text, *rest)

    with connection.execute_wrapper(execute), pytest.raises(InterruptedError):
        yield


def test_a_revoke_that_breaks_off_stops_nothing() -> None:
    task = row()

    with breaking_at(sql.ASK):
        engine.revoke([task.id], reason="By a test.")

    assert status(task) == Status.QUEUED


def test_a_refusal_that_breaks_off_refuses_nothing() -> None:
    task = row(name="nobody.knows", run_after=ago(10**6))

    with breaking_at(sql.ASK):
        engine.refuse(engine.unknown_names())

    assert status(task) == Status.QUEUED


def test_a_worker_that_dies_while_leaving_is_still_on_the_register() -> None:
    worker_id = worker_of(process())

    with breaking_at(sql.END_PROCESSES):
        engine.leave(worker_id)

    assert Worker.objects.filter(pk=worker_id).exists()


# Hints

HELD_BACK = {
    "delay": lambda: tasks.adds.delay(1),
    "chain": lambda: row(Status.SUCCESS).chain(tasks.adds, (1,)),
    "submit": lambda: Task.objects.get(status=Status.PENDING).submit(),
    "revoke": lambda: Task.objects.get(status=Status.PENDING).revoke(),
}


@pytest.mark.parametrize("call", HELD_BACK)
def test_nobody_hears_of_what_is_not_committed(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.adds.using(submit=False).delay(1)
    heard: list[set[str]] = []
    monkeypatch.setattr(notifier, "wake", lambda queues: heard.append(set(queues)))

    with transaction.atomic():
        HELD_BACK[call]()
        assert heard == []

    assert heard == [set() if call == "revoke" else {"default"}]


# The engine thread of a child


def rounds_with(outcome: Outcome) -> Rounds:
    """Make an engine thread, not started, to which a body has handed its outcome."""
    rounds = Rounds(process(), WorkerOptions())
    rounds.bodies = Mock(Bodies, room=0, is_idle=True, marks=Mock())
    rounds.bodies.known.return_value = []
    rounds.bodies.too_old.return_value = None
    rounds.put(Body(outcome.task, False, 7, Executed(outcome)))
    return rounds


def test_an_outcome_whose_row_is_locked_is_kept_for_another_round() -> None:
    task = row(Status.RUNNING)
    rounds = rounds_with(succeeded(held(task), "done"))
    with elsewhere() as outsider:
        outsider.open()
        outsider(lock, task)

        rounds._round()

        assert status(task) == Status.RUNNING
        rounds.bodies.marks.end.assert_not_called()
    rounds._round()
    task.refresh_from_db()
    assert (task.status, task.result) == (Status.SUCCESS, "done")
    rounds.bodies.marks.end.assert_called_once_with(7)
    assert rounds._unwritten == []


def test_a_claim_of_which_the_process_has_not_heard_is_given_back() -> None:
    task = row(Status.RUNNING)
    rounds = rounds_with(succeeded(held(task)))
    unheard = row(Status.RUNNING, process_id=rounds.process_id, started_at=ago(60))
    rounds._reconcile_at = 0.0

    rounds._round()

    assert statuses(task, unheard) == [Status.SUCCESS, Status.QUEUED]


def test_an_outcome_that_was_overtaken_is_not_kept() -> None:
    task = row(Status.RUNNING)
    rounds = rounds_with(succeeded(held(task, claims=task.claims - 1)))

    rounds._round()

    assert (rounds._unwritten, rounds.counts["fenced"], status(task)) == ([], 1, Status.RUNNING)


@task
def says_whether_it_is_in_a_transaction(cqt: Any) -> bool:
    return transaction.get_connection().in_atomic_block


says_it_outside = task("tests.rows.says_it_outside", atomic=False)(says_whether_it_is_in_a_transaction.definition.func)


@pytest.mark.django_db(transaction=True)
def test_a_body_that_commits_as_it_goes_does_not_run_in_the_block_that_another_has_left_open() -> None:
    block = Block(is_kept=True)
    ran = []
    for func in (says_whether_it_is_in_a_transaction, says_it_outside):
        func.delay()
        (claimed,) = take(process())
        ran.append((executor.execute(claimed, block=block).outcome.result, block.is_open))

    assert ran == [("true", True), ("false", False)]


@task
def counts_tasks(cqt: Any) -> int:
    return Task.objects.count()


counts_outside = task("tests.rows.counts_outside", atomic=False)(counts_tasks.definition.func)


def execute_there(there: Elsewhere, func: Any, block: Block) -> Executed:
    """Run it in the thread that this block is of."""
    func.delay()
    (claimed,) = take(process())
    return there(executor.execute, claimed, block=block)


def end_connection(there: Elsewhere) -> None:
    """Have PostgreSQL end that thread's connection."""
    pid = there(lambda: connection.connection.info.backend_pid)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


@pytest.mark.parametrize("func", [counts_tasks, counts_outside], ids=["atomic", "loose"])
@pytest.mark.parametrize("first", [counts_tasks, says_whether_it_is_in_a_transaction], ids=["used", "left open"])
def test_a_body_does_not_fail_for_a_connection_that_was_lost_before_it(first: Any, func: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("cq.transactions._LOOK_EVERY", 0.0)
    block = Block(is_kept=True)
    with elsewhere() as there:
        execute_there(there, first, block)
        end_connection(there)

        executed = execute_there(there, func, block)

    assert executed.outcome is None or executed.outcome.transition is states.SUCCEED, executed


def test_a_connection_that_is_the_callers_is_left_to_him() -> None:
    block = Block()
    with elsewhere() as there:
        there(database.execute, "SELECT 1")
        end_connection(there)
        before = there(lambda: connection.connection)

        there(block.renew)

        assert there(lambda: connection.connection) is before


def test_what_else_comes_over_a_connection_is_no_sign_that_it_was_lost() -> None:
    with elsewhere() as there:
        there(database.execute, "LISTEN said")
        database.execute("NOTIFY said")
        there(select.select, [there(lambda: connection.connection.fileno())], [], [], DEADLINE)

        assert not there(database.is_lost)
        assert there(database.execute, "SELECT 1") == [(1,)]


def test_bodies_that_follow_each_other_closely_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(database, "is_lost", lambda: looks.append(1))
    block = Block(is_kept=True)

    began = time.monotonic()
    for _ in range(100):
        block.renew()

    assert len(looks) <= 1 + (time.monotonic() - began) / 0.1
