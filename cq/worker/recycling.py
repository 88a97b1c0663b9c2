"""When a process has done enough: after so many bodies, or when it has become too large. It ends in order, and another one begins."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from cq.worker.options import WorkerOptions

_LOOK_EVERY = 0.25
_MEGABYTE = 1024 * 1024


class Recycling:
    """What one process has done so far. For one thread at a time."""

    def __init__(self, options: WorkerOptions) -> None:
        self._max_tasks = options.max_tasks
        self._max_rss = options.max_rss
        self.is_limited = options.max_tasks is not None or options.max_rss is not None
        self._bodies = 0
        self._look_at = 0.0

    def note_body(self) -> None:
        """Count a body that has run."""
        self._bodies += 1

    def left(self, running: int) -> float:
        """Say how many more bodies this process may start while so many are running."""
        return float("inf") if self._max_tasks is None else self._max_tasks - self._bodies - running

    def why_due(self, running: int) -> str | None:
        """Say why this process has enough with what is running; None: it has not."""
        if self.left(running) <= 0:
            return f"it has run {self._bodies} tasks and runs {running}"
        if self._max_rss is None or time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + _LOOK_EVERY
        megabytes = resident_bytes() // _MEGABYTE
        return f"it takes {megabytes} MB" if megabytes > self._max_rss else None


def resident_bytes() -> int:
    """Return how much memory this process takes, or where the system does not say, has taken at most."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
