"""What the end of a task means for its neighbours: parents end, successors are released or skipped, revokes go down.

The only place where one task's state changes another's. It is level-triggered and idempotent: anybody may settle any task at
any time, any number of times. The order is the proof: lock the task, delete its requests, THEN look. A change and the request
for a look commit together; so either the deletion sees the request, and the later look, with a newer snapshot, sees the
change; or the request survives and makes another look. Never look first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cq import database, notifier, sql
from cq.failpoints import failpoint
from cq.states import TERMINAL, Status

FIRST = UUID(int=0)
BATCH = 200


@dataclass(slots=True)
class Settled:
    """What settling came to: which tasks ended, which queues have new work."""

    ended: list[UUID] = field(default_factory=list)
    queues: set[str] = field(default_factory=set)
    is_complete: bool = True

    @property
    def moved(self) -> bool:
        """Say whether it changed anything, so that another round may."""
        return bool(self.ended or self.queues)

    def add(self, other: Settled) -> None:
        """Take in what another round came to."""
        self.ended += other.ended
        self.queues |= other.queues


def settle_all(budget: float = math.inf) -> Settled:
    """Settle what was asked for, round by round, until a round changes nothing, or for so many seconds.

    What is left then is locked by somebody, or not complete; its requests stay for the next look.
    """
    until = time.monotonic() + budget
    total = Settled()
    changed = True
    while changed:
        changed = False
        after = FIRST
        while ids := asked(after):
            if time.monotonic() > until:
                total.is_complete = False
                return total
            this = settle(ids)
            total.add(this)
            changed = changed or this.moved
            after = ids[-1]
    return total


def asked(after: UUID = FIRST) -> list[UUID]:
    """Return the next tasks that are to be settled, in id order from this one on."""
    return [task_id for (task_id,) in database.execute(sql.ASKED, after, BATCH)]


def settle(ids: Sequence[UUID]) -> Settled:
    """Settle these tasks, as far as nobody else is on them: look and what follows from it are true together."""
    settled = Settled()
    with database.read_committed():
        locked = {task_id: Status(status) for task_id, status in database.execute(sql.SETTLE_LOCK, list(ids))}
        failpoint("settle.locked")
        database.execute(sql.SETTLE_TAKE, list(locked), list(ids))
        failpoint("settle.taken")
        _end_parents([task_id for task_id, status in locked.items() if status == Status.WAITING], settled)
        failpoint("settle.looked")
        over = [*settled.ended, *(task_id for task_id, status in locked.items() if status in TERMINAL)]
        _carry_revokes_down([task_id for task_id in over if locked[task_id] == Status.REVOKED], settled)
        _release_successors(over, settled)
        failpoint("settle.before_commit")
    failpoint("settle.after_commit")
    return settled


def _end_parents(ids: Sequence[UUID], settled: Settled) -> None:
    if ids:
        settled.ended += [task_id for (task_id,) in database.execute(sql.SETTLE_END, ids)]


def _carry_revokes_down(ids: Sequence[UUID], settled: Settled) -> None:
    if ids:
        rows = database.execute(sql.SETTLE_REVOKE, ids)
        settled.ended += [task_id for task_id, _ in rows]
        if holders := {holder for _, holder in rows if holder is not None}:
            database.on_commit(lambda: notifier.stop(holders))


def _release_successors(ids: Sequence[UUID], settled: Settled) -> None:
    if not ids:
        return
    for task_id, status, queue in database.execute(sql.SETTLE_RELEASE, ids, ids):
        if status == Status.SKIPPED:
            settled.ended.append(task_id)
        else:
            settled.queues.add(queue)
    database.execute(sql.SETTLE_AGAIN, ids)


def settle_from(ids: Sequence[UUID]) -> Settled:
    """Settle these tasks and, level by level, what that asks for below and after them."""
    total = Settled()
    level = list(ids)
    while level:
        this = settle(level)
        total.add(this)
        level = this.ended
    return total
