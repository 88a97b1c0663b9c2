"""Insert tasks: one, many that are alike, successors, compositions. Workers hear of them when the transaction commits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from cq import database, notifier, sql
from cq.conf import conf
from cq.engine.lists import SLICE, array, texts
from cq.engine.questions import state
from cq.exceptions import TaskGone, TooLarge
from cq.new import NewTask, as_json
from cq.states import Status
from cq.wire import Reply


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
        while part := list(islice(remaining, SLICE)):
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
    ids = array([task_id.hex for task_id, _, _ in rows])
    args = f"[{','.join([text for _, text, _ in rows])}]"
    shared = (*_place(like), *_extras(like), like.result_ttl)
    keys = texts([key for _, _, key in rows])
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
            statements.send(sql.ENQUEUE_COMPOSED, as_json(part), [carrier]) for part in database.slices(new, SLICE)
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
    if len(new) <= SLICE:
        return [Inserted(*row) for row in database.execute(statement, as_json(new))]
    with database.atomic():
        return [row for part in database.slices(new, SLICE) for row in _insert(statement, part)]


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
