"""Values that JSON and jsonb give back as they are: most of them, and these are encoded in C."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import copysign, inf
from types import NoneType
from typing import Any

from cq.codec.format import MAX_NESTING, TAG

# Longer ints go as hexadecimal: Python refuses to read decimal ones of 4,300 digits, or of 640 if so configured.
PLAIN_BITS = 2048

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))


def make_to_json() -> Callable[[Any], str]:
    """Return the encoder's `encode`, without what it makes anew at each call, where Python has that in C: a third of the time."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    encode = make(None, _ENCODER.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0))


to_json = make_to_json()


def plain_json(value: Any, limit: int) -> str | None:
    """Encode in C what survives as it is; None if anything needs a closer look."""
    if not _is_plain(value, limit):
        return None
    text = to_json(value)
    if "\\u0000" in text:
        return None
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return None
    return text


def _is_plain(value: Any, limit: int) -> bool:
    """Say whether a value is exactly JSON's types, holds no number that jsonb would change, and may fit the limit.

    Level by level: circular and repeated parts end at the nesting limit, or when they have used up the size limit.
    """
    left: float = limit
    level = [value]
    for _ in range(MAX_NESTING):
        below: list[Any] = []
        for item in level:
            weigh = _WEIGHTS.get(type(item))
            if weigh is None:
                return False
            left -= weigh(item, below)
            if left < 0:
                return False
        if not below:
            return True
        level = below
    return False


def _weigh_constant(value: bool | None, below: list[Any]) -> float:
    return 4


def _weigh_text(value: str, below: list[Any]) -> float:
    return len(value) + 2


def _weigh_integer(value: int, below: list[Any]) -> float:
    return 1 if value.bit_length() <= PLAIN_BITS else inf


def _weigh_float(value: float, below: list[Any]) -> float:
    return 3 if is_plain_float(value) else inf


def _weigh_list(value: list[Any], below: list[Any]) -> float:
    below += value
    return len(value) + 1


def _weigh_dict(value: dict[Any, Any], below: list[Any]) -> float:
    size = 1
    for key in value:
        if type(key) is not str or key == TAG:
            return inf
        size += len(key) + 4
    below += value.values()
    return size


# How many bytes a value's own JSON takes at least; infinitely many if it needs a closer look. Its contents go below.
_WEIGHTS: dict[type, Callable[[Any, list[Any]], float]] = {
    NoneType: _weigh_constant,
    bool: _weigh_constant,
    str: _weigh_text,
    int: _weigh_integer,
    float: _weigh_float,
    list: _weigh_list,
    dict: _weigh_dict,
}


def is_plain_float(number: float) -> bool:
    """Say whether jsonb gives this float back: its text has no exponent, and it is not -0.0."""
    return 1e-4 <= abs(number) < 1e16 or (number == 0 and copysign(1, number) > 0)
