"""The options of a task: which there are, which values they take, and what is said about any other value."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from math import ceil
from reprlib import repr as brief
from typing import Any

from django.db import models

from cq.conf import conf
from cq.exceptions import InvalidOption
from cq.fields import reference
from cq.keys import Rate, check_text
from cq.retry import validate_backoff_data, validate_policy

_LONGEST_DELAY = timedelta(days=36_525)
_LONGEST_RUN = timedelta(days=366)
_LONGEST_KEPT = timedelta(days=24_000)
_LONGEST_REFERENCE = 200
_MOST_AT_ONCE = 1_000_000
_RATE = re.compile(r"([1-9][0-9]{0,6})/([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_REPLACEABLE = ("args", "run_after")
_PERMISSION = re.compile(r"[^.\s]{1,99}\.\S{1,100}")
_QUEUE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def check_queue_name(value: Any) -> str:
    """Return a string that can name a queue."""
    if isinstance(value, str) and _QUEUE.fullmatch(value):
        return value
    raise InvalidOption(f"queue={value!r}: expected 1 to 64 letters, digits, '-', '_' or '.'.")


def check_queue(value: Any) -> str:
    """Return the name of a queue that may be used."""
    name = check_queue_name(value)
    known = conf().QUEUES
    if known is not None and name not in known:
        raise InvalidOption(
            f"queue={value!r} is not in CQ['QUEUES'], which has {sorted(known)}. Add it there, or use one of these."
        )
    return name


def check_priority(value: Any) -> int:
    """Return a priority: −100 … 100, higher first."""
    if not isinstance(value, int) or isinstance(value, bool) or not -100 <= value <= 100:
        raise InvalidOption(f"priority={value!r}: expected a whole number from -100 to 100; higher runs first.")
    return value


def check_run_after(value: Any) -> datetime | timedelta | None:
    """Return an aware instant, or a time from now."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidOption(
                f"run_after={value!r} has no time zone. Use an aware datetime (django.utils.timezone), a timedelta or seconds."
            )
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta, type(None))):
        raise InvalidOption(f"run_after={value!r}: expected an aware datetime, a timedelta, or seconds from now.")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value or 0.0
    if not abs(seconds) <= _LONGEST_DELAY.total_seconds():  # nan is in no range
        raise InvalidOption(f"run_after={value!r}: expected a time within a hundred years.")
    return None if value is None else timedelta(seconds=seconds)


def _seconds(name: str, value: Any, longest: timedelta, least: str, other: str = "None, or ") -> float:
    """Return a duration in seconds; `least` says in words from where on."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number or isinstance(value, timedelta):
        seconds = float(value.total_seconds() if isinstance(value, timedelta) else value)
        if (seconds > 0 or (seconds == 0 and least == "from 0")) and seconds <= longest.total_seconds():
            return seconds
    raise InvalidOption(
        f"{name}={brief(value)}: expected {other}seconds or a timedelta {least} up to {longest.days:,} days."
    )


def check_timeout(value: Any) -> float | None:
    """Return the seconds that a body may run, or None."""
    return None if value is None else _seconds("timeout", value, _LONGEST_RUN, "above 0")


def check_patience(value: Any) -> float | None:
    """Return the seconds that somebody waits for an end, as they were given, or None."""
    seconds = None if value is None else _seconds("timeout", value, _LONGEST_DELAY, "from 0")
    return seconds if isinstance(value, timedelta) else value


def check_pause(name: str, value: Any) -> float:
    """Return the seconds that a body sleeps, or waits for an event."""
    return _seconds(name, value, _LONGEST_DELAY, "from 0", other="")


def check_permission(value: Any) -> str | None:
    """Return the name of a permission, or None."""
    if value is None or (isinstance(value, str) and _PERMISSION.fullmatch(value)):
        return value
    raise InvalidOption(f"permission={brief(value)}: expected None or a text like 'shop.approve_order'.")


def check_expires(value: Any) -> float | None:
    """Return the seconds after which it is too late for a first start, or None."""
    return None if value is None else _seconds("expires", value, _LONGEST_DELAY, "above 0")


def check_result_ttl(value: Any) -> int | None:
    """Return the whole seconds that a finished workflow is kept, or None: for ever."""
    return None if value is None else ceil(_seconds("result_ttl", value, _LONGEST_KEPT, "from 0"))


def check_limit(value: Any) -> int | None:
    """Return how many bodies of a key may run at once, or None."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_AT_ONCE):
        return value
    raise InvalidOption(f"limit={brief(value)}: expected None or a whole number from 1 to {_MOST_AT_ONCE:,}.")


