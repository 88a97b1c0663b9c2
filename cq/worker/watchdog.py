"""Watches the time of bodies, in a thread of its own: the event loop may be blocked by a coroutine, the engine thread by PostgreSQL.

A body whose time is over is interrupted; one that is still there two seconds later is given up. Bodies without a timeout cost
nothing, and the thread starts with the first one that has one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from cq.interruption import Interruption, Why

if TYPE_CHECKING:
    from cq.worker.bodies import Body

logger = logging.getLogger("cq.worker")

# So long after it was interrupted, a body that is still there is given up.
GIVE_UP_AFTER = 2.0
# So many entries may be of bodies that have left, before they are cleared away.
_MOST_STALE = 1000


class _Entry(NamedTuple):
    """At this time, see to this body."""

    at: float
    number: int
    body: Body
    interruption: Interruption
    gives_up: bool


class Watchdog:
    """The thread and its list of what is due when."""

    def __init__(self, given_up: Callable[[Body], object]) -> None:
        self.given_up = given_up
        self._condition = threading.Condition()
        self._entries: list[_Entry] = []
        self._numbers = count()
        self._is_started = False
        self._clear_at = _MOST_STALE

    def watch(self, body: Body, interruption: Interruption) -> None:
        """Interrupt this body when its time is over."""
        if interruption.deadline is not None:
            self._add(interruption.deadline, body, interruption, gives_up=False)

    def stop(self, body: Body, interruption: Interruption) -> None:
        """Interrupt this body now: its task is no longer ours, and shall not go on."""
        interruption.interrupt(Why.OVERTAKEN)
        self._add(time.monotonic() + GIVE_UP_AFTER, body, interruption, gives_up=True)

    def _add(self, at: float, body: Body, interruption: Interruption, *, gives_up: bool) -> None:
        with self._condition:
            if len(self._entries) > self._clear_at:
                self._entries = [entry for entry in self._entries if not entry.interruption.has_left]
                heapify(self._entries)
                self._clear_at = 2 * len(self._entries) + _MOST_STALE
            entry = _Entry(at, next(self._numbers), body, interruption, gives_up)
            heappush(self._entries, entry)
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="cq-watchdog", daemon=True).start()
            elif self._entries[0] is entry:
                self._condition.notify()

    def _run(self) -> None:
        while True:
            entry = self._next()
            try:
                self._see_to(entry)
            except Exception:  # nobody else watches the time of the other bodies
                logger.exception("the watchdog could not stop a body task=%s", entry.body.task.id)

    def _next(self) -> _Entry:
        with self._condition:
            while True:
                while self._entries and self._entries[0].interruption.has_left:
                    heappop(self._entries)
                left = self._entries[0].at - time.monotonic() if self._entries else None
                if left is not None and left <= 0:
                    return heappop(self._entries)
                self._condition.wait(left)

    def _see_to(self, entry: _Entry) -> None:
        if entry.gives_up:
            self.given_up(entry.body)
            return
        logger.warning("timeout task=%s name=%s", entry.body.task.id, entry.body.task.name)
        entry.interruption.interrupt(Why.TIMEOUT)
        self._add(entry.at + GIVE_UP_AFTER, entry.body, entry.interruption, gives_up=True)
