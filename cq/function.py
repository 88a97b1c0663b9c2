"""What users write with: `@task`, and the verbs of a task function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import EllipsisType
from typing import Any, overload

from asgiref.sync import sync_to_async

from cq import current, direct, engine, registry
from cq.call import Arguments, Call, as_args, call_of
from cq.conf import conf
from cq.definition import Definition, define, encode
from cq.engine import Row
from cq.exceptions import InvalidOption
from cq.ids import uuid7
from cq.models import Task
from cq.models.task import place
from cq.new import NewTask
from cq.options import check_call_options
from cq.serial import drain


class TaskFunction:
    """A registered function. Calling it runs it here; `delay` makes a task of the call."""

    def __init__(self, definition: Definition, options: Mapping[str, Any] | None = None) -> None:
        self.definition = definition
        self.options: Mapping[str, Any] = options or {}
        functools.update_wrapper(self, definition.func)

    def __repr__(self) -> str:
        return f"<task function {self.name}>"

    @property
    def name(self) -> str:
        """The registered name."""
        return self.definition.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, serially and without a row; return the result. Subtasks run afterwards, in order."""
        return direct.call(self.definition, args, kwargs)

    def using(self, **options: Any) -> TaskFunction:
        """Return this function with options for its calls; `InvalidOption` for what only the decorator takes."""
        return TaskFunction(self.definition, {**self.options, **check_call_options(options)})

    def delay(self, *args: Any, **kwargs: Any) -> Task:
        """Make a task of this call, in the caller's transaction; workers hear of it when that commits."""
        return self._enqueue(Call(self.definition, args, kwargs, self.options))

    def delay_args(self, args: Arguments = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Task:
        """Do what `delay` does, with the arguments as data, and options."""
        return self._enqueue(call_of(self, args, kwargs, options))

    def delay_many(self, many: Iterable[Arguments], **options: Any) -> list[Task]:
        """Make a task of each of these arguments, a thousand in a statement; all or none."""
        given = list(many)
        engine.check_fanout(len(given))
        chosen = {**self.options, **check_call_options(options)}
        if self.definition.has_own_unique_key(chosen) or "replace" in chosen:
            return self._note(place([Call(self.definition, as_args(args), {}, chosen).root() for args in given]))
        like = Call(self.definition, (), {}, chosen).template()
        tasks: list[Task] = []
        if given:
            engine.enqueue_many(
                like,
                self._rows(given, like, chosen),
                lambda inserted, rows: tasks.extend(Task.made_alike(like, rows, inserted)),
            )
        return self._note(tasks)

    def _rows(self, many: Sequence[Arguments], like: NewTask, options: Mapping[str, Any]) -> Iterator[Row]:
        has_own_key = self.definition.has_own_key(options)
        for given in many:
            args = as_args(given)
            if not like.held:
                self.definition.bind(args, {})
            key = self.definition.key_of(args, {}, options) if has_own_key else None
            yield uuid7(), encode(args, {})[0], key

    async def adelay(self, *args: Any, **kwargs: Any) -> Task:
        """Do what `delay` does, in a coroutine."""
        return await sync_to_async(self.delay)(*args, **kwargs)

    async def adelay_args(self, *args: Any, **kwargs: Any) -> Task:
        """Do what `delay_args` does, in a coroutine."""
        return await sync_to_async(self.delay_args)(*args, **kwargs)

    async def adelay_many(self, many: Iterable[Arguments], **options: Any) -> list[Task]:
        """Do what `delay_many` does, in a coroutine."""
        return await sync_to_async(self.delay_many)(many, **options)

    @classmethod
    def _enqueue(cls, call: Call) -> Task:
        new = call.root()
        if new.unique_key is not None:
            return cls._note(place([new]))[0]
        return cls._note([Task.made(new, engine.enqueue(new))])[0]

    @staticmethod
    def _note(tasks: list[Task]) -> list[Task]:
        running = current.task()
        if running is not None:
            for task in tasks:
                if task.created:
                    running.note_enqueued(task)
        elif conf().SERIAL and tasks:
            drain()
            for task in tasks:
                task.refresh_from_db()
        return tasks


@overload
def task(func: Callable[..., Any], /) -> TaskFunction: ...
@overload
def task(
    name: str | None = None,
    *,
    queue: str = "default",
    priority: int = 0,
    takes_task: bool = True,
    atomic: bool | None = None,
    retries: int = 0,
    retry_exceptions: Any = (),
    backoff: Any = "exponential",
    timeout: timedelta | float | None = None,
    result_ttl: timedelta | float | EllipsisType | None = ...,
    expires: timedelta | float | None = None,
    unique: Any = None,
    key: Callable[..., str] | None = None,
    limit: int | None = None,
    rate: str | None = None,
    on_lost: str = "retry",
) -> Callable[[Callable[..., Any]], TaskFunction]: ...
def task(name: Any = None, **options: Any) -> Any:
    """Make a task function of a function at the top level of a module; its first argument is the running task.

    Options: `name`, `queue`, `priority` (−100 … 100, higher first), `takes_task=False` (called without the running task), `atomic`
    (body, result and completion commit in one transaction; the default for functions), `retries` (further attempts after an
    exception), `retry_exceptions` (classes or predicates; none: any), `backoff` ("exponential", "linear", seconds, a list of
    seconds, or `f(attempt, exc) -> seconds`), `timeout` (seconds from the body's start, for each run; enforced even against a
    busy loop in C), `expires` (seconds after it became due until which it must have started), `result_ttl` (seconds a finished
    workflow is kept after its last end, None: for ever; default: the setting `RESULT_TTL`), `unique` ("args" or
    `f(*args, **kwargs) -> str`: while one with this key is unfinished, `delay` returns that one), `key`
    (`f(*args, **kwargs) -> str`: what `limit`, `rate` and fairness are counted by; default: the name), `limit` (so many
    bodies of one key at once), `rate` ("10/m": so many starts of one key in any minute; s, m, h, d), `on_lost` ("retry", or
    "fail": an attempt whose worker died or was stopped is not repeated). `InvalidOption` says what is wrong with a value or a function.
    """
    if isinstance(name, str) or name is None:
        return functools.partial(_decorate, name=name, **options)
    return _decorate(name, name=None, **options)


_OPTIONS: Mapping[str, Any] = {
    "queue": "default",
    "priority": 0,
    "takes_task": True,
    "atomic": None,
    "retries": 0,
    "retry_exceptions": (),
    "backoff": "exponential",
    "timeout": None,
    "result_ttl": ...,
    "expires": None,
    "unique": None,
    "key": None,
    "limit": None,
    "rate": None,
    "on_lost": "retry",
}


def _decorate(func: Any, *, name: str | None, **options: Any) -> TaskFunction:
    unknown = options.keys() - _OPTIONS.keys()
    if unknown:
        raise InvalidOption(f"{sorted(unknown)[0]}= is not an option of @task; there are name, {', '.join(_OPTIONS)}.")
    if isinstance(func, TaskFunction):
        raise InvalidOption(f"{func!r} is a task function already.")
    definition = define(func, name=name, **{**_OPTIONS, **options})
    registry.register(definition)
    return TaskFunction(definition)


def get_task(name: str) -> TaskFunction:
    """Return the task function of a registered name; `TaskNotRegistered` if there is none."""
    return TaskFunction(registry.get(name))


def enqueue(name: str, /, *args: Any, **kwargs: Any) -> Task:
    """Make a task by its registered name."""
    return get_task(name).delay(*args, **kwargs)


async def aenqueue(name: str, /, *args: Any, **kwargs: Any) -> Task:
    """Do what `enqueue` does, in a coroutine."""
    return await get_task(name).adelay(*args, **kwargs)


__all__ = ["TaskFunction", "aenqueue", "enqueue", "get_task", "task"]
