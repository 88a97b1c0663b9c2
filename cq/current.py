"""The task whose body is running here, for those who are called by it."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cq.running import RunningTask

_current: ContextVar[RunningTask | None] = ContextVar("cq_current_task", default=None)


def task() -> RunningTask | None:
    """Return the running task, or None outside of a body."""
    return _current.get()


def enter(running: RunningTask) -> Token[RunningTask | None]:
    """Make this the running task until `leave`."""
    return _current.set(running)


def leave(token: Token[RunningTask | None]) -> None:
    """Make it what it was before."""
    _current.reset(token)
