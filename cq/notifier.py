"""The only sender on the channel layer. Its messages are hints: each may be lost, doubled or late, and only latency changes.

A caller only marks what is to be said; one event loop per process, in a thread of its own (in a worker's child: its main loop),
says it, many marks in one message. So a caller never waits for the layer and never sees its errors.

What is being committed may be said a moment early, too: a message takes about as long as a commit, and the two can be on their way
together. Whoever hears it and finds nothing looks again if it has begun to look within `EARLY` seconds. It is said once more after
the commit, as ever.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from uuid import UUID

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer, ChannelLayerManager
from django.utils.module_loading import import_string

from cq.conf import conf
from cq.interruption import shielded

logger = logging.getLogger("cq.notifier")

# All workers that serve any queue listen here …
CHANNEL = "cq"
# … and those that serve some, here.
QUEUE_CHANNEL = "cq.queue.{}"
# A child hears here that tasks which it runs were taken from it.
PROCESS_CHANNEL = "cq.process.{}"
ENDED_GROUP = "cq.ended"
WAKE = "cq.wake"
ENDED = "cq.ended"

# Between two messages: what is marked meanwhile goes into the next. Longer and longer while there is no end of marks. Not shorter,
# or what was said early would be said again while a worker starts it, on the same cores.
_PAUSE = 0.006
_LONGEST_PAUSE = 0.016
# A channel that is full has hints enough, or nobody who takes them.
_FULL_FOR = 0.5
# Whoever has waited for a task will soon wait for another: go on hearing for so long.
_HEAR_ON = 30.0
# At one go: shorter than the 5 s after which redis-py takes silence for an error.
_HEAR_FOR = 3.0
_SEND_TIMEOUT = 1.0
_BREAK = 2.0
_EXIT_BUDGET = 0.05
_MOST_IDS = 500
# How long before its commit something may be heard of; most commits take less.
EARLY = 0.002

Listener = Callable[[], object]

# Instances of our own: one that two event loops receive from raises in both, and the project's consumers have theirs.
_layers = ChannelLayerManager()


def wake(queues: Iterable[str]) -> None:
    """Tell workers to look at the database; these queues have something new."""
    with shielded():
        _here().mark(look=True, queues=queues)


def announce(ids: Iterable[UUID]) -> None:
    """Tell those who wait that these tasks have ended."""
    with shielded():
        _here().mark(ended=ids)


def wake_early(queue: str) -> None:
    """Tell workers that something is being committed; nothing is said while other messages are: it would not be early."""
    if not _here().is_saying:
        wake([queue])


def announce_early(task_id: UUID) -> None:
    """Tell those who wait that the end of this task is being committed, likewise."""
    if not _here().is_saying:
        announce([task_id])


def check(processes: Iterable[UUID]) -> None:
    """Tell these processes to look whether the tasks whose bodies they run are still theirs."""
    with shielded():
        _here().mark(processes=processes)


def listen(task_id: UUID, listener: Listener) -> None:
    """Call the listener when it is announced that this task has ended; perhaps never, perhaps too often."""
    with shielded():
        _here().add_listener(task_id, listener)


def unlisten(task_id: UUID, listener: Listener) -> None:
    """Stop calling it."""
    with shielded():
        _here().remove_listener(task_id, listener)


def attach(loop: asyncio.AbstractEventLoop) -> None:
    """Say everything from this loop instead of one in a thread: a layer belongs to the loop it is used in."""
    _here().loop = loop


def preload() -> None:
    """Import the layer's code, for processes that are forked after this to share. What is wrong with it, its use will show."""
    with contextlib.suppress(Exception):
        import_string(_layers.configs[conf().CHANNEL_LAYER]["BACKEND"])


async def flush() -> None:
    """Give what is pending a moment to be said, in the loop that says it; for a process that ends."""
    deadline = time.monotonic() + _EXIT_BUDGET
    while _here().is_saying and time.monotonic() < deadline:
        await asyncio.sleep(_PAUSE)


def layer() -> BaseChannelLayer | None:
    """Return the channel layer of CQ, or None if there is none that can be used."""
    try:
        return _layers[conf().CHANNEL_LAYER]
    except KeyError:
        return None
    except Exception as error:  # a layer's own constructor may raise anything; without a layer the poll does it
        _complain(conf().CHANNEL_LAYER, f"{type(error).__name__}: {error}")
        return None


@lru_cache(maxsize=16)
def _complain(alias: str, error: str) -> None:
    """Say it once: a layer is asked for at every hint."""
    logger.warning("channel layer %r cannot be used error=%s; workers find new tasks by their poll", alias, error)


