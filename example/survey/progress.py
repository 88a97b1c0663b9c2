"""Show how far the workflow is: one line that is rewritten on a terminal, else a line every two seconds."""

import shutil
import time
from collections import Counter

from django.core.management.base import OutputWrapper

from cq.models import Task

BAR = 20
PAUSE = 2.0
FAILED = (Task.Status.FAILURE, Task.Status.LOST)
ENDED = (Task.Status.SUCCESS, Task.Status.INCOMPLETE, Task.Status.REVOKED, Task.Status.SKIPPED, *FAILED)


class Progress:
    """The line, and when it was last written."""

    def __init__(self, stream: OutputWrapper, total: int) -> None:
        self._stream = stream
        self._total = total
        self._began = time.monotonic()
        self._shown = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def show(self, statuses: Counter[str]) -> None:
        """Write the line if it is time for it."""
        if self._stream.isatty():
            self._rewrite(self._line(statuses))
        elif time.monotonic() - self._shown >= PAUSE:
            self._shown = time.monotonic()
            self._stream.write(self._line(statuses))
            self._stream.flush()

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        if self._stream.isatty():
            self._rewrite("")

    def _line(self, statuses: Counter[str]) -> str:
        done = sum(statuses[status] for status in ENDED)
        rate = done / self.seconds
        running = statuses[Task.Status.RUNNING]
        failed = sum(statuses[status] for status in FAILED)
        bar = "#" * (BAR * done // self._total)
        return f"[{bar:.<{BAR}}] {done}/{self._total} tasks, {rate:.0f}/s, {running} running, {failed} failed"

    def _rewrite(self, line: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r{line[:columns]:{columns}}\r", ending="")
        self._stream.flush()
