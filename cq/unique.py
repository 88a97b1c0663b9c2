"""Tasks with a unique key: made, or the unfinished one that has it already found, with what that one takes over.

The index over unfinished rows decides, and nobody else. What is found may end at any moment: whoever could neither make a task nor
find one tries again.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import psycopg

from cq import database, engine, notifier, sql
from cq.engine import Inserted
from cq.failpoints import failpoint
from cq.new import NewTask, as_json
from cq.states import Status

_SLICE = 1000
Unique = tuple[str, str]


def enqueue(new: Sequence[NewTask]) -> dict[UUID, Inserted | UUID]:
    """Insert tasks that stand alone, or find who has their keys; return, by its id, what became of each call.

    That is the row that was made, or the id of a task that was unfinished a moment ago. Missing are calls whose key is free again by
    now: for them, try again. One after the other makes the same of a list as of its calls one by one, but for the order of locks.
    """
    placed: dict[UUID, Inserted | UUID] = {}
    ordered = sorted(new, key=lambda task: (*of(task), task.id))
    for part in database.slices(ordered, _SLICE):
        rows = [Inserted(*row) for row in database.execute(sql.ENQUEUE_UNIQUE, as_json(part))]
        placed |= {row.id: row for row in rows}
    failpoint("unique.inserted")
    queues = {task.queue for task in new if task.id in placed}
    for part in database.slices([task for task in ordered if task.id not in placed], _SLICE):
        if part[0].replace:
            queues |= _replace(part)
        found = holders(part)
        placed |= {task.id: found[of(task)] for task in part if of(task) in found}
    database.on_commit(lambda: notifier.wake(queues))
    return placed


def _replace(new: Sequence[NewTask]) -> set[str]:
    """Let those that have the keys take over what these calls say, the last one of each key; return the queues that have new work."""
    last = {of(task): task for task in new}
    what = new[0].replace
    rows = database.execute(sql.REPLACE, "args" in what, "run_after" in what, as_json(list(last.values())))
    return {queue for status, queue in rows if status == Status.QUEUED}


def enqueue_next(new: NewTask) -> Inserted | UUID | None:
    """Insert a successor of a stored task, or find who has its key; None: try again. `TaskGone` if the predecessor is."""
    for row in database.execute(sql.ENQUEUE_NEXT_UNIQUE, as_json([new])):
        database.on_commit(lambda: notifier.wake({new.queue}))
        return Inserted(*row)
    failpoint("unique.inserted")
    if (holder := holders([new]).get(of(new))) is not None:
        return holder
    engine.check_stored(new)
    return None


def holders(new: Sequence[NewTask]) -> dict[Unique, UUID]:
    """Find the unfinished tasks that have the unique keys of these."""
    names, keys = zip(*map(of, new), strict=True)
    return {(name, key): task_id for name, key, task_id in database.execute(sql.HOLDERS, list(names), list(keys))}


def of(new: NewTask) -> Unique:
    """Return what the index compares."""
    return new.name, new.unique_key or ""


def is_conflict(error: BaseException) -> bool:
    """Say whether PostgreSQL refused a second unfinished task of one unique key."""
    cause = error.__cause__
    return isinstance(cause, psycopg.errors.UniqueViolation) and cause.diag.constraint_name == sql.UNIQUE_INDEX


def is_busy(error: BaseException) -> bool:
    """Say whether a list did not wait any longer for whoever is just making a task of the same unique key."""
    return isinstance(error.__cause__, psycopg.errors.LockNotAvailable)
