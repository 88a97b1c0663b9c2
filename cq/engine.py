"""One function per transition: each takes a list, sends guarded statements, and returns the rows that this writer moved.

Nothing here imports the model, decides about neighbours (that is `settle`), or sends a hint before its transaction commits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DataError

from cq import database, lingering, notifier, sql, states
from cq.conf import conf
from cq.exceptions import DuplicateSubmitError, Fenced, NotAllowedHere, TaskGone, TooLarge
from cq.failpoints import failpoint
from cq.new import NewTask
from cq.new import as_json as _as_json
from cq.outcome import Claimed, Count, Moved, Outcome
from cq.states import TERMINAL, Status
from cq.suspension import Wait
from cq.wire import Reply, RoundTrip

_SLICE = 1000


class Inserted(NamedTuple):
    """What the database decided about a new row. In the order of the inserting statements."""

    id: UUID
    status: Status
    run_after: datetime
    created_at: datetime
    parent_id: UUID | None = None
    workflow_id: UUID | None = None
    depth: int = 0
    finished_at: datetime | None = None
    reason: str | None = None


def enqueue(new: NewTask) -> Inserted:
    """Insert a task in the caller's transaction; workers hear of it when that commits."""
    if new.is_plain:
        own = (new.id, new.args, new.kwargs, *_place(new), new.result_ttl, *_extras(new))
        if not database.in_transaction():
            notifier.wake_early(new.queue)
        ((now,),) = database.execute(sql.ENQUEUE_ONE, *own)
        inserted = Inserted(new.id, Status.QUEUED, now, now)
    else:
        (row,) = database.execute(sql.ENQUEUE, *_alike(new, [(new.id, new.args, None)], new.kwargs))
        inserted = Inserted(new.id, *row)
    _wake_on_commit([new])
    return inserted


# What tells alike tasks from each other: id, positional arguments, and the key if they do not all have the same.
Row = tuple[UUID, str, str | None]


def enqueue_many(like: NewTask, rows: Iterable[Row], note: Callable[[Inserted, list[Row]], object]) -> None:
    """Insert tasks that are alike, all or none; note what the database decided about each slice of them.

    While it inserts one slice, the one before is noted and the next is taken from `rows`: both cores work. What is noted is not
    yet true.
    """
    remaining = iter(rows)
    with database.together() as statements:
        before: tuple[Reply, list[Row]] | None = None
        while part := list(islice(remaining, _SLICE)):
            reply = statements.send(sql.ENQUEUE, *_alike(like, part, like.kwargs))
            statements.push()
            if before:
                note(Inserted(like.id, *statements.take(before[0])[0]), before[1])
            before = reply, part
        if before:
            note(Inserted(like.id, *statements.take(before[0])[0]), before[1])
    _wake_on_commit([like])


def _place(new: NewTask) -> tuple[str, str, int]:
    return new.name, new.queue, new.priority


def _extras(new: NewTask) -> tuple[Any, ...]:
    return new.options and json.dumps(new.options), new.created_by, new.subject


def _has_extras(new: NewTask) -> bool:
    return new.options is not None or new.created_by is not None or new.subject is not None


def _rules(new: NewTask) -> tuple[Any, ...]:
    starts, seconds = (new.rate.starts, new.rate.seconds) if new.rate else (None, None)
    judges = new.fail_fast, new.ignore_failures, new.compensate and json.dumps(new.compensate)
    return (
        new.expires,
        new.at_most_once,
        new.unique_key,
        new.key,
        new.key_limit,
        starts,
        seconds,
        new.is_coroutine,
        *judges,
    )


def _alike(like: NewTask, rows: Sequence[Row], kwargs: str) -> tuple[Any, ...]:
    ids = _array([task_id.hex for task_id, _, _ in rows])
    args = f"[{','.join([text for _, text, _ in rows])}]"
    shared = (*_place(like), *_extras(like), like.result_ttl)
    keys = _texts([key for _, _, key in rows])
    return like.delay, like.run_after, *shared, like.held, *_rules(like), kwargs, ids, args, keys


