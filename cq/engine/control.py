"""What moves tasks from outside: the clock, and a person who submits, revokes or reopens them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from uuid import UUID

from cq import database, notifier, sql
from cq.exceptions import DuplicateSubmitError, NotAllowedHere
from cq.failpoints import failpoint
from cq.outcome import Moved
from cq.states import Status


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
