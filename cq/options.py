"""The options of a task: which there are, which values they take, and what is said about any other value."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from django.db import models

from cq.conf import conf
from cq.exceptions import InvalidOption
from cq.fields import reference
from cq.retry import validate_backoff_data, validate_policy

_LONGEST_DELAY = timedelta(days=36_525)
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
        return reference(value)

    return check


# What may be given at a call, and how each value is checked.
CALL_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "queue": check_queue,
    "priority": check_priority,
    "run_after": check_run_after,
    "retries": check_retries,
    "backoff": validate_backoff_data,
    "created_by": check_instance("created_by"),
    "subject": check_instance("subject"),
    "submit": check_flag("submit"),
}
# Those that stay with the row as data; the others have columns of their own.
KEPT = ("retries", "backoff")
# What only the decorator takes, because the value is code.
CODE_OPTIONS = ("name", "takes_task", "atomic", "retry_exceptions")


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