def enqueue_next(new: Sequence[NewTask]) -> list[Inserted]:
    """Insert successors of stored tasks; `TaskGone` if a predecessor is no longer stored."""
    rows = _insert_behind_unfinished(new) or _insert(sql.ENQUEUE_NEXT, new)
    if len(rows) < len(new):
        missing = {task.id: task for task in new}.keys() - {row.id for row in rows}
        raise _gone([task for task in new if task.id in missing])
    _wake_on_commit(new)
    return rows


def check_stored(new: NewTask) -> None:
    """Refuse a successor whose predecessor is no longer stored."""
    if state(new.previous_id) is None:
        raise _gone([new])


def _gone(new: Sequence[NewTask]) -> TaskGone:
    before = ", ".join(str(task.previous_id) for task in new)
    return TaskGone(f"Task {before} is no longer stored, so nothing can follow it.")


def _insert_behind_unfinished(new: Sequence[NewTask]) -> list[Inserted]:
    if len(new) != 1 or new[0].has_rules:
        return []
    one = new[0]
    own = (one.id, one.args, one.kwargs, *_place(one), one.force_chain, one.pass_result, *_extras(one))
    rows = database.execute(sql.ENQUEUE_NEXT_ONE, one.previous_id, *own, one.delay, one.run_after)
    return [Inserted(one.id, Status.PENDING, due, now, None, workflow_id) for now, due, workflow_id in rows]


def enqueue_composed(new: Sequence[NewTask], carrier: UUID) -> Inserted:
    """Insert the rows of a composition, all or none; return what the database decided about the one that carries its result."""
    check_fanout(len(new))
    with database.together() as statements:
        replies = [
            statements.send(sql.ENQUEUE_COMPOSED, _as_json(part), [carrier]) for part in database.slices(new, _SLICE)
        ]
    _wake_on_commit([task for task in new if not task.is_group and task.errorback_of is None])
    (found,) = [Inserted(*row) for reply in replies for row in reply.rows()]
    return found


def keep_errorback(new: NewTask) -> None:
    """Keep what is to be called when a stored task fails; call it if it has. `TaskGone` if the task is no longer stored."""
    rows = database.execute(sql.KEEP_ERRORBACK, new.errorback_of, new.as_json())
    if not rows:
        raise TaskGone(f"Task {new.errorback_of} is no longer stored, so nothing can be called when it fails.")
    ((has_failed,),) = rows
    if has_failed:
        database.execute(sql.CALL_ERRORBACKS, new.errorback_of)
        _wake_on_commit([new])


def check_fanout(number: int) -> None:
    """Refuse more tasks at once than `MAX_FANOUT`."""
    limit = conf().MAX_FANOUT
    if number > limit:
        raise TooLarge(f"{number} tasks at once; CQ['MAX_FANOUT'] allows {limit}. Make them in several calls.")


def _insert(statement: str, new: Sequence[NewTask]) -> list[Inserted]:
    if len(new) <= _SLICE:
        return [Inserted(*row) for row in database.execute(statement, _as_json(new))]
    with database.atomic():
        return [row for part in database.slices(new, _SLICE) for row in _insert(statement, part)]


class _Wake:
    """What workers are told when a transaction has committed: once for all that was enqueued in a row, and perhaps taken back."""

    def __init__(self, queues: set[str]) -> None:
        self.queues = queues

    def __call__(self) -> None:
        notifier.wake(self.queues)


def _wake_on_commit(new: Sequence[NewTask]) -> None:
    queues = {task.queue for task in new}
    before = database.last_on_commit()
    if isinstance(before, _Wake):
        before.queues |= queues
    else:
        database.on_commit(_Wake(queues))


def adopt(parent_id: UUID, ids: Sequence[UUID]) -> set[UUID]:
    """Make tasks that a body enqueued in its own, still open transaction its subtasks; return those that are there."""
    return {task_id for (task_id,) in database.execute(sql.ADOPT, list(ids), parent_id)}


