"""The file of records that the bodies write: waiting for it, reading it, and checking that every task ran exactly once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bodies import RECORD

_LOOK_EVERY = 0.002


class NotInTime(Exception):
    """Fewer tasks ran than expected, in the time there was."""


@dataclass(frozen=True, slots=True)
class Records:
    """One run's records. Numbers below zero belong to warm-ups and are left out of everything but `wait`."""

    path: Path

    def count(self) -> int:
        """Return how many there are, warm-ups included."""
        return self.path.stat().st_size // RECORD.size if self.path.exists() else 0

    def wait(self, count: int, seconds: float, is_hopeless: Callable[[], bool]) -> None:
        """Return when there are so many, warm-ups included."""
        deadline = time.monotonic() + seconds
        while (found := self.count()) < count:
            if time.monotonic() > deadline or is_hopeless():
                raise NotInTime(f"{found:,} of {count:,} tasks ran in {seconds:.0f} s, or until a worker died")
            time.sleep(_LOOK_EVERY)

    def read(self) -> list[tuple[float, int]]:
        """Return time and number of each, in order of time."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: len(content) // RECORD.size * RECORD.size]
        return sorted((moment, number) for moment, number in RECORD.iter_unpack(whole) if number >= 0)

    def times(self) -> dict[int, float]:
        """Return when each number was recorded first."""
        times: dict[int, float] = {}
        for moment, number in self.read():
            times.setdefault(number, moment)
        return times

    def faults(self, expected: Iterable[int]) -> dict[str, int]:
        """Count what did not run exactly once."""
        ran = Counter(number for _, number in self.read())
        wanted = set(expected)
        return {
            "missing": len(wanted - ran.keys()),
            "repeated": sum(times > 1 for times in ran.values()),
            "unknown": len(ran.keys() - wanted),
        }
