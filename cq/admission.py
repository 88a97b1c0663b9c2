"""Which tasks of a key may be claimed: limits, rates and fairness. Rows are counted, no counter is kept.

A task with a key is QUEUED but not `admitted`. Whatever may change how many of a key run leaves a request for the key (a trigger
does, on the task's status). Settling a key is level-triggered like `settle`, and the order is the proof here too: lock the key, delete
its requests, THEN count and admit, with a newer snapshot. Never count first. Only this adds to what is admitted, one at a time for
each key; so what it does not see yet can only be less than it counted, or has left a request.

Without limit and rate, a key has as many places as living workers have slots. That is the fairness: nobody's backlog stands in the
ready index before another's first task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from cq import database, sql

BATCH = 200


@dataclass(slots=True)
class Admitted:
    """What settling keys came to: which queues have new work, and in how many seconds to look again (None: not for their sake).

    Not complete: somebody else is on a key, or has locked a row that was to be admitted; the request for it stays.
    """

    queues: set[str] = field(default_factory=set)
    next_look: float | None = None
    is_complete: bool = True

    def add(self, other: Admitted) -> None:
        """Take in what another list came to."""
        self.queues |= other.queues
        self.is_complete = self.is_complete and other.is_complete
        looks = [look for look in (self.next_look, other.next_look) if look is not None]
        self.next_look = min(looks, default=None)


def admit_all(budget: float = inf) -> Admitted:
    """Settle the keys that were asked for, and those that their rate lets go on; all of them once, or for so many seconds."""
    until = time.monotonic() + budget
    total = Admitted()
    after = ""
    while keys := asked(after):
        if time.monotonic() > until:
            total.is_complete = False
            break
        database.execute(sql.KEY_MAKE, keys)
        total.add(admit(keys))
        if len(keys) < BATCH:
            break
        after = keys[-1]
    return total


def asked(after: str = "") -> list[str]:
    """Return the next keys that are to be settled, from this one on."""
    return [key for (key,) in database.execute(sql.KEYS, after, BATCH, after, BATCH, BATCH)]


def admit(keys: Sequence[str]) -> Admitted:
    """Settle these keys, as far as they are known and nobody else is on them: counting and what follows are true together."""
    with database.round_trip() as trip:
        found = trip.send(sql.KEY_LOCK, list(keys))
        trip.arrive()
        locked = [key for (key,) in found.rows()]
        trip.failpoint("admission.locked")
        if not locked:
            return Admitted(is_complete=False)
        trip.send(sql.KEY_TAKE, locked)
        trip.failpoint("admission.taken")
        admitted = trip.send(sql.ADMIT, locked)
        trip.failpoint("admission.before_commit")
    rows = admitted.rows()
    looks = [seconds for _, seconds in rows if seconds is not None]
    is_complete = len(locked) == len(keys) and 0 not in looks
    return Admitted({queue for queue, _ in rows if queue is not None}, min(looks, default=None), is_complete)