def check_rate(value: Any) -> Rate | None:
    """Return how many starts a key may have in which time, or None."""
    if value is None:
        return None
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidOption(
            f'rate={brief(value)}: expected None or a text like "10/m": so many starts per s, m, h or d.'
        )
    return Rate(int(found[1]), _SECONDS[found[2]])


def check_on_lost(value: Any) -> str:
    """Return what follows when the worker died under a task."""
    if value in ("retry", "fail") and isinstance(value, str):
        return value
    raise InvalidOption(f"on_lost={brief(value)}: expected 'retry' or 'fail'.")


def check_replace(value: Any) -> tuple[str, ...]:
    """Return what a task that is there already takes over from a call with the same unique key."""
    if isinstance(value, (tuple, list)) and value and all(word in _REPLACEABLE for word in value):
        return tuple(dict.fromkeys(value))
    raise InvalidOption(
        f"replace={brief(value)}: expected a tuple of one or more of {', '.join(map(repr, _REPLACEABLE))}."
    )


def check_key_text(name: str) -> Callable[[Any], str]:
    """Make a check for an option that is a key; functions of the arguments belong to the decorator."""

    def check(value: Any) -> str:
        if callable(value):
            raise InvalidOption(f"{name}={brief(value)}: functions belong to the decorator; expected a text.")
        return check_text(name, value)

    return check


def check_flag(name: str) -> Callable[[Any], bool]:
    """Make a check for an option that is True or False."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidOption(f"{name}={value!r}: expected True or False.")
        return value

    return check


def check_retries(value: Any) -> int:
    """Return a number of further attempts."""
    return validate_policy(value, (), "exponential").retries


def check_instance(name: str) -> Callable[[Any], str | None]:
    """Make a check for an option that is a saved model instance; it becomes a reference."""

    def check(value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, models.Model) or value.pk is None:
            raise InvalidOption(f"{name}={value!r}: expected a saved model instance.")
        named = reference(value)
        if len(named) > _LONGEST_REFERENCE:
            raise InvalidOption(
                f"{name}={brief(named)}: model and key together take {len(named)} characters; {_LONGEST_REFERENCE} can be stored."
            )
        return named

    return check


# What may be given at a call, and how each value is checked.
CALL_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "queue": check_queue,
    "priority": check_priority,
    "run_after": check_run_after,
    "retries": check_retries,
    "backoff": validate_backoff_data,
    "timeout": check_timeout,
    "result_ttl": check_result_ttl,
    "expires": check_expires,
    "key": check_key_text("key"),
    "unique_key": check_key_text("unique_key"),
    "replace": check_replace,
    "limit": check_limit,
    "rate": check_rate,
    "on_lost": check_on_lost,
    "fail_fast": check_flag("fail_fast"),
    "ignore_failures": check_flag("ignore_failures"),
    "created_by": check_instance("created_by"),
    "subject": check_instance("subject"),
    "submit": check_flag("submit"),
}
# Those that stay with the row as data; the others have columns of their own.
KEPT = ("retries", "backoff", "timeout")
# What only the decorator takes, because the value is code.
CODE_OPTIONS = ("name", "takes_task", "atomic", "retry_exceptions", "unique", "compensate")


def check_call_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of one call; `InvalidOption` names the option, the value and what is allowed."""
    return {name: _check(name, value) for name, value in options.items()}


def _check(name: str, value: Any) -> Any:
    if name in CODE_OPTIONS:
        raise InvalidOption(f"{name}= belongs to the decorator: write @task({name}=…) where the function is defined.")
    if name not in CALL_OPTIONS:
        raise InvalidOption(f"{name}= is not an option here; there are {', '.join(sorted(CALL_OPTIONS))}.")
    return CALL_OPTIONS[name](value)


def route(name: str, own: str) -> str:
    """Return the queue of a task: what `CQ["ROUTES"]` says, else its own."""
    for pattern, queue in conf().ROUTES.items():
        if fnmatchcase(name, pattern):
            return queue
    return own
