"""Which wake-ups a process heeds at once: a flood of them costs no flood of looks, and one that came too early costs no pause.

One task is said twice: while it is being committed, and then. So a look may be too early, and whoever has got the task soon hears
its echo.
"""

from __future__ import annotations

from math import inf

from cq import notifier

# After some wake-ups in vain, the next one waits a little, after more of them longer.
_VAIN = 2
_PAUSE = 0.002
_LONGEST_PAUSE = 0.1
# An echo is not counted.
_ECHO = 0.01
# No flood: wake-ups so far apart.
_QUIET = 0.1


class WakeUps:
    """The wake-ups of one process. Whoever calls this holds the lock of its rounds; times are on the monotonic clock."""

    def __init__(self) -> None:
        self.is_pending = True
        # So many in a row were for nothing.
        self.vain = 0
        # The last one, but for echoes, had something for this process.
        self.is_lucky = True
        self.heed_from = 0.0
        self.worked_at = -inf
        self._came_at = -inf
        # When the first of the looks began that were perhaps too early; the very first of all is not, nobody has called for it.
        self._looking_from: float | None = -inf

    def put(self, now: float) -> None:
        """One has come."""
        if now > self._came_at + _QUIET:
            self.vain = 0
        self._came_at = now
        self.is_pending = True

    def take(self) -> bool:
        """Say whether any has come, and begin to heed it."""
        was_pending, self.is_pending = self.is_pending, False
        return was_pending

    @property
    def due_at(self) -> float | None:
        """When one is to be heeded; None if none has come."""
        return self.heed_from if self.is_pending else None

    def note(self, began: float, now: float, *, is_vain: bool) -> None:
        """Note what a look came to that one has led to, and decide when the next is heeded."""
        looking_from, self._looking_from = self._looking_from, None
        if not is_vain:
            self.is_lucky, self.worked_at = True, now
            self.vain, self.heed_from = 0, 0.0
        elif now < self.worked_at + _ECHO:
            self.worked_at = -inf  # there is one echo
        elif self.is_lucky and (looking_from is None or began < looking_from + notifier.EARLY):
            self.is_pending = True  # what it is about will be committed any moment
            self._looking_from = began if looking_from is None else looking_from
        else:
            self.is_lucky = False
            self.vain += 1
            if self.vain > _VAIN:
                self.heed_from = now + min(_LONGEST_PAUSE, _PAUSE * 2 ** min(self.vain, 10))
