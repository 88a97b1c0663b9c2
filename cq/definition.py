"""What `@task` knows of a function: its options, its signature, and how a call of it becomes a row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial, partialmethod
from reprlib import repr as brief
from types import BuiltinFunctionType, EllipsisType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

from cq import codec, keys
from cq.conf import Conf, conf
from cq.exceptions import InvalidArguments, InvalidOption
from cq.keys import Rate
from cq.new import GROUP, NewTask
from cq.options import (
    KEPT,
    check_expires,
    check_flag,
    check_limit,
    check_on_lost,
    check_priority,
    check_queue,
    check_queue_name,
    check_rate,
    check_result_ttl,
    check_timeout,
    route,
)
from cq.retry import RetryPolicy, validate_policy


class _Placeholder:
    """Stands for a predecessor's result while a call is only bound."""

    def __repr__(self) -> str:
        return "<the predecessor's result>"


RESULT = _Placeholder()


@dataclass(frozen=True)
class Definition:
    """One task function: code, name and the options given at its decoration."""

    func: Callable[..., Any]
    name: str
    queue: str
    priority: int
    takes_task: bool
    atomic: bool
    retry: RetryPolicy
    timeout: float | None
    result_ttl: int | EllipsisType | None  # …: as the setting says
    expires: float | None
    unique: Any
    key: Callable[..., str] | None
    limit: int | None
    rate: Rate | None
    on_lost: str
    fail_fast: bool
    ignore_failures: bool
    compensate: Compensation | None
    signature: inspect.Signature = field(repr=False)

    @property
    def place(self) -> str:
        """Say where the function is written."""
        code = getattr(self.func, "__code__", None)
        return f"{self.func.__module__}.{self.func.__qualname__}, line {code.co_firstlineno if code else '?'}"

    @cached_property
    def is_coroutine(self) -> bool:
        """Say whether it runs on the event loop."""
        return inspect.iscoroutinefunction(self.func)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check that a call fits; `InvalidArguments` shows the signature."""
        least, most = self._takes
        if not kwargs and least <= len(args) <= most:
            return
        try:
            self.signature.bind(*((None, *args) if self.takes_task else args), **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self.name}{self._shown()}: {error}; given were {_shape(args, kwargs)}.") from None

    @cached_property
    def _takes(self) -> tuple[int, float]:
        """How many positional arguments make a call that fits for certain."""
        parameters = list(self.signature.parameters.values())[1 if self.takes_task else 0 :]
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(plain) < len(parameters):
            return (1, 0)
        return sum(p.default is p.empty for p in plain), len(plain)

    def _shown(self) -> str:
        parameters = list(self.signature.parameters.values())[1 if self.takes_task else 0 :]
        return str(self.signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))

    def takes_result(self, args: Sequence[Any], kwargs: Mapping[str, Any], explicit: bool | None) -> bool:
        """Decide whether a predecessor's result is passed first: only if the call does not fit without it."""
        if explicit is not None:
            self.bind((RESULT, *args) if explicit else args, kwargs)
            return explicit
        try:
            self.bind(args, kwargs)
        except InvalidArguments:
            self.bind((RESULT, *args), kwargs)
            return True
        return False

    def new(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> NewTask:
        """Make the row of a call that is bound already; the options are checked."""
        new = self.template(options)
        new.args, new.kwargs = encode(args, kwargs)
        new.unique_key = self.unique_key_of(args, kwargs, options)
        if self.has_own_key(options):
            new.key = self.key_of(args, kwargs, options)
        if new.replace and new.unique_key is None:
            raise InvalidOption(
                f"replace={new.replace!r}: {self.name} has no unique key at this call. Give unique_key=…, or write "
                '@task(unique="args"); with submit=False, what the decorator says is decided when it is submitted.'
            )
        return new

    def template(self, options: Mapping[str, Any]) -> NewTask:
        """Make a row without what depends on a call's arguments: these, its unique key, and its key if a function makes that."""
        if options:
            return NewTask(**self._columns(options))
        settings = conf()
        columns = self._without_options.get(settings)
        if columns is None:
            columns = self._without_options[settings] = self._columns({})
        return NewTask(**columns)

    @cached_property
    def _without_options(self) -> WeakKeyDictionary[Conf, dict[str, Any]]:
        """What most calls have in common, by the settings in force."""
        return WeakKeyDictionary()

    def _columns(self, options: Mapping[str, Any]) -> dict[str, Any]:
        run_after = options.get("run_after")
        has_own_key = self.has_own_key(options)
        key = None if has_own_key else self.key_of((), {}, options)
        is_keyed = has_own_key or key is not None
        columns: dict[str, Any] = dict(
            name=self.name,
            queue=options["queue"] if "queue" in options else check_queue(route(self.name, self.queue)),
            priority=options.get("priority", self.priority),
            run_after=run_after if isinstance(run_after, datetime) else None,
            delay=run_after.total_seconds() if isinstance(run_after, timedelta) else None,
            held=not options.get("submit", True),
            options={name: options[name] for name in KEPT if name in options} or None,
            created_by=options.get("created_by"),
            subject=options.get("subject"),
            result_ttl=self._result_ttl(options),
            expires=options.get("expires", self.expires),
            at_most_once=options.get("on_lost", self.on_lost) == "fail",
            replace=options.get("replace", ()),
            key=key,
            key_limit=options.get("limit", self.limit) if is_keyed else None,
            rate=options.get("rate", self.rate) if is_keyed else None,
            is_coroutine=is_keyed and self.is_coroutine,
            fail_fast=options.get("fail_fast", self.fail_fast),
            ignore_failures=options.get("ignore_failures", self.ignore_failures),
            compensate=self.compensate.template() if self.compensate else None,
        )
        return {name: value for name, value in columns.items() if value is not None and value is not False}

    def has_own_key(self, options: Mapping[str, Any]) -> bool:
        """Say whether each call has a key of its own, made from its arguments."""
        return self.key is not None and "key" not in options and bool(options.get("submit", True))

    def has_own_unique_key(self, options: Mapping[str, Any]) -> bool:
        """Say whether each call has a unique key, given or made from its arguments."""
        return "unique_key" in options or (self.unique is not None and bool(options.get("submit", True)))

    def keys_at_submit(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, unique_key: str | None, key: str | None
    ) -> tuple[str | None, str | None]:
        """Return what the functions of the decorator make of a call that was held back, now that its arguments are all there.

        A unique key or a key that was given at the call stays: then None.
        """
        is_unique = self.unique is not None and unique_key is None
        has_own_key = self.key is not None and key in (None, self.name)
        if not is_unique and not has_own_key:
            return None, None
        args, kwargs = codec.resolve(list(args)), codec.resolve(dict(kwargs))
        return self.unique_key_of(args, kwargs, {}) if is_unique else None, self.key_of(
            args, kwargs, {}
        ) if has_own_key else None

    def _result_ttl(self, options: Mapping[str, Any]) -> int | None:
        given = options.get("result_ttl", self.result_ttl)
        return conf().result_ttl_seconds if given is ... else given

    def unique_key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """Return what a call is unique by, None if it is not; what is held back is so from its submit on."""
        if "unique_key" in options:
            given: str = options["unique_key"]
            return given
        if self.unique is None or not options.get("submit", True):
            return None
        bound = self.signature.bind(*((None, *args) if self.takes_task else args), **kwargs)
        if self.takes_task:
            bound.arguments.pop(next(iter(bound.arguments)))
        return keys.unique_key(self.unique, bound, args, kwargs)

    def key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """Return what a call is counted by: its key, or where there is only a limit or a rate, the function's name."""
        if "key" in options:
            given: str = options["key"]
            return given
        if self.key is not None and options.get("submit", True):
            return keys.key(self.key, args, kwargs)
        is_counted = (options.get("limit", self.limit) or options.get("rate", self.rate)) is not None
        return self.name if is_counted else None

    def refuse_as_late_call(self, options: Mapping[str, Any], what: str) -> None:
        """Refuse what is made of all arguments: of a call that is completed by somebody who may not know this function."""
        for name, value in (("unique", self.unique), ("key", None if "key" in options else self.key)):
            if value is not None:
                raise InvalidOption(
                    f"{self.name} cannot be {what}: its {name}= is made from arguments that are known only when it is called. "
                    f"Give it a function without {name}=."
                )
        for name in ("unique_key", "replace"):
            if name in options:
                raise InvalidOption(f"{name}= is not possible for {what}: nothing must keep it from being made.")

    def timeout_of(self, kept: Mapping[str, Any] | None) -> float | None:
        """Return how many seconds one row's body may run: what was given at its call, else the decorator's."""
        given: float | None = kept.get("timeout", self.timeout) if kept else self.timeout
        return given

    def policy(self, kept: Mapping[str, Any] | None) -> RetryPolicy:
        """Return the retry policy of one row: what was given at its call, else the decorator's."""
        if not kept:
            return self.retry
        return validate_policy(
            kept.get("retries", self.retry.retries),
            self.retry.retry_exceptions,
            kept.get("backoff", self.retry.backoff),
        )


@dataclass(frozen=True)
class Compensation:
    """What undoes a task: a task function, and the options for its calls."""

    definition: Definition
    options: Mapping[str, Any]

    def template(self) -> dict[str, Any]:
        """Return the call as it stays with the row of the task that it would undo: without arguments."""
        row = json.loads(self.definition.new((), {}, self.options).as_json())
        return {
            name: value for name, value in row.items() if value is not None and name not in ("id", "args", "kwargs")
        }


def check_compensate(value: Any) -> Compensation | None:
    """Return what undoes a task, or None; a task function that takes the id and the result of what it undoes."""
    if value is None:
        return None
    definition = getattr(value, "definition", None)
    if not isinstance(definition, Definition):
        raise InvalidOption(
            f"compensate={brief(value)}: expected None or a task function. Decorate it with @task, above this one."
        )
    options = value.options
    if "submit" in options:
        raise InvalidOption(f"compensate={brief(value)}: submit= is for tasks that stand alone.")
    definition.refuse_as_late_call(options, "a compensation")
    try:
        definition.bind((None, None), {})
    except InvalidArguments as error:
        raise InvalidOption(f"compensate={brief(value)}: it is passed a task's id and its result. {error}") from None
    return Compensation(definition, options)


def encode(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """Return the arguments as JSON texts; together they keep to `MAX_ARGS_SIZE`."""
    limit = conf().MAX_ARGS_SIZE
    args_text = codec.dumps(list(args), limit=limit, what="args")
    if not kwargs:
        return args_text, "{}"
    return args_text, codec.dumps(dict(kwargs), limit=max(2, limit - len(args_text.encode()) + 2), what="kwargs")


def define(
    func: Any,
    *,
    name: str | None,
    queue: str,
    priority: int,
    takes_task: bool,
    atomic: bool | None,
    retries: int,
    retry_exceptions: Any,
    backoff: Any,
    timeout: Any,
    result_ttl: Any,
    expires: Any,
    unique: Any,
    key: Any,
    limit: Any,
    rate: Any,
    on_lost: Any,
    fail_fast: Any,
    ignore_failures: Any,
    compensate: Any,
) -> Definition:
    """Check a function and its options; `InvalidOption` says what cannot be a task, and how to do it."""
    _refuse_what_cannot_be_found_again(func)
    signature = inspect.signature(func)
    _check_name(name)
    for option, value in (("takes_task", takes_task), ("atomic", atomic)):
        if not isinstance(value, bool) and not (option == "atomic" and value is None):
            raise InvalidOption(f"{option}={value!r}: expected True or False.")
    if takes_task and not _takes_a_positional(signature):
        raise InvalidOption(
            f"{func.__qualname__} takes no positional parameter, but the running task is passed first. "
            f"Write def {func.__name__}(cqt, …), or @task(takes_task=False)."
        )
    is_coroutine = inspect.iscoroutinefunction(func)
    if atomic and is_coroutine:
        raise InvalidOption(
            f"atomic=True on the coroutine {func.__qualname__}: Django's transactions do not work in async code. "
            "Use a function, or await a step that does the writing."
        )
    return Definition(
        func=func,
        name=name or f"{func.__module__}.{func.__qualname__}",
        queue=check_queue_name(queue),
        priority=check_priority(priority),
        takes_task=takes_task,
        atomic=not is_coroutine if atomic is None else atomic,
        retry=validate_policy(retries, retry_exceptions, backoff),
        timeout=check_timeout(timeout),
        result_ttl=result_ttl if result_ttl is ... else check_result_ttl(result_ttl),
        expires=check_expires(expires),
        unique=keys.check_unique(unique),
        key=keys.check_key(key),
        limit=check_limit(limit),
        rate=check_rate(rate),
        on_lost=check_on_lost(on_lost),
        fail_fast=check_flag("fail_fast")(fail_fast),
        ignore_failures=check_flag("ignore_failures")(ignore_failures),
        compensate=check_compensate(compensate),
        signature=signature,
    )


def _refuse_what_cannot_be_found_again(func: Any) -> None:
    if not isinstance(func, FunctionType):
        hint = next((hint for kinds, hint in _HINTS if isinstance(func, kinds)), "Write one that does this.")
        raise InvalidOption(
            f"{brief(func)} cannot be a task: expected a function written with def at the top level of a module. {hint}"
        )
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise InvalidOption(
            f"{func.__qualname__} cannot be a task: it is a generator. Return a list, or make subtasks."
        )
    if "<lambda>" in func.__qualname__:
        raise InvalidOption(
            "A lambda cannot be a task: workers could not find it again. Write it with def at the top level of a module."
        )
    if "<locals>" in func.__qualname__:
        raise InvalidOption(
            f"{func.__qualname__} cannot be a task: it is defined inside a function, where workers cannot find it again. "
            "Move it to the top level of a module, and pass what it needs as arguments."
        )
    if "." in func.__qualname__:
        raise InvalidOption(
            f"{func.__qualname__} cannot be a task: it is a method. Write a function at the top level of a module that takes "
            "the instance (model instances are passed by reference) and calls the method."
        )


_HINTS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (
        (partial, partialmethod),
        "Decorate the function itself, and give what is fixed at the call: f.delay(fixed, …), or f.s(fixed, …).",
    ),
    (
        (staticmethod, classmethod, MethodType, property),
        "Write a function that takes what the method needs (model instances are passed by reference) and calls it.",
    ),
    (type, "Write a function that makes an instance of the class and calls it."),
    (BuiltinFunctionType, "Write a function that calls it."),
    (Coroutine, "Decorate the function that returned this coroutine, without calling it."),
)


def _check_name(name: Any) -> None:
    if name == GROUP:
        raise InvalidOption(f"name={name!r} is the name of groups. Choose another.")
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable()):
        raise InvalidOption(f"name={name!r}: expected 1 to 200 printable characters.")


def _takes_a_positional(signature: inspect.Signature) -> bool:
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return any(parameter.kind in kinds for parameter in signature.parameters.values())


def _shape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Say what was given without its values: errors are stored and shown, and values may be secrets."""
    keywords = ", ".join(map(str, kwargs)) or "no keywords"
    own = [value for value in args if value is not RESULT]
    passed = "" if len(own) == len(args) else " (besides what is passed first)"
    return f"{len(own)} positional{passed} and {keywords}"