def ready_queues() -> list[str]:
    """Name the queues that have tasks to be claimed."""
    return [queue for (queue,) in database.execute(sql.READY_QUEUES, conf().paused_queues)]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a process would like to claim: so many tasks of each of these queues.

    `suspects` are tasks under which a process has died: they are claimed only by processes that run nothing else. `looks`: which
    queues have tasks left? `own_keys` are those that the process settles in any case: is any other to be settled?
    """

    process_id: UUID
    shares: Mapping[str, int]
    names: Sequence[str]
    suspects: bool = False
    looks: bool = False
    own_keys: Sequence[str] | None = None


def claim(wish: Wish) -> list[Claimed]:
    """Take ready tasks for a process, the best of each queue; none if the process was declared dead."""
    return exchange([], wish).claimed


@dataclass(slots=True)
class Finished:
    """What finishing a list came to."""

    moved: list[Moved] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)
    queues: set[str] = field(default_factory=set)
    # How many outcomes were written: the others' rows are locked by somebody, or no longer ours.
    written: int = 0

    def add(self, other: Finished) -> None:
        """Take in what another list came to."""
        self.written += other.written
        self.moved += other.moved
        self.asked += other.asked
        self.queues |= other.queues


def finish(outcomes: Sequence[Outcome]) -> Finished:
    """Write outcomes, what their bodies made, and the settle requests that follow: true together or not at all.

    Rows that are locked by somebody, or are no longer ours, are not among the moved; `still_mine` tells which is which.
    """
    return exchange(outcomes, None).finished


class Exchanged(NamedTuple):
    """What a round trip came to; `ready` names the queues that have tasks left, if that was asked, `keys_asked` says the same of keys."""

    finished: Finished
    claimed: list[Claimed]
    ready: list[str] | None
    keys_asked: bool = False


def exchange(outcomes: Sequence[Outcome], wish: Wish | None) -> Exchanged:
    """Finish what has ended and claim what fits: one round trip and one commit for both.

    One statement after the other, never one for both: the look for successors needs a newer snapshot than the swap.
    """
    _announce_early(outcomes)
    with database.round_trip() as trip:
        finishing = _Finishing(trip, outcomes) if outcomes else None
        claims = _send_claims(trip, wish) if wish else []
        looked = trip.send(sql.READY_QUEUES, conf().paused_queues) if wish and wish.looks else None
        keys = trip.send(sql.KEYS_ASKED, list(wish.own_keys)) if wish and wish.own_keys is not None else None
        trip.failpoint("exchange.before_commit")
    failpoint("exchange.after_commit")
    claimed = [Claimed(*row) for reply in claims for row in reply.rows()]
    # UPDATE … RETURNING promises no order.
    claimed.sort(key=lambda task: (-task.priority, task.due_at, task.id))
    ready = None if looked is None else [queue for (queue,) in looked.rows()]
    keys_asked = keys is not None and bool(keys.rows()[0][0])
    return Exchanged(finishing.read() if finishing else Finished(), claimed, ready, keys_asked)


def _send_claims(trip: RoundTrip, wish: Wish) -> list[Reply]:
    statement = sql.CLAIM_SUSPECTS if wish.suspects else sql.CLAIM
    shares = [(queue, share) for queue, share in wish.shares.items() if share]
    paused = conf().paused_queues
    return [
        trip.send(statement, wish.process_id, queue, queue in paused, queue, list(wish.names), share)
        for queue, share in shares
    ]


def mark() -> None:
    """Begin this thread's transaction if it has not begun, and mark it, so that its end is known to end this one."""
    database.begin(sql.MARK)


def finish_own(outcome: Outcome, *, is_marked: bool = False, commits: bool = False) -> Finished:
    """Write the outcome of a body inside the transaction that holds its work; `Fenced` if the task is no longer ours.

    This is the last thing that happens in the transaction: the row is locked from here to the commit only, which is on the same
    round trip if the transaction is the body's alone. A database error if the mark is gone.
    """
    if commits:
        _announce_early([outcome])
    try:
        with database.round_trip(commits=commits) as trip:
            if is_marked:
                trip.send_unplanned(sql.UNMARK)
            finishing = _Finishing(trip, [outcome], is_own=True)
            trip.failpoint("body.swapped")
    except DataError as error:
        if sql.FENCED not in str(error):
            raise
        raise Fenced(f"Task {outcome.task.id} was revoked or taken over while it ran; nothing of it is kept.") from None
    return finishing.read()


def _announce_early(outcomes: Sequence[Outcome]) -> None:
    """Tell whoever waits for a task that it is about to end; of many at once nobody waits for each moment."""
    if len(outcomes) == 1 and outcomes[0].transition.target in TERMINAL:
        notifier.announce_early(outcomes[0].task.id)


