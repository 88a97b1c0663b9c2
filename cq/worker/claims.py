"""What an engine thread asks for: how much of which queues, fairly in turns, and whether there may be more to get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from cq import engine, registry
from cq.engine import Wish
from cq.outcome import Claimed

_LOOK_FOR_QUEUES_EVERY = 10


class Claims:
    """What the claims of one process have told it. For its engine thread only."""

    def __init__(self, process_id: UUID, queues: Sequence[str] | None, *, suspects: bool) -> None:
        self.process_id = process_id
        self.queues = queues
        self.suspects = suspects
        self.has_more = True
        # So many in a row have got nothing.
        self.vain = 0
        self._known: list[str] = list(queues or [])
        self._names = registry.names()
        self._turn = 0
        self._is_woken = False

    def wish(self, room: int, *, woken: bool) -> Wish | None:
        """Say what fits, fairly shared among the queues; each time another one comes first."""
        if woken:
            self.vain = 0
            self.has_more = True
        if room <= 0 or not self.has_more:
            return None
        self._known = self._known or engine.ready_queues()
        if not self._known:
            self.has_more = False
            self.vain += 1
            return None
        self._turn += 1
        self._is_woken = woken
        first = self._turn % len(self._known)
        share, rest = divmod(room, len(self._known))
        in_turn = self._known[first:] + self._known[:first]
        shares = {queue: share + (number < rest) for number, queue in enumerate(in_turn)}
        looks = self.queues is None and (woken or self._turn % _LOOK_FOR_QUEUES_EVERY == 0)
        return Wish(self.process_id, shares, self._names, self.suspects, looks)

    def note(self, wish: Wish, claimed: Sequence[Claimed], ready: Sequence[str] | None) -> tuple[set[str], set[str]]:
        """Learn from what a claim got; return the queues that have nothing left, and those of which others should hear.

        One that got less than it asked of a queue has emptied it. One that got all expects more, and passes a wake-up on.
        """
        got = Counter(task.queue for task in claimed)
        full = {queue for queue, share in wish.shares.items() if got[queue] >= share > 0}
        empty = {queue for queue, share in wish.shares.items() if got[queue] < share}
        self.vain = 0 if claimed else self.vain + 1
        if ready is None:
            unasked = not all(wish.shares.values()) and self.vain < len(wish.shares)
        else:
            unasked = not empty.issuperset(ready)
            self._known = list(ready) or self._known
        self.has_more = bool(full) or unasked
        return empty, full if self._is_woken and not self.suspects else set()
