"""When again, or never: what follows when an attempt ended with an exception.

Pure: it reads no clock and no row. The user's predicates and backoff functions run here; if one of them fails, the task
ends with its own exception, and a note on that says why it was not tried again.
"""

from __future__ import annotations

import inspect
import random as _random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from reprlib import repr as brief
from typing import Any

from cq.exceptions import NEVER_RETRIED, InvalidOption

MAX_RETRIES = 1000
MAX_EXPONENTIAL = 3600.0
MAX_SECONDS = 366 * 24 * 3600.0
JITTER = 0.25
WORDS = ("exponential", "linear")
ALLOWED_DATA = f"'exponential', 'linear', a number of seconds from 0 to {MAX_SECONDS:,.0f}, or a list of such numbers"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a task is tried again: how often, after which exceptions, and how long after the attempt that failed."""

    retries: int = 0
    retry_exceptions: tuple[Any, ...] = ()
    backoff: object = "exponential"


def decide(
    policy: RetryPolicy,
    exc: BaseException,
    *,
    retries_used: int,
    attempt: int,
    random: Callable[[], float] = _random.random,
) -> float | None:
    """Give the seconds until the next attempt, or None if there is to be none.

    `retries_used` counts the retries after exceptions so far, `attempt` is the number of the one that failed, from 1. A
    predicate or backoff function that raises or answers nonsense means no retry: a note on the exception says so.
    """
    if isinstance(exc, NEVER_RETRIED) or retries_used >= policy.retries:
        return None
    try:
        if not _is_retried(policy.retry_exceptions, exc):
            return None
        return _seconds(policy.backoff, attempt=attempt, exc=exc, random=random)
    except (Exception, SystemExit) as error:  # The user's code; it must not take the place of the task's own exception.
        with suppress(Exception):
            exc.add_note(f"Not retried: deciding about it failed with {type(error).__name__}: {error}")
        return None


def validate_policy(retries: Any, retry_exceptions: Any, backoff: Any) -> RetryPolicy:
    """Check the options as a decorator takes them; InvalidOption names the option, the value and what is allowed."""
    return RetryPolicy(
        retries=validate_retries(retries),
        retry_exceptions=_validate_retry_exceptions(retry_exceptions),
        backoff=_validate_backoff(backoff),
    )


def validate_retries(retries: Any) -> int:
    """Check the option `retries`."""
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MAX_RETRIES:
        raise InvalidOption(f"retries={brief(retries)}: expected a whole number from 0 to {MAX_RETRIES:,}.")
    return retries


def validate_backoff_data(backoff: Any) -> str | float | list[float]:
    """Check a backoff that is data, as `using(backoff=...)` takes it; a tuple becomes a list."""
    if isinstance(backoff, str) and backoff in WORDS:
        return backoff
    if _is_seconds(backoff):
        return _plain(backoff)
    if isinstance(backoff, (list, tuple)) and backoff and all(map(_is_seconds, backoff)):
        return [_plain(number) for number in backoff]
    if callable(backoff):
        raise InvalidOption(f"backoff={brief(backoff)}: functions belong to the decorator; expected {ALLOWED_DATA}.")
    raise InvalidOption(f"backoff={brief(backoff)}: expected {ALLOWED_DATA}.")


def _validate_backoff(backoff: Any) -> object:
    if not callable(backoff):
        data = validate_backoff_data(backoff)
        return tuple(data) if isinstance(data, list) else data
    _check_callable("backoff", backoff, ("attempt", "exc"), "returns seconds")
    return backoff


def _validate_retry_exceptions(retry_exceptions: Any) -> tuple[Any, ...]:
    conditions = (retry_exceptions,) if callable(retry_exceptions) else retry_exceptions
    if isinstance(conditions, (str, bytes)) or not isinstance(conditions, Iterable):
        raise _invalid_condition(retry_exceptions)
    conditions = tuple(conditions)
    for condition in conditions:
        if not callable(condition) or (isinstance(condition, type) and not issubclass(condition, BaseException)):
            raise _invalid_condition(condition)
        if not isinstance(condition, type):
            _check_callable("retry_exceptions", condition, ("exc",), "says whether to retry")
    return conditions


def _invalid_condition(found: Any) -> InvalidOption:
    return InvalidOption(
        f"retry_exceptions: found {brief(found)}; expected exception classes and functions exc -> bool, "
        "one or several, or () for any exception."
    )


def _check_callable(option: str, function: Any, parameters: tuple[str, ...], purpose: str) -> None:
    """Refuse a function that could not be called with these, or would return a coroutine."""
    call = f"f({', '.join(parameters)})"
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise InvalidOption(f"{option}={brief(function)}: expected {call} that {purpose}; a coroutine function cannot.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some of C's functions do not tell.
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        raise InvalidOption(
            f"{option}={brief(function)}: expected {call} that {purpose}; it takes {signature}."
        ) from None


def _is_retried(conditions: tuple[Any, ...], exc: BaseException) -> bool:
    return not conditions or any(_holds(condition, exc) for condition in conditions)


def _holds(condition: Any, exc: BaseException) -> bool:
    if isinstance(condition, type):
        return isinstance(exc, condition)
    answer = condition(exc)
    if inspect.isawaitable(answer):
        raise TypeError(f"the predicate {brief(condition)} returned {brief(answer)}, not a bool")
    return bool(answer)


def _seconds(backoff: Any, *, attempt: int, exc: BaseException, random: Callable[[], float]) -> float:
    failed = max(attempt, 1)
    if backoff == "exponential":
        jitter = 1 - JITTER + 2 * JITTER * random()
        return min(2.0 ** min(failed - 1, 12) * jitter, MAX_EXPONENTIAL)
    if backoff == "linear":
        return 5.0 * failed
    if isinstance(backoff, (list, tuple)):
        backoff = backoff[min(failed, len(backoff)) - 1]
    elif callable(backoff):
        backoff = backoff(attempt, exc)
    if not _is_seconds(backoff):
        raise ValueError(f"the backoff is {brief(backoff)}, not a number of seconds from 0 to {MAX_SECONDS:,.0f}")
    return float(backoff)


def _is_seconds(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    number: Any = value  # `Real` has no order among the types; its classes have.
    return bool(0 <= number <= MAX_SECONDS)


def _plain(number: Any) -> float:
    """Give what JSON can hold: ints and floats as they are, other real numbers as floats."""
    return number if type(number) is int else float(number)