class _Finishing:
    """The statements that write outcomes: the fenced swap, what the bodies made, and what follows from it, in this order."""

    def __init__(self, trip: RoundTrip, outcomes: Sequence[Outcome], *, is_own: bool = False) -> None:
        waits = [(outcome.task, outcome.wait) for outcome in outcomes if outcome.wait is not None]
        self.suspended = [trip.send(sql.SUSPEND_OWN if is_own else sql.SUSPEND, *_waits(waits))] if waits else []
        trip.failpoint("finish.suspended")
        outcomes = [outcome for outcome in outcomes if outcome.wait is None]
        if not outcomes:
            self.swapped, self.made, self.followed = Reply([]), [], Reply([])
            return
        made = [task for outcome in outcomes for task in outcome.made]
        ids = _array([str(outcome.task.id) for outcome in outcomes])
        is_lone = not made and all(map(_is_lone, outcomes))
        if is_lone and len(outcomes) > 1:
            self.swapped = trip.send(sql.FINISH_LONES, ids, _claims(outcomes), _results(outcomes))
        elif is_lone:
            statement = sql.FINISH_LONE_OWN if is_own else sql.FINISH_LONE
            self.swapped = trip.send(statement, outcomes[0].result, outcomes[0].task.id, outcomes[0].task.claims)
        else:
            self.swapped = trip.send(sql.FINISH_OWN if is_own else sql.FINISH, ids, *_columns(outcomes))
        trip.failpoint("finish.swapped")
        if not is_own and any(task.unique_key is not None for task in made):
            trip.send_unplanned(sql.SHORT_WAIT)
        self.made = [trip.send_unplanned(sql.ENQUEUE_MADE, _as_json(part)) for part in database.slices(made, _SLICE)]
        trip.failpoint("finish.made")
        for outcome in outcomes:
            if outcome.lingers_in is not None:
                trip.send_unplanned(sql.LINGER, outcome.lingers_in, [outcome.task.id], [outcome.task.claims])
        has_next = not is_lone or any(map(_is_link, outcomes))
        if is_lone and len(outcomes) == 1:
            one = outcomes[0].task.id
            self.followed = (
                trip.send(sql.FOLLOW_LONE, one, one, one) if has_next else trip.send(sql.ASK_NEXT_LONE, one, one)
            )
        else:
            self.followed = trip.send(sql.FOLLOW if has_next else sql.ASK_NEXT, ids, ids)
        trip.failpoint("finish.asked")

    def read(self) -> Finished:
        """Say what it came to, once the statements are through."""
        finished = Finished()
        written = [*self.suspended, self.swapped]
        for task_id, status, queue in (row for reply in [*written, self.followed] for row in reply.rows()):
            if status is None:
                finished.asked.append(task_id)
            else:
                finished.moved.append(Moved(task_id, Status(status), queue))
                if status == Status.FAILURE:  # the database may have called errorbacks: settling it finds their queues
                    finished.asked.append(task_id)
        finished.written = sum(status is not None for reply in written for _, status, _ in reply.rows())
        finished.queues.update(row.queue for row in finished.moved if row.status == Status.QUEUED)
        finished.queues.update(queue for reply in self.made for (queue,) in reply.rows())
        return finished


def _is_lone(outcome: Outcome) -> bool:
    return outcome.transition is states.SUCCEED and outcome.task.parent_id is None and outcome.result_of is None


def _is_link(outcome: Outcome) -> bool:
    """Say whether it has a predecessor: behind a link of a chain there is probably another one."""
    return outcome.task.previous_id is not None


def _columns(outcomes: Sequence[Outcome]) -> list[str | list[str | None] | None]:
    """Return the parameters of `sql.FINISH` after the ids: arrays written by hand where no value needs a quote, none where all are NULL."""
    return [
        _claims(outcomes),
        _array([outcome.transition.target.value for outcome in outcomes]),
        _array([outcome.kind or "NULL" for outcome in outcomes]),
        _array([outcome.charge or '""' for outcome in outcomes]),
        _array(["NULL" if outcome.delay is None else repr(float(outcome.delay)) for outcome in outcomes]),
        _array(["NULL" if outcome.result_of is None else str(outcome.result_of) for outcome in outcomes]),
        _texts([outcome.error for outcome in outcomes]),
        _texts([outcome.exception for outcome in outcomes]),
        _texts([outcome.traceback for outcome in outcomes]),
        _texts([outcome.reason for outcome in outcomes]),
        _results(outcomes),
    ]


