"""What this process has to say about the bodies that ended in it: counts, summed up and written every few seconds."""

import time
from math import inf

from cq.outcome import Count

# So long after the first count they are due to be written.
_EVERY = 5.0
_Kind = tuple[str, str, str, int]


class Statistics:
    """Counts that are not yet written. For one thread at a time."""

    def __init__(self) -> None:
        self._sums: dict[_Kind, list[float]] = {}
        self.due_at = inf

    def __bool__(self) -> bool:
        return bool(self._sums)

    def note(self, queue: str, name: str, outcome: str, *, ran: float, waited: float) -> None:
        """Count one body that ran for so many seconds, after it had been due for so many."""
        kind = queue, name, outcome, int(ran * 1000).bit_length()
        sums = self._sums.get(kind)
        if sums is None:
            sums = self._sums[kind] = [0, 0.0, 0.0]
            self.due_at = min(self.due_at, time.monotonic() + _EVERY)
        sums[0] += 1
        sums[1] += ran
        sums[2] += waited

    def take(self) -> list[Count]:
        """Return what there is, in the order in which rows are written, and begin again."""
        sums, self._sums, self.due_at = self._sums, {}, inf
        return [Count(*kind, int(count), ran, waited) for kind, (count, ran, waited) in sorted(sums.items())]
