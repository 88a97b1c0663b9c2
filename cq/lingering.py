"""Bodies that may still run although their tasks have moved on: they were revoked, or their time was over.

Their rows are made by the statement that moves the task, and deleted here by whoever finds the body gone: the process that it ran
in, or whoever strikes that process off the register. Until then the task's next attempt is not admitted. The order is the proof:
lock the task, THEN delete and look whether it is to be admitted. Whoever made it QUEUED before, not admitted, is seen; whoever
comes later sees no row any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from cq import database, notifier, sql
from cq.failpoints import failpoint


def end(process_ids: Sequence[UUID], task_ids: Sequence[UUID]) -> set[UUID]:
    """Forget the bodies of these tasks in these processes: they are gone. Return those for which it has to be tried again."""
    with database.read_committed():
        locked = [task_id for (task_id,) in database.execute(sql.LINGERING_LOCK, list(task_ids))]
        failpoint("lingering.locked")
        rows = database.execute(sql.LINGERING_END, list(process_ids), locked, list(task_ids))
        queues = {queue for _, queue in rows if queue is not None}
        left = {task_id for (task_id,) in database.execute(sql.LINGERING_IN, list(process_ids))}
        if rows:
            database.on_commit(lambda: notifier.wake(queues))
    return left.intersection(task_ids)


def end_all(process_ids: Sequence[UUID]) -> None:
    """Forget all bodies in these processes, which are dead; where somebody has the task, next time."""
    task_ids = [task_id for (task_id,) in database.execute(sql.LINGERING_IN, list(process_ids))]
    if task_ids:
        end(process_ids, task_ids)


def overtaken(process_id: UUID, ids: Sequence[UUID], claims: Sequence[int]) -> dict[UUID, bool]:
    """Say which of these claims no longer hold, and whether their bodies are to be interrupted."""
    return dict(database.execute(sql.OVERTAKEN, process_id, list(ids), list(claims)))


def terminate(ids: Sequence[UUID]) -> None:
    """Interrupt what goes on of these tasks, and of those that were revoked with them, after they were revoked more gently."""
    holders = {process_id for (process_id,) in database.execute(sql.TERMINATE_LINGERING, list(ids))}
    if holders:
        database.on_commit(lambda: notifier.check(holders))