def _claims(outcomes: Sequence[Outcome]) -> str:
    return _array([str(outcome.task.claims) for outcome in outcomes])


def _results(outcomes: Sequence[Outcome]) -> str:
    return f"[{','.join([outcome.result or 'null' for outcome in outcomes])}]"


def _waits(waits: Sequence[tuple[Claimed, Wait]]) -> tuple[list[Any], ...]:
    """Return the parameters of `sql.SUSPEND`."""
    return tuple(map(list, zip(*((task.id, task.claims, *wait) for task, wait in waits), strict=True)))


def _array(words: Iterable[str]) -> str:
    return f"{{{','.join(words)}}}"


def _texts(values: list[str | None]) -> list[str | None] | None:
    return values if any(value is not None for value in values) else None


def count(process_id: UUID, counts: Sequence[Count]) -> None:
    """Add to what a process has counted in this minute. By itself: a count must never cost a completion."""
    with database.round_trip() as trip:
        trip.send(sql.COUNT, process_id, *map(list, zip(*counts, strict=True)))


def still_mine(outcomes: Sequence[Outcome]) -> set[UUID]:
    """Say which of these tasks are still held by the claims that ran them."""
    ids = [outcome.task.id for outcome in outcomes]
    claims = [outcome.task.claims for outcome in outcomes]
    return {task_id for (task_id,) in database.execute(sql.STILL_MINE, ids, claims)}


def promote() -> set[str]:
    """Make ready what is due; return the queues it is in."""
    return {queue for (queue,) in database.execute(sql.PROMOTE)}


def expire() -> list[UUID]:
    """End what was not started in time; what follows from that is left to be settled. Return the tasks."""
    with database.atomic():
        ids = [task_id for (task_id,) in database.execute(sql.EXPIRE)]
        failpoint("expire.swapped")
        if ids:
            database.execute(sql.ASK, *[ids] * 3)
    return ids


def peek() -> tuple[bool, float | None]:
    """Say whether a task or a key is to be settled, and in how many seconds the next thing is due (None: there is none)."""
    ((to_settle, seconds),) = database.execute(sql.PEEK)
    return to_settle, seconds


def state(task_id: UUID | None) -> dict[str, Any] | None:
    """Read the columns that change on a task's way, its result as text; None if it is not stored."""
    for row in database.execute(sql.STATE, task_id):
        return dict(zip(sql.STATE_COLUMNS, row, strict=True))
    return None


def revoke(ids: Sequence[UUID], *, reason: str, terminate: bool = False) -> list[UUID]:
    """Stop unfinished tasks; what is below and after them follows when they are settled. Return those that were stopped."""
    with database.atomic():
        rows = database.execute(sql.REVOKE, list(ids), terminate, reason, terminate)
        revoked = [task_id for task_id, _ in rows]
        failpoint("revoke.swapped")
        if revoked:
            database.execute(sql.ASK, *[revoked] * 3)
        if holders := {holder for _, holder in rows if holder is not None}:
            database.on_commit(lambda: notifier.check(holders))
    return revoked


def reopen(task_id: UUID) -> list[Moved]:
    """Reopen all at and below a task that ended otherwise than in SUCCESS, with what is above and after it; return what moved.

    `NotAllowedHere` says what forbids it, an IntegrityError that a unique key does. What is above is locked with it, so that no
    parent ends meanwhile.
    """
    with database.read_committed():
        database.execute(sql.LOCK_IN_ORDER, list(_reopening(task_id)))
        targets = {found: target for found, target in _reopening(task_id).items() if target}
        if not targets:
            return []
        _refuse_to_reopen(task_id)
        _refuse_what_was_undone(task_id, list(targets))
        rows = database.execute(sql.REOPEN, list(targets), list(targets.values()))
        failpoint("reopen.swapped")
    moved = [Moved(moved_id, Status(status), queue) for moved_id, status, queue in rows]
    database.on_commit(lambda: notifier.wake({row.queue for row in moved}))
    return moved


