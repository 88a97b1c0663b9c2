"""Stop a running body from another thread: told, it finds out when it asks; interrupted, an exception lands in it.

One object per run of a body. The exception may land between any two bytecodes of the body, and nowhere else: engine code that
runs after the body, or in it on state that the whole process shares (`shielded`), must never be torn. A lock could not promise
that, because the exception may land between taking a lock and noting that it is held. So there is one *chance* to interrupt a
body, an item in a list: whoever takes it out, in one step, has decided. The stopper takes it before it injects; the body's
thread takes it when it leaves, or for as long as it is shielded.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum, auto
from typing import Any

from cq.exceptions import Fenced, TaskTimeout

_SPIN = 0.0002


class Interrupted(BaseException):
    """The body is stopped from outside: its time is over, or it was revoked."""


class Why(Enum):
    """For what reason a body is stopped."""

    # It runs longer than its timeout.
    TIMEOUT = auto()
    # Its task was revoked, or is somebody else's by now.
    OVERTAKEN = auto()
    # Its worker is stopped, and the grace is over.
    STOPPED = auto()


class Stopped(BaseException):
    """The body was interrupted because its worker is stopped: nobody is to blame."""


class _Here(threading.local):
    """The body whose function runs in this thread."""

    interruption: Interruption | None = None


_here = _Here()


class Interruption:
    """One run of a body, and the way to end it from outside."""

    # Here and not in `__init__` is what seldom changes: there is one of these for each body, however short.
    deadline: float | None = None  # on the monotonic clock; None: it may run for ever
    why: Why | None = None
    # Somebody tells this run of it when its task is overtaken.
    is_watched = False
    # The body was ended by this, whatever it returned or raised.
    was_interrupted = False
    # An exception was injected: it may have landed anywhere in the body, in a driver's code too.
    is_torn = False
    has_left = False
    left: Callable[[], object] | None = None
    # Breaks off what the body waits for where no exception can land: in a database driver.
    cancel: Callable[[], object] | None = None
    thread_id: int | None = None
    loop_task: asyncio.Task[Any] | None = None
    _is_wanted = False
    _is_injected = False
    _shields = 0

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        self._wakes: list[Callable[[], object]] = []
        self._chance: list[None] = []

    def start(self) -> None:
        """Let the time run."""
        if self.timeout is not None:
            self.deadline = time.monotonic() + self.timeout

    # For the body's side.

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a function's body in this thread; `TaskTimeout` or `Fenced` if it was interrupted, whatever it did about that."""
        self.thread_id = threading.get_ident()
        outer, _here.interruption = _here.interruption, self
        try:
            try:
                self._offer()
                result = func(*args, **kwargs)
            finally:
                self.leave()
        except BaseException as error:
            self.leave()  # again: the exception may have landed on the way to the first one
            if self.was_interrupted:
                raise self.meaning().with_traceback(error.__traceback__) from _told_by(error)
            raise
        finally:
            _here.interruption = outer
        if self.was_interrupted:
            raise self.meaning()
        return result

    async def arun(self, func: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Do the same for a coroutine, on its loop."""
        self.loop_task = here = asyncio.current_task()
        try:
            if self._is_wanted:  # it was stopped before it began
                self.was_interrupted = True
                raise asyncio.CancelledError
            result = await func(*args, **kwargs)
        except BaseException as error:
            if self.was_interrupted:
                raise self.meaning().with_traceback(error.__traceback__) from _told_by(error)
            raise
        finally:
            self.has_left = True
            if self.was_interrupted and here is not None:
                here.uncancel()  # of the cancellations that are left, none is ours
            if self.left is not None:
                self.left()
        if self.was_interrupted:
            raise self.meaning()
        return result

    def leave(self) -> None:
        """From now on nothing lands here any more; what is pending is taken back. May be called again."""
        if self.has_left:
            return
        if not self._take():
            self._take_back()
        self.has_left = True
        if self.left is not None:
            self.left()

    def check(self) -> None:
        """Raise if the body is to end: `TaskTimeout` when its time is over, `Fenced` when its task was overtaken."""
        if self.why is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.why = Why.TIMEOUT
        if self.why is Why.TIMEOUT:
            if self._take():
                self._is_injected = True  # nothing else is to come
            self.was_interrupted = True
            raise self.meaning()
        if self.why is Why.OVERTAKEN:
            raise self.meaning()

    def meaning(self) -> TaskTimeout | Fenced | Stopped:
        """Say as an exception why the body is stopped."""
        if self.why is Why.STOPPED:
            return Stopped()
        if self.why is Why.TIMEOUT:
            return TaskTimeout(f"The body ran longer than its timeout of {self.timeout:g} s.")
        return Fenced(
            "The task was revoked, or taken over by another worker, while its body ran; nothing of it is kept."
        )

    def _take(self) -> bool:
        """Take the chance, if it is there. One step: of several who try, one gets it."""
        try:
            self._chance.pop()
        except IndexError:
            return False
        return True

    def _take_back(self) -> None:
        """Wait until the stopper has injected its exception, and take it back if it has not landed."""
        while not self._is_injected:
            time.sleep(_SPIN)
        _inject(self.thread_id, None)

    def withdraw(self) -> None:
        """Let nothing land until `offer`."""
        if not self._shields and not self._take():
            self._take_back()
        self._shields += 1

    def offer(self) -> None:
        """Let it land again; what came meanwhile lands here."""
        self._shields -= 1
        if self._shields:
            return
        if self.was_interrupted:
            raise Interrupted  # and no other chance: only one exception is ever injected
        self._offer()

    def _offer(self) -> None:
        self._chance.append(None)
        if self._is_wanted and self._take():
            self.was_interrupted = self._is_injected = True
            raise Interrupted

    # For the stopper's side.

    def tell(self) -> None:
        """Let the body's next question be answered: its task was overtaken."""
        self.why = self.why or Why.OVERTAKEN

    def interrupt(self, why: Why) -> None:
        """Let an exception land in the body, once; nothing if it has left by then."""
        self.why = self.why or why
        self._is_wanted = True
        if self.loop_task is not None:
            self.loop_task.get_loop().call_soon_threadsafe(self._cancel)
        elif self._take():
            self.was_interrupted = self.is_torn = True
            try:
                _inject(self.thread_id, Interrupted)
                if self.cancel is not None:
                    self.cancel()
            finally:
                self._is_injected = True  # only now may the body leave: nothing of this hits what comes after it
        for wake in list(self._wakes):
            wake()

    def _cancel(self) -> None:
        """On the loop, so that it is either in the body or after it; it lands where the body waits."""
        if not self.has_left and not self.was_interrupted and self.loop_task is not None:
            self.was_interrupted = True
            self.loop_task.cancel()

    def add_wake(self, wake: Callable[[], object]) -> None:
        """Call this when the body is interrupted: it waits for something else."""
        self._wakes.append(wake)

    def remove_wake(self, wake: Callable[[], object]) -> None:
        """Do so no more."""
        self._wakes.remove(wake)


def shielded() -> AbstractContextManager[None]:
    """Let no interruption of this thread's body land in what is done inside; it lands right after."""
    here = _here.interruption
    return nullcontext() if here is None else _shield(here)


@contextmanager
def _shield(here: Interruption) -> Iterator[None]:
    here.withdraw()
    try:
        yield
    finally:
        here.offer()


@contextmanager
def woken_by_interruption(wake: Callable[[], object]) -> Iterator[None]:
    """Call this if the body in this thread is interrupted meanwhile: a thread that waits for a lock notices nothing else."""
    here = _here.interruption
    if here is None:
        yield
        return
    here.add_wake(wake)
    try:
        yield
    finally:
        here.remove_wake(wake)


def _told_by(error: BaseException) -> BaseException | None:
    """Return what the body made of the interruption, if it is more than that."""
    return None if isinstance(error, (Interrupted, asyncio.CancelledError, TaskTimeout, Fenced)) else error


def _inject(thread_id: int | None, exception: type[BaseException] | None) -> None:
    """Make an exception pending in a thread; None takes back what is pending."""
    thing = ctypes.py_object() if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id or 0), thing)
