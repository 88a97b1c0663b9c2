"""Questions that change nothing: what is there to do, and how is a task?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cq import database, sql
from cq.conf import conf


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


def peek() -> tuple[bool, float | None]:
    """Say whether a task or a key is to be settled, and in how many seconds the next thing is due (None: there is none)."""
    ((to_settle, seconds),) = database.execute(sql.PEEK)
    return to_settle, seconds


def ready_queues() -> list[str]:
    """Name the queues that have tasks to be claimed."""
    return [queue for (queue,) in database.execute(sql.READY_QUEUES, conf().paused_queues)]


def state(task_id: UUID | None) -> dict[str, Any] | None:
    """Read the columns that change on a task's way, its result as text; None if it is not stored."""
    for row in database.execute(sql.STATE, task_id):
        return dict(zip(sql.STATE_COLUMNS, row, strict=True))
    return None


def unfinished_after(ids: Sequence[UUID]) -> list[UUID]:
    """Find the first unfinished tasks on each way from these on through their successors."""
    return [task_id for (task_id,) in database.execute(sql.UNFINISHED_AFTER, list(ids))]


def decode_options(options: str | None) -> dict[str, Any] | None:
    """Read the options that stayed with a row."""
    return json.loads(options) if options else None