def _reopening(task_id: UUID) -> dict[UUID, str | None]:
    return dict(database.execute(sql.REOPENING, *[task_id] * 3))


def _refuse_to_reopen(task_id: UUID) -> None:
    for why, other, status in database.execute(sql.FORBIDS, *[task_id] * 3):
        raise NotAllowedHere(
            f"Task {task_id} is below task {other}, which ended in {status} whatever became of its subtasks."
            if why == "above"
            else f"Task {task_id} comes after task {other}, which ended in {status}. Retry that one; this one follows it."
        )


def _refuse_what_was_undone(task_id: UUID, ids: Sequence[UUID]) -> None:
    for other, status in database.execute(sql.UNDONE, ids):
        raise NotAllowedHere(
            f"Task {task_id} cannot be retried: task {other} ended in {status}, and compensations of its subtasks were made. "
            "What they undo cannot be gone on with; call the task again."
        )


def held_against(task_id: UUID) -> list[UUID]:
    """Find unfinished tasks that have the unique keys of those that would be reopened with this one."""
    ids = [found for found, target in _reopening(task_id).items() if target]
    return [holder for (holder,) in database.execute(sql.HELD_AGAINST, ids)]


def unfinished_after(ids: Sequence[UUID]) -> list[UUID]:
    """Find the first unfinished tasks on each way from these on through their successors."""
    return [task_id for (task_id,) in database.execute(sql.UNFINISHED_AFTER, list(ids))]


def submit(
    task_id: UUID, args: str, *, unique_key: str | None = None, key: str | None = None, is_coroutine: bool = False
) -> None:
    """Let a task go that was held back, with these arguments and what follows from them.

    `DuplicateSubmitError` if it has gone; an IntegrityError if an unfinished task has its unique key.
    """
    with database.atomic() if unique_key is not None else nullcontext():
        rows = database.execute(sql.SUBMIT, args, unique_key, is_coroutine, key, task_id)
    if not rows:
        raise DuplicateSubmitError(
            f"Task {task_id} was submitted already, or revoked, or is held back by its predecessor."
        )
    database.on_commit(lambda: notifier.wake({queue for (queue,) in rows}))


def enter_worker(
    worker_id: UUID,
    *,
    host: str,
    pid: int,
    version: str,
    queues: Sequence[str] | None,
    names: Sequence[str],
    slots: int,
    coroutines: int,
) -> None:
    """Put a worker on the register, with its first lease."""
    served, known = json.dumps(queues and list(queues)), json.dumps(list(names))
    database.execute(sql.ENTER_WORKER, worker_id, host, pid, version, served, known, slots, coroutines, conf().LEASE)


def enter_process(process_id: UUID, worker_id: UUID, pid: int) -> None:
    """Put a child process on the register; it can claim from then on."""
    database.execute(sql.ENTER_PROCESS, process_id, worker_id, pid)


def heartbeat(worker_id: UUID) -> bool:
    """Renew a worker's lease; False if it was declared dead."""
    return bool(database.execute(sql.HEARTBEAT, conf().LEASE, worker_id))


def end_process(
    process_id: UUID, started: Sequence[UUID], *, was_stopped: bool = False, overdue: Sequence[UUID] = ()
) -> None:
    """Declare a process dead, with the tasks whose bodies had started in it. It can claim nothing from then on.

    They are charged with a crash, unless its own supervisor stopped it. Those that are overdue have ended by their timeouts.
    """
    late = json.dumps([str(task_id) for task_id in overdue]) if overdue else None
    started_ids = json.dumps([str(task_id) for task_id in started])
    database.execute(sql.END_PROCESS, started_ids, was_stopped, late, process_id)


def overdue(names: Sequence[str]) -> list[Claimed]:
    """Return the claims of dead processes whose bodies were overdue; whoever knows these names may write how they ended."""
    return [Claimed(*row) for row in database.execute(sql.OVERDUE, list(names))]


def leave(worker_id: UUID) -> None:
    """Take a worker off the register that has stopped in order; nobody is blamed for what it could not give back."""
    with database.atomic():
        # In the order of END_WORKERS: the worker first, so that the two cannot wait for each other.
        database.execute(sql.LEAVE, worker_id)
        database.execute(sql.END_PROCESSES, worker_id)


