"""What the codec's errors say: a value shown briefly, its place and type named, and what to pass instead.

What is shown is the user's: it must come out short and printable, and whatever its code does must not get in the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from io import IOBase
from os import PathLike
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import Any

from django.core.files import File
from django.db.models import QuerySet
from django.db.models.manager import BaseManager

from cq.codec.format import ALLOWED

_SHOWN = 80

_HINTS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((QuerySet, BaseManager), 'Pass what it finds now: list(queryset.values_list("pk", flat=True)).'),
    ((CoroutineType,), "Await it first, and pass its result."),
    ((bytearray, memoryview), "Pass bytes(value)."),
    ((IOBase, File), "Pass the file's name or its content, or the model instance it belongs to."),
    ((FunctionType, MethodType, BuiltinFunctionType, partial), "Pass a name by which the task can find it."),
    ((type,), "Pass a name by which the task can find it."),
    ((BaseException,), "Pass str(value)."),
    ((PathLike, complex), "Pass str(value)."),
    ((Iterator, range), "Pass list(value)."),
    ((Mapping,), "Pass dict(value)."),
)


def hint_for(value: Any) -> str:
    """Say what to pass instead of a value that is not allowed."""
    kind = type(value)
    if is_dataclass(kind):
        return "Pass dataclasses.asdict(value)."
    for kinds, hint in _HINTS:
        if issubclass(kind, kinds):
            return hint
    return f"Allowed are {ALLOWED}. Pass the values that the task needs, or an id."


def too_large(what: str, limit: int, how: str) -> str:
    return (
        f"The {what} may take at most {limit:,} bytes as JSON; {how}. "
        "Store large data in a model or a file, and pass the instance or the name."
    )


def show(value: Any) -> str:
    """Represent a value briefly and printably, whatever its `repr` does. A QuerySet's would run its query."""
    if issubclass(type(value), (QuerySet, BaseManager)):
        return f"<{type(value).__name__}>"
    try:
        text = repr(value)
    except Exception:  # It is the user's code, and the error we are about to raise says more than its error.
        return "<an object whose repr() raises>"
    return _shorten(text)


def _shorten(text: str) -> str:
    brief = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in brief)
    return printable if len(printable) <= 2 * _SHOWN else f"{printable[:_SHOWN]}…"


def quote(key: str) -> str:
    return _shorten(json.dumps(key[: _SHOWN + 1], ensure_ascii=False))


def step(part: Any) -> str:
    if part is None:
        return ""
    if part is ...:
        return "…"
    return f"[{part if isinstance(part, int) else quote(part)}]"


def type_name(value: Any) -> str:
    return name_of(type(value))


def name_of(kind: type) -> str:
    module = kind.__module__
    return _shorten(kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}")
