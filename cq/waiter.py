"""Wait for a task to end: woken by an announcement, backed by a poll whose pauses grow with the time already waited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async

from cq import current, database, engine, notifier
from cq.conf import conf
from cq.exceptions import NotAllowedHere, TaskGone, WaitTimeout
from cq.interruption import woken_by_interruption
from cq.options import check_patience

if TYPE_CHECKING:
    from cq.models import Task

_FIRST_PAUSE = 0.02
_SHARE = 0.2
# Told, and not there yet: the end is being committed.
_EARLY_PAUSE = 0.0003


def wait(task: Task, timeout: float | None) -> None:
    """Return when the task has ended; `WaitTimeout` after so many seconds, 0 asks once."""
    timeout = check_patience(timeout)
    if _has_ended(task):
        return
    _refuse_to_wait(task)
    told = threading.Event()
    with woken_by_interruption(told.set), _listening(task, told.set):
        for pause in (pauses := _Pauses(task, timeout)):
            pauses.note_look(is_told=told.wait(pause))
            told.clear()
            if _has_ended(task):
                return


async def await_done(task: Task, timeout: float | None) -> None:
    """Do the same in a coroutine."""
    timeout = check_patience(timeout)
    look = sync_to_async(_has_ended)
    if await look(task):
        return
    await sync_to_async(_refuse_to_wait)(task)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    with _listening(task, lambda: loop.call_soon_threadsafe(told.set)):
        for pause in (pauses := _Pauses(task, timeout)):
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), pause)
            pauses.note_look(is_told=told.is_set())
            told.clear()
            if await look(task):
                return


def _has_ended(task: Task) -> bool:
    """Bring the task up to date, in one query."""
    if task.is_done:
        return True
    state = engine.state(task.pk)
    if state is None and not task._state.adding:
        raise TaskGone(f"Task {task.pk} is no longer stored.")
    if state is not None:
        task.update(state)
    return task.is_done


def _refuse_to_wait(task: Task) -> None:
    running = current.task()
    if running is not None and running.will_contain(task):
        raise NotAllowedHere(
            f"A body cannot wait for its own subtask {task.id}: subtasks start when it has returned. "
            "Chain what needs the result: cqt.subtask(…).chain(…)."
        )
    if database.in_transaction():
        raise NotAllowedHere(
            f"Waiting for task {task.id} inside an open transaction: what this transaction has enqueued starts only after its "
            "commit, and its locks may hold up the task. Wait outside of atomic(), or look at task.is_done."
        )


@contextmanager
def _listening(task: Task, listener: Callable[[], object]) -> Iterator[None]:
    notifier.listen(task.id, listener)
    try:
        yield
    finally:
        notifier.unlisten(task.id, listener)


class _Pauses(Iterator[float]):
    """How long to pause before the next look; raises when the time is up."""

    def __init__(self, task: Task, timeout: float | None) -> None:
        self._task = task
        self._timeout = timeout
        self._began = self._looked_at = time.monotonic()
        self._told_at = -inf

    def note_look(self, *, is_told: bool) -> None:
        """Note that a look begins, and whether because an end was announced: that may be visible only a moment later."""
        self._looked_at = time.monotonic()
        if is_told:
            self._told_at = self._looked_at

    def __next__(self) -> float:
        now = time.monotonic()
        waited = now - self._began
        pause = min(max(_FIRST_PAUSE, waited * _SHARE), conf().POLL_INTERVAL)
        if self._looked_at < self._told_at + notifier.EARLY:
            pause = _EARLY_PAUSE
        if self._timeout is not None:
            if waited >= self._timeout:
                raise WaitTimeout(
                    f"Task {self._task.id} ({self._task.name}) is {self._task.status} after {self._timeout} seconds."
                )
            pause = min(pause, self._timeout - waited)
        return pause
