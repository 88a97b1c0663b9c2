"""The journal of a running body: its steps, sleeps and events, each known by its name, and what earlier runs have left of them.

A body that is run again begins at its top and passes what is done. What a function step writes commits together with its record,
fenced by the claim: a worker that has lost the task can do neither. A body that sleeps or waits is left by way of `Suspended`, with
nothing written: the transaction that ends the run notes what it waits for.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import cached_property
from typing import Any, NoReturn

from asgiref.sync import sync_to_async
from django.db.backends.base.base import BaseDatabaseWrapper

from cq import codec, database, events, registry, sql
from cq.conf import conf
from cq.exceptions import Fenced, InvalidArguments, NotAllowedHere, Suspended
from cq.failpoints import failpoint
from cq.interruption import Interruption
from cq.keys import check_text
from cq.options import check_pause, check_permission
from cq.outcome import Claimed
from cq.suspension import EVENT, SLEEP, STEP, Wait

Duration = timedelta | float

_VERBS = {
    STEP: "cqt.step() or cqt.astep()",
    SLEEP: "cqt.sleep() or cqt.asleep()",
    EVENT: "cqt.wait_event() or cqt.await_event()",
}
# The step that is being called here, and whose.
_step: ContextVar[tuple[Journal, str] | None] = ContextVar("cq_current_step", default=None)


class Journal:
    """What one run of a body does with steps, sleeps and events."""

    def __init__(self, task: Claimed, interruption: Interruption | None = None, *, is_direct: bool = False) -> None:
        self._task = task
        self._interruption = interruption
        self._is_direct = is_direct
        self._used: set[tuple[str, str]] = set()
        self._unnamed_sleeps = 0
        self._nesting = 0
        # What the body was suspended for.
        self.wait: Wait | None = None

    def open(self, connection: BaseDatabaseWrapper) -> None:
        """Note how deep in transactions the body begins, on its thread's connection."""
        self._nesting = database.nesting(connection)

    @cached_property
    def _done(self) -> dict[tuple[str, str], str | None]:
        """What earlier runs have done, with the results of steps."""
        if self._is_direct:
            return {}
        return {(kind, name): result for kind, name, result in database.execute(sql.STEPS, self._task.id)}

    # Steps

    def step(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what a function returns, or has returned in an earlier run; its writes commit with the record of that."""
        _refuse_in_loop("step", "astep")
        self._enter(STEP, name)
        if _is_coroutine_function(func):
            raise InvalidArguments(f"The step {name!r} calls a coroutine function: await cqt.astep(…) in a coroutine.")
        return self._take(name, func, args, kwargs)

    async def astep(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Do what `step` does, in a coroutine; what a coroutine returned is recorded right afterwards."""
        self._enter(STEP, name)
        if not _is_coroutine_function(func):
            return await sync_to_async(self._take)(name, func, args, kwargs)
        text = await sync_to_async(self._kept)(name)
        if text is None:
            began = time.monotonic()
            with self._calling(name):
                result = await func(*args, **kwargs)
            failpoint("step.returned")
            text = await sync_to_async(self._keep)(name, result, began)
        (result,) = await sync_to_async(codec.recall)(text)
        return result

    def _take(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        text = self._kept(name)
        if text is None:
            began = time.monotonic()
            with database.atomic():  # what the function writes, and that it has run
                with self._calling(name):
                    result = func(*args, **kwargs)
                failpoint("step.returned")
                text = self._keep(name, result, began)
                failpoint("step.kept")
            failpoint("step.committed")
        # Also the first time it is what a later run will get.
        (result,) = codec.recall(text)
        return result

    def _kept(self, name: str) -> str | None:
        return self._done.get((STEP, name))

    def _keep(self, name: str, result: Any, began: float) -> str:
        """Record what a step has returned; `Fenced` if the task is no longer this claim's."""
        text = codec.dumps(result, limit=conf().MAX_RESULT_SIZE, what="result")
        if self._is_direct:
            return text
        task = self._task
        statement = sql.KEEP_STEP_OWN if self._is_atomic else sql.KEEP_STEP
        if not database.execute(statement, task.id, task.claims, name, time.monotonic() - began, text):
            raise Fenced(f"Task {task.id} was revoked or taken over; its step {name!r} is not kept.")
        return text

    @contextmanager
    def _calling(self, name: str) -> Iterator[None]:
        token = _step.set((self, name))
        try:
            yield
        finally:
            _step.reset(token)

    # Sleeps and events

    def sleep(self, duration: Duration, name: str | None = None) -> None:
        """Return if this sleep is over, else leave the body: it runs again when it is. A direct call sleeps here."""
        _refuse_in_loop("sleep", "asleep")
        time.sleep(self._seconds_to_sleep(duration, name))

    async def asleep(self, duration: Duration, name: str | None = None) -> None:
        """Do what `sleep` does, in a coroutine."""
        await asyncio.sleep(await sync_to_async(self._seconds_to_sleep)(duration, name))

    def _seconds_to_sleep(self, duration: Duration, name: str | None) -> float:
        seconds = check_pause("duration", duration)
        if name is None:
            self._unnamed_sleeps += 1
            name = f"#{self._unnamed_sleeps}"
        self._enter(SLEEP, name)
        if self._is_direct:
            return seconds
        if (SLEEP, name) not in self._done:
            self._suspend(Wait(SLEEP, name, seconds))
        return 0.0

    def wait_event(self, name: str, timeout: Duration | None = None, permission: str | None = None) -> Any:
        """Return the event's payload if it has come, else leave the body: it runs again when it has, or when its time is over.

        `EventTimeout` if it did not come in time.
        """
        _refuse_in_loop("wait_event", "await_event")
        seconds = None if timeout is None else check_pause("timeout", timeout)
        check_permission(permission)
        self._enter(EVENT, name)
        if self._is_direct:
            raise NotAllowedHere(
                f"wait_event({name!r}) in a direct call, which has no row that an event could be sent to. Use delay()."
            )
        event = events.receive(self._task, name, permission)
        if event is None:
            self._suspend(Wait(EVENT, name, seconds, permission))
        (payload,) = codec.recall(event.payload)
        return payload

    def _suspend(self, wait: Wait) -> NoReturn:
        self.wait = wait
        raise Suspended

    # What is not allowed

    @property
    def _is_atomic(self) -> bool:
        return registry.get(self._task.name).atomic

    def _enter(self, kind: str, name: str) -> None:
        """Refuse what cannot be: then the same line of the body does the same in every run."""
        if self._interruption is not None:
            self._interruption.check()
        verb = _VERBS[kind]
        self.refuse_in_step(verb)
        self.refuse_to_go_on()
        if kind != STEP:
            self._refuse_in_transaction(verb)
        key = kind, check_text("name", name)
        if key in self._used:
            raise NotAllowedHere(
                f"{verb} has been used with the name {name!r} in this run already: later runs could not tell the two apart. "
                "Give each its own name."
            )
        self._used.add(key)

    def refuse_in_step(self, verb: str) -> None:
        """A step is called once, and what it made would be made only by the run that calls it."""
        here = _step.get()
        if here is not None and here[0] is self:
            raise NotAllowedHere(f"{verb} inside the step {here[1]!r}. Use it in the body, before or after the step.")

    def refuse_to_go_on(self) -> None:
        """A body that was suspended has to end: it runs again from its top."""
        if self.wait is not None:
            raise NotAllowedHere(
                f"The body of {self._task.name} was suspended by {_VERBS[self.wait.kind]}, caught that, and went on. "
                "Let cq.Suspended pass: catch Exception, not BaseException, or raise it again."
            )

    def _refuse_in_transaction(self, verb: str) -> None:
        if self._is_atomic:
            raise NotAllowedHere(
                f"{verb} in an atomic task: its transaction would have to stay open meanwhile. Use @task(atomic=False)."
            )
        if not self._is_direct and database.nesting(database.connection()) > self._nesting:
            raise NotAllowedHere(
                f"{verb} inside a transaction, which would be rolled back. Use it before or after that."
            )


def is_suspension(error: BaseException) -> bool:
    """Say whether this is `Suspended`, or a task group's bundle of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Suspended)[1] is None
    return isinstance(error, Suspended)


def _is_coroutine_function(func: Any) -> bool:
    """Say whether this returns a coroutine: also a task function of one, or an instance that is called so."""
    return any(
        inspect.iscoroutinefunction(one) for one in (func, getattr(func, "__wrapped__", None), type(func).__call__)
    )


def _refuse_in_loop(verb: str, twin: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise NotAllowedHere(f"cqt.{verb}() would hold up the event loop: await cqt.{twin}(…).")
