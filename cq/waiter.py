"""Wait for a task to end: woken by an announcement, backed by a poll whose pauses grow with the time already waited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async

from cq import current, database, engine, notifier
from cq.conf import conf
from cq.exceptions import NotAllowedHere, TaskGone, WaitTimeout
from cq.interruption import woken_by_interruption

if TYPE_CHECKING:
    from cq.models import Task

_FIRST_PAUSE = 0.02
_SHARE = 0.2


def wait(task: Task, timeout: float | None) -> None:
    """Return when the task has ended; `WaitTimeout` after so many seconds, 0 asks once."""
    if _has_ended(task):
        return
    _refuse_to_wait(task)
    told = threading.Event()
    with woken_by_interruption(told.set), _listening(task, told.set):
        for pause in _pauses(task, timeout):
            told.wait(pause)
            told.clear()
            if _has_ended(task):
                return


async def await_done(task: Task, timeout: float | None) -> None:
    """Do the same in a coroutine."""
    look = sync_to_async(_has_ended)
    if await look(task):
        return
    await sync_to_async(_refuse_to_wait)(task)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    with _listening(task, lambda: loop.call_soon_threadsafe(told.set)):
        for pause in _pauses(task, timeout):
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), pause)
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


def _pauses(task: Task, timeout: float | None) -> Iterator[float]:
    """Yield how long to pause before the next look; raise when the time is up."""
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        pause = min(max(_FIRST_PAUSE, waited * _SHARE), conf().POLL_INTERVAL)
        if timeout is not None:
            if waited >= timeout:
                raise WaitTimeout(f"Task {task.id} ({task.name}) is {task.status} after {timeout} seconds.")
            pause = min(pause, timeout - waited)
        yield pause
