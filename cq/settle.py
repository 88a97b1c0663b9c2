"""What the end of a task means for its neighbours: parents end, successors are released or skipped, revokes go down.

And what an event means for the task that waits for it. The only place where one task's state changes another's. It is
level-triggered and idempotent: anybody may settle any task at any time, any number of times. The order is the proof: lock the
task, delete its requests, THEN look. A change and the request for a look commit together; so either the deletion sees the
request, and the later look, with a newer snapshot, sees the change; or the request survives and makes another look. Never look first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from cq import compensate, database, notifier, sql
from cq.failpoints import failpoint
from cq.states import TERMINAL, UNSUCCESSFUL, Status

FIRST = UUID(int=0)
BATCH = 200


@dataclass(slots=True)
class Settled:
    """What settling came to: which tasks ended, which queues have new work, or work that a claim may have passed over meanwhile."""

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


class _Locked(NamedTuple):
    """A task that is being settled, in the order of `sql.SETTLE_LOCK`."""

    id: UUID
    status: str
    fail_fast: bool
    before_group: UUID | None
    ready_in: str | None


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
        found = [_Locked(*row) for row in database.execute(sql.SETTLE_LOCK, list(ids))]
        locked = {task.id: Status(task.status) for task in found}
        settled.queues.update(task.ready_in for task in found if task.ready_in is not None)
        failpoint("settle.locked")
        database.execute(sql.SETTLE_TAKE, list(locked), list(ids))
        failpoint("settle.taken")
        _stop_at_a_failure([task.id for task in found if task.fail_fast], settled)
        ended = _end_parents([task_id for task_id, status in locked.items() if status == Status.WAITING], settled)
        _resume_suspended([task_id for task_id, status in locked.items() if status == Status.SUSPENDED], settled)
        failpoint("settle.looked")
        over = {task_id: status for task_id, status in locked.items() if status in TERMINAL} | ended
        _carry_revokes_down([task_id for task_id, status in over.items() if status == Status.REVOKED], settled)
        undoing = _answer_failures([task_id for task_id, status in over.items() if status in UNSUCCESSFUL], settled)
        # A group that is not to run is skipped after all below it: that is looked at from what it follows.
        before_groups = [task.before_group for task in found if task.before_group is not None]
        _release_successors([*over, *undoing, *before_groups], settled)
        failpoint("settle.before_commit")
    failpoint("settle.after_commit")
    return settled


def _stop_at_a_failure(ids: Sequence[UUID], settled: Settled) -> None:
    if ids:
        _note_revoked(database.execute(sql.SETTLE_FAIL_FAST, ids), settled)


def _end_parents(ids: Sequence[UUID], settled: Settled) -> dict[UUID, Status]:
    ended = {task_id: Status(status) for task_id, status in database.execute(sql.SETTLE_END, ids)} if ids else {}
    settled.ended += ended
    return ended


def _answer_failures(ids: Sequence[UUID], settled: Settled) -> list[UUID]:
    """Call the errorbacks that came too late for the failing transaction; have undone what had succeeded below, and say behind which
    tasks that begins: there is something to be released.
    """
    if not ids:
        return []
    settled.queues.update(queue for (queue,) in database.execute(sql.SETTLE_ERRORBACKS, ids, ids))
    return compensate.make(ids)


def _resume_suspended(ids: Sequence[UUID], settled: Settled) -> None:
    if ids:
        settled.queues.update(queue for (queue,) in database.execute(sql.SETTLE_RESUME, ids))


def _carry_revokes_down(ids: Sequence[UUID], settled: Settled) -> None:
    if ids:
        _note_revoked(database.execute(sql.SETTLE_REVOKE, ids), settled)


def _note_revoked(rows: Sequence[tuple[UUID, UUID | None]], settled: Settled) -> None:
    """Note what was revoked, and have those told in whose processes a body of it runs."""
    settled.ended += [task_id for task_id, _ in rows]
    if holders := {holder for _, holder in rows if holder is not None}:
        database.on_commit(lambda: notifier.check(holders))


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
