"""What a row holds as JSON, with everything masked that `CQ["SENSITIVE_KEYS"]` names.

Works on the stored text: masked before anything is decoded, and nothing that cannot be decoded gets in the way.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cq import codec, registry
from cq.conf import conf
from cq.exceptions import NotSerializable

MASK = "********"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def read(stored: str | None) -> Any:
    """Give what a jsonb column holds, masked, as plain JSON; a sentence in its place if it cannot be read."""
    if stored is None:
        return None
    try:
        return masked(json.loads(stored, parse_int=_integer))
    except (ValueError, RecursionError) as error:
        return f"<unreadable: {type(error).__name__}>"


def _integer(digits: str) -> Any:
    try:
        return int(digits)
    except ValueError:  # Python refuses numbers of more than 4,300 digits.
        return digits


def masked(value: Any) -> Any:
    """Copy a JSON value, all values of sensitive keys masked, at any depth."""
    return _masked(value, _sensitive())


def _sensitive() -> frozenset[str]:
    return frozenset(_fold(name) for name in conf().SENSITIVE_KEYS)


def _fold(name: str) -> str:
    """Make names equal that differ in case only, or in `-` for `_`."""
    return name.casefold().replace("-", "_")


def _masked(value: Any, sensitive: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_masked(item, sensitive) for item in value]
    if not isinstance(value, dict):
        return value
    if _is_tagged_dict(value):
        return {codec.TAG: ["dict", [_masked_pair(pair, sensitive) for pair in value[codec.TAG][1]]]}
    return {key: MASK if _fold(key) in sensitive else _masked(item, sensitive) for key, item in value.items()}


def _is_tagged_dict(value: Mapping[str, Any]) -> bool:
    """Recognize how a dict is stored that has a key which would be taken for a tag."""
    match value.get(codec.TAG):
        case ["dict", list()]:
            return len(value) == 1
    return False


def _masked_pair(pair: Any, sensitive: frozenset[str]) -> Any:
    match pair:
        case [str() as key, _] if _fold(key) in sensitive:
            return [key, MASK]
    return _masked(pair, sensitive)


def mask_positional(name: str, args: Any, *, pass_result: bool = False) -> Any:
    """Mask positional arguments whose parameters have sensitive names, if the task function is known here."""
    definition = registry.find(name)
    if definition is None or not isinstance(args, list):
        return args
    parameters = list(definition.signature.parameters.values())[definition.takes_task + pass_result :]
    sensitive = _sensitive()
    hidden = {
        place
        for place, parameter in enumerate(parameters)
        if parameter.kind in _POSITIONAL and _fold(parameter.name) in sensitive
    }
    return [MASK if place in hidden else value for place, value in enumerate(args)]


def as_call(args: Any, kwargs: Any) -> str:
    """Write masked arguments as in a call: `'a@b.org', 3, password='********'`."""
    positional = (
        [as_python(value) for value in args]
        if isinstance(args, Sequence) and not isinstance(args, str)
        else [as_python(args)]
    )
    if not isinstance(kwargs, Mapping):
        return ", ".join([*positional, f"**{as_python(kwargs)}"])
    return ", ".join([*positional, *(f"{key}={as_python(value)}" for key, value in kwargs.items())])


def as_python(value: Any) -> str:
    """Write a masked JSON value as the Python value that it stands for; as JSON if that cannot be made."""
    try:
        return repr(codec.loads(json.dumps(value), strict=False))
    except (NotSerializable, ValueError, RecursionError):
        return json.dumps(value)
    except Exception as error:  # an enum's own __repr__ may do anything
        return f"<a value whose repr() raises {type(error).__name__}>"
