"""Task ids: UUIDs of version 7 (RFC 9562), strictly increasing within a process, so that order of making is order of ids."""

import os
import threading
import time
from uuid import UUID

from cq.interruption import shielded

_RANDOM_BITS = 74
# So many steps from one id to the next are drawn at once: each time the kernel is asked costs as much as the rest of an id.
_STEPS = 256


class _Generator:
    """Counts on from the last id within a millisecond; starts afresh in a forked process."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        self.lock = threading.Lock()
        self.millisecond = 0
        self.random = 0
        self.steps: list[int] = []

    def next(self) -> UUID:
        with self.lock:
            now = time.time_ns() // 1_000_000
            if now > self.millisecond:
                self.millisecond = now
                self.random = int.from_bytes(os.urandom(10)) >> (80 - _RANDOM_BITS + 1)
            else:
                if not self.steps:
                    self.steps = memoryview(os.urandom(4 * _STEPS)).cast("I").tolist()
                self.random += 1 + self.steps.pop()
                if self.random >> _RANDOM_BITS:
                    self.millisecond += 1
                    self.random = 0
            return _layout(self.millisecond, self.random)


def _layout(millisecond: int, random: int) -> UUID:
    high = random >> 62
    low = random & ((1 << 62) - 1)
    return UUID(int=(millisecond << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)


_generator = _Generator()
os.register_at_fork(after_in_child=_generator.start_afresh)


def uuid7() -> UUID:
    """Return the next id."""
    with shielded():  # the lock is everybody's
        return _generator.next()