def rescue() -> list[Moved]:
    """Take over what dead processes hold: another try, or LOST after `MAX_CRASHES`; return the tasks.

    Fence first, then end what the dead have still open in the database. Rows that a dying process is just committing are
    locked and skipped; the process stays on the register until nothing is left to take over.
    """
    with database.atomic():
        database.execute(sql.END_WORKERS)
    with database.atomic():
        dead = [process_id for (process_id,) in database.execute(sql.DEAD_PROCESSES)]
        if not dead:
            return []
        rows = database.execute(sql.RESCUE, conf().MAX_CRASHES, dead)
        failpoint("rescue.swapped")
        rescued = [Moved(task_id, Status(status), queue) for task_id, status, queue in rows]
        ids = [task.id for task in rescued if task.has_ended]
        if ids:
            database.execute(sql.ASK, *[ids] * 3)
        lingering.end_all(dead)
        database.execute(sql.STRIKE_OFF, dead)
    database.execute(sql.TERMINATE, [f"cq:{process_id}" for process_id in dead])
    return rescued


def unknown(process_id: UUID, known: Sequence[UUID], *, after: float) -> tuple[bool, list[UUID]]:
    """Say whether a process holds tasks that it does not know of, and which have bodies that have lingered in it for so long."""
    ((holds, lingering_ids),) = database.execute(sql.UNKNOWN, *(process_id, list(known)) * 2, after)
    return holds, lingering_ids


def hand_back(process_id: UUID, known: Sequence[UUID], *, before: float, is_own: bool = False) -> list[Moved]:
    """Give back what a process has claimed before this moment of the monotonic clock, but for the tasks that it is known to run.

    `is_own`: the process itself does so, and knows what it has started.
    """
    ((now,),) = database.execute(sql.CLOCK)
    failpoint("hand_back.clock_read")
    moment = now - timedelta(seconds=time.monotonic() - before)  # or earlier, if the answer took long
    rows = database.execute(sql.HAND_BACK, process_id, list(known), is_own, moment)
    return [Moved(task_id, Status(status), queue) for task_id, status, queue in rows]


def unknown_names() -> list[str]:
    """Name the ready tasks' functions that no living worker knows."""
    return [name for (name,) in database.execute(sql.UNKNOWN_NAMES)]


def refuse(names: Sequence[str]) -> list[UUID]:
    """Fail tasks of these names that are due for `UNKNOWN_TASK_TIMEOUT`, unless a living worker knows them after all."""
    with database.atomic():
        ids = [task_id for (task_id,) in database.execute(sql.REFUSE, list(names), conf().UNKNOWN_TASK_TIMEOUT)]
        if ids:
            database.execute(sql.ASK, *[ids] * 3)
    return ids


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the database showed. In the order of `sql.LOOK`."""

    to_settle: bool
    ready: bool
    suspects: int
    dead: bool
    next_due: float | None
    next_tick: float | None
    # The worker's processes in which bodies go on that were to be interrupted.
    unheard: list[UUID]

    @property
    def fires(self) -> bool:
        """Say whether a tick is to be decided."""
        return self.next_tick is not None and self.next_tick <= 0


def look(
    queues: Sequence[str] | None, names: Sequence[str], *, fires: bool = True, worker_id: UUID | None = None
) -> Look:
    """Look whether there is anything to do for this worker of these queues and names; for ticks, if it fires them."""
    served = list(queues) if queues is not None else None
    known = list(names)
    fired = known if fires else []
    each = served, served, conf().paused_queues, known
    ((*seen,),) = database.execute(sql.LOOK, *each, *each, fired, fired, worker_id)
    return Look(*seen)


def is_busy(queues: Sequence[str] | None, names: Sequence[str]) -> bool:
    """Say whether in these queues anything runs, can be claimed or will be retried, or anything is to be settled."""
    served = list(queues) if queues is not None else None
    each = served, served, conf().paused_queues
    ((busy,),) = database.execute(sql.BUSY, served, served, *each, *each, list(names))
    return bool(busy)


def decode_options(options: str | None) -> dict[str, Any] | None:
    """Read the options that stayed with a row."""
    return json.loads(options) if options else None
