"""What a call is unique by, and what it is counted by for `limit` and `rate`: texts, made from its arguments at the call."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from reprlib import repr as brief
from typing import Any

from cq import codec
from cq.exceptions import InvalidOption

LONGEST = 200
BY_ARGUMENTS = "args"
# The arguments are encoded for the row too, and there they have their limit.
_ANY_SIZE = 1 << 30


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many starts in any so many seconds."""

    starts: int
    seconds: int


def check_text(option: str, value: Any) -> str:
    """Return a text that can be stored as a key."""
    if isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable():
        return value
    raise InvalidOption(f"{option}={brief(value)}: expected 1 to {LONGEST} printable characters.")


def check_unique(value: Any) -> Any:
    """Check the option `unique` of a decorator: None, "args", or a function of a call's arguments."""
    if value is None or value == BY_ARGUMENTS:
        return value
    return check_function("unique", value, f"None, {BY_ARGUMENTS!r} or a function of the arguments that returns a text")


def check_key(value: Any) -> Any:
    """Check the option `key` of a decorator: None, or a function of a call's arguments."""
    return (
        None
        if value is None
        else check_function("key", value, "None or a function of the arguments that returns a text")
    )


def check_function(option: str, value: Any, expected: str) -> Callable[..., str]:
    """Refuse what cannot be called, or would return a coroutine."""
    if not callable(value) or isinstance(value, type):
        raise InvalidOption(f"{option}={brief(value)}: expected {expected}.")
    if inspect.iscoroutinefunction(value):
        raise InvalidOption(f"{option}={brief(value)}: expected {expected}; a coroutine function cannot.")
    function: Callable[..., str] = value
    return function


def unique_key(by: Any, bound: inspect.BoundArguments, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return what a call is unique by: its arguments, however they were passed, or what the function makes of them."""
    if by != BY_ARGUMENTS:
        return check_text("unique", by(*args, **kwargs))
    bound.apply_defaults()
    text = codec.dumps(bound.arguments, limit=_ANY_SIZE, what="arguments")
    return sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def key(by: Callable[..., str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return what a call is counted by."""
    return check_text("key", by(*args, **kwargs))
