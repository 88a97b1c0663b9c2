"""What becomes of tasks whose bodies did not end although their time was over: decided in threads of their own, for it is the
users' predicates and backoff functions that decide it.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from cq import engine, executor, registry
from cq.exceptions import TaskTimeout
from cq.failure import fit
from cq.interruption import Interruption
from cq.outcome import Claimed, Outcome

logger = logging.getLogger("cq.worker")

_MOST_FRAMES = 50


def decide(
    tasks: Sequence[Claimed], decided: Callable[[Outcome], object], interruption: Interruption | None = None
) -> None:
    """Say in a thread of its own how each of these tasks ends; `interruption` knows where the body of the only one is."""
    where = _where(interruption) if interruption is not None else None
    threading.Thread(target=_decide, args=(tasks, decided, where), name="cq-overdue", daemon=True).start()


def _decide(tasks: Sequence[Claimed], decided: Callable[[Outcome], object], where: str | None) -> None:
    for task in tasks:
        try:
            decided(_outcome(task, where))
        except BaseException:  # users' code; what is not decided here ends by the rescue of this process
            logger.exception("it could not be decided about a timeout task=%s", task.id)


def _outcome(task: Claimed, where: str | None) -> Outcome:
    definition = registry.find(task.name)
    timeout = definition.timeout_of(engine.decode_options(task.options)) if definition else None
    error = TaskTimeout(
        f"The body ran longer than its timeout of {timeout or 0:g} s, and could only be stopped with its process."
    )
    trace = None if where is None else fit(f"{where}{type(error).__module__}.{type(error).__qualname__}: {error}\n")
    return executor.failed(task, definition, error, kind="timeout", trace=trace)


def _where(interruption: Interruption) -> str:
    """Show where a body is, as a traceback does."""
    frames = [frame for frame in _frames(interruption) if frame is not None]
    runs = [at for at, frame in enumerate(frames) if frame.f_globals.get("__name__") == Interruption.__module__]
    body = [(frame, frame.f_lineno) for frame in frames[runs[-1] + 1 if runs else 0 :]]
    stack = traceback.StackSummary.extract(iter(body[-_MOST_FRAMES:]))
    return "".join(["Traceback (most recent call last):\n", *stack.format()])


def _frames(interruption: Interruption) -> Iterator[FrameType | None]:
    """Yield the frames of a body from the outermost on."""
    if interruption.loop_task is None:
        frame = sys._current_frames().get(interruption.thread_id or 0)
        yield from reversed([found for found, _ in traceback.walk_stack(frame)] if frame is not None else [])
        return
    coroutine: Any = interruption.loop_task.get_coro()
    while coroutine is not None:
        yield getattr(coroutine, "cr_frame", None)
        coroutine = getattr(coroutine, "cr_await", None)