class Notifier:
    """What one process has to say, and the loop that says it."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._look = False
        self._queues: set[str] = set()
        self._ended: set[UUID] = set()
        self._processes: set[UUID] = set()
        self._listeners: dict[UUID, set[Listener]] = {}
        self.is_saying = False
        self._is_hearing = False
        self._idle = threading.Event()
        self._broken_until = 0.0
        self._full_until: dict[str, float] = {}

    def mark(
        self,
        *,
        look: bool = False,
        queues: Iterable[str] = (),
        ended: Iterable[UUID] = (),
        processes: Iterable[UUID] = (),
    ) -> None:
        with self._lock:
            self._look = self._look or look
            self._queues.update(queues)
            self._ended.update(ended)
            self._processes.update(processes)
            if self.is_saying or not (self._look or self._ended or self._processes):
                return
            self.is_saying = True
            self._idle.clear()
        self._schedule(self._say)

    def add_listener(self, task_id: UUID, listener: Listener) -> None:
        with self._lock:
            self._listeners.setdefault(task_id, set()).add(listener)
            if self._is_hearing:
                return
            self._is_hearing = True
        self._schedule(self._hear)

    def remove_listener(self, task_id: UUID, listener: Listener) -> None:
        with self._lock:
            listeners = self._listeners.get(task_id, set())
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(task_id, None)

    def flush(self, timeout: float) -> None:
        """Give what is pending a moment to be said."""
        if self.is_saying:
            self._idle.wait(timeout)

    def _schedule(self, coroutine: Callable[[], Any]) -> None:
        loop = self.loop or self._start()
        try:
            loop.call_soon_threadsafe(lambda: loop.create_task(coroutine()))
        except RuntimeError:  # the loop is closed: this process is ending
            self.is_saying = self._is_hearing = False
            self._idle.set()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                threading.Thread(target=self.loop.run_forever, name="cq-notifier", daemon=True).start()
                atexit.register(self.flush, _EXIT_BUDGET)
            return self.loop

    async def _say(self) -> None:
        pause = _PAUSE
        while True:
            with self._lock:
                look, self._look = self._look, False
                queues, self._queues = self._queues, set()
                ended, self._ended = self._ended, set()
                processes, self._processes = self._processes, set()
                if not look and not ended and not processes:
                    self.is_saying = False
                    self._idle.set()
                    return
            await self._send_all(look, queues, ended, processes)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _send_all(self, look: bool, queues: set[str], ended: set[UUID], processes: set[UUID]) -> None:
        current = layer()
        if current is None:
            return
        if ended:
            ids = [str(task_id) for task_id in ended] if len(ended) <= _MOST_IDS else []
            await self._send(current.group_send, ENDED_GROUP, {"type": ENDED, "ids": ids})
        channels = [CHANNEL, *map(QUEUE_CHANNEL.format, queues)] if look else []
        for channel in [*map(PROCESS_CHANNEL.format, (process.hex for process in processes)), *channels]:
            await self._send(current.send, channel, {"type": WAKE})

    async def _send(self, send: Callable[[str, dict[str, Any]], Any], place: str, message: dict[str, Any]) -> None:
        if time.monotonic() < max(self._broken_until, self._full_until.get(place, 0.0)):
            return
        try:
            await asyncio.wait_for(send(place, message), _SEND_TIMEOUT)
            self.counts["sent"] += 1
            self._broken_until = 0.0
        except ChannelFull:
            self.counts["full"] += 1
            self._full_until[place] = time.monotonic() + _FULL_FOR
        except Exception as error:  # a layer may raise anything; a hint is never worth an error
            self.counts["failed"] += 1
            if not self._broken_until:  # once until it works again
                what = str(error) or type(error).__name__
                logger.warning("hint not sent error=%s; workers find new tasks by their poll", what)
            self._broken_until = time.monotonic() + _BREAK

    async def _hear(self) -> None:
        """Listen on the layer as long as anybody here waits for an end."""
        try:
            current = layer()
            if current is None:
                return
            channel = await current.new_channel()
            await current.group_add(ENDED_GROUP, channel)
            last = time.monotonic()
            while time.monotonic() - last < _HEAR_ON:
                if self._listeners:
                    last = time.monotonic()
                try:
                    self._tell(await asyncio.wait_for(current.receive(channel), _HEAR_FOR))
                except TimeoutError:
                    continue
            await current.group_discard(ENDED_GROUP, channel)
        except Exception as error:  # as above: those who wait have a poll
            self.counts["failed"] += 1
            logger.warning("announcements not heard error=%s; waiting goes on by the poll", error)
            await asyncio.sleep(_BREAK)
        finally:
            self._hear_on()

    def _hear_on(self) -> None:
        with self._lock:
            self._is_hearing = bool(self._listeners) and layer() is not None
        if self._is_hearing:
            self._schedule(self._hear)

    def _tell(self, message: Any) -> None:
        ids = message.get("ids") if isinstance(message, dict) else None
        with self._lock:
            if isinstance(ids, list) and ids:
                told = [listener for text in ids for listener in self._listeners.get(_uuid(text), ())]
            else:
                told = [listener for listeners in self._listeners.values() for listener in listeners]
        for listener in told:
            listener()


def _uuid(text: Any) -> UUID:
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        return UUID(int=0)


class _Process:
    """This process's notifier; a forked process gets one of its own."""

    notifier: Notifier | None = None
    lock = threading.Lock()


def _here() -> Notifier:
    notifier = _Process.notifier
    if notifier is None:
        with _Process.lock:
            notifier = _Process.notifier = _Process.notifier or Notifier()
    return notifier


def _start_afresh() -> None:
    _Process.notifier = None
    _Process.lock = threading.Lock()


os.register_at_fork(after_in_child=_start_afresh)
