"""JSON text to values. It imports nothing and calls nothing but the constructors in `_MAKERS`: the text may be foreign."""

from __future__ import annotations

import inspect
import json
import sys
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import partial
from types import NoneType
from typing import Any, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from cq.codec.failed import FailedMember
from cq.codec.format import TAG
from cq.codec.messages import show
from cq.codec.references import ModelRef, Unreadable
from cq.exceptions import NotSerializable


def loads(text: str, *, strict: bool = True) -> Any:
    """Give the value that `dumps` wrote, model instances as `ModelRef`.

    NotSerializable if the text is not of `dumps`' making, or names an enum that is not among the imported modules;
    with `strict=False` only that part becomes `Unreadable`, so that one foreign row does not hide all others.
    """
    try:
        if TAG not in text:
            return json.loads(text)
        return json.loads(text, object_hook=_untag if strict else _untag_or_keep)
    except (ValueError, RecursionError) as error:
        raise NotSerializable(f"The stored text cannot be read as JSON: {error}.") from error


def _untag(found: dict[str, Any]) -> Any:
    """Make the value that a tagged object stands for; leave every other object alone."""
    if TAG not in found:
        return found
    content = found[TAG]
    if len(found) != 1 or type(content) is not list or not content:
        raise NotSerializable(f"A stored value has the key {TAG!r}, but is not of the form {{{TAG!r}: [word, …]}}.")
    word, *parts = content
    maker = _MAKERS.get(word) if isinstance(word, str) else None
    if maker is None:
        raise NotSerializable(
            f"A stored value is tagged {show(word)}; known are {', '.join(_MAKERS)}. Was it written by a newer CQ?"
        )
    try:
        return maker(*parts)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, NotSerializable):
            raise
        raise NotSerializable(f"A stored value cannot be read as {word}: {show(parts)} ({error}).") from error


def _untag_or_keep(found: dict[str, Any]) -> Any:
    try:
        return _untag(found)
    except NotSerializable as error:
        return Unreadable(found, str(error))


_Moment = TypeVar("_Moment", datetime, time)


def _in_zone(moment: _Moment, zone: str | None = None, fold: int = 0) -> _Moment:
    """Put a moment back into its named zone, unless this machine does not know that or knows other rules for it."""
    if zone is None:
        return moment.replace(fold=fold)
    try:
        placed = moment.replace(tzinfo=ZoneInfo(zone), fold=fold)
    except (LookupError, ValueError, OSError):
        return moment
    return placed if placed.utcoffset() == moment.utcoffset() else moment


def _enum(module: str, qualname: str, name: str | int) -> Enum:
    """Find a member among the imported modules; a number means a combination of flags."""
    kind = find_enum(module, qualname)
    if kind is None:
        raise NotSerializable(f"The enum {module}.{qualname} is not among the imported modules. Was it moved?")
    if isinstance(name, str):
        return kind[name]
    if not issubclass(kind, Flag):
        raise NotSerializable(f"{module}.{qualname} has no member {name!r}.")
    return cast(Enum, kind(name))


def find_enum(module: str, qualname: str) -> type[Enum] | None:
    """Look an enum class up without importing, and without running a module's or a class's `__getattr__`."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part, None)
        if not isinstance(found, type):
            return None
    return found if issubclass(found, Enum) else None


def _model_ref(label: str, pk: Any, using: str) -> ModelRef:
    if not isinstance(label, str) or not isinstance(using, str):
        raise TypeError("label and database are strings")
    hash(pk)
    return ModelRef(label, pk, using)


def _failed_member(task_id: UUID, status: str, error: str | None) -> FailedMember:
    if not isinstance(task_id, UUID) or not isinstance(status, str) or not isinstance(error, (str, NoneType)):
        raise TypeError("a failed member is an id, a status and a text")
    return FailedMember(task_id, status, error)


_MAKERS: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": partial(b64decode, validate=True),
    "int": lambda text: int(text, 16),
    "float": float,
    "decimal": Decimal,
    "uuid": UUID,
    "date": date.fromisoformat,
    "datetime": lambda text, *zone: _in_zone(datetime.fromisoformat(text), *zone),
    "time": lambda text, *zone: _in_zone(time.fromisoformat(text), *zone),
    "timedelta": timedelta,
    "enum": _enum,
    "model": _model_ref,
    "failed": _failed_member,
}
