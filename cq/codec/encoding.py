"""Values to JSON text: in one go if they are plain, else part by part, tagging what JSON or jsonb would change.

Whatever is written here, `decoding` must make again.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from math import isfinite
from types import NoneType
from typing import Any, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

from django.apps import apps
from django.db import router
from django.db.models import Model
from django.utils.datastructures import MultiValueDict
from django.utils.functional import LazyObject, Promise, empty

from cq.codec.decoding import find_enum
from cq.codec.failed import FailedMember
from cq.codec.format import MAX_NESTING, TAG
from cq.codec.messages import hint_for, name_of, quote, show, step, too_large, type_name
from cq.codec.plain import PLAIN_BITS, is_plain_float, plain_json, to_json
from cq.codec.references import ModelRef, Unreadable
from cq.exceptions import NotSerializable, TooLarge


def dumps(value: Any, *, limit: int, what: str) -> str:
    """Give the JSON text of a value, at most `limit` bytes; `what` ("arguments", "result") names it in errors.

    NotSerializable says where something is that cannot be stored, and what to do; TooLarge where the limit was reached.
    Subclasses of the allowed types come back as those. Sets are written in order: equal sets give equal texts.
    """
    text = plain_json(value, limit)
    if text is None:
        text = to_json(_Tagging(value, limit=limit, what=what).tag(value))
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise TooLarge(too_large(what, limit, f"it takes {size:,} bytes"))
    return text


class _Tagging:
    """One walk over a value that is not plain: it knows where it is, what it is inside of, and what the limit leaves.

    No code of the user's runs here but lazy objects, time zones, model keys and, guarded, `repr`: types are compared by
    `type(value)`, contents read through the base type's own methods. What is spent never exceeds what the text takes.
    """

    __slots__ = ("above", "left", "limit", "path", "root", "what")

    def __init__(self, value: Any, *, limit: int, what: str) -> None:
        self.what = what
        self.limit = self.left = limit
        self.path: list[int | str | None] = []
        self.above: set[int] = set()
        self.root = what
        if what == "arguments":
            self.root = "kwargs" if issubclass(type(value), dict) else "args"

    def tag(self, value: Any) -> Any:
        """Give the same value in JSON's types; NotSerializable or TooLarge if that cannot be."""
        kind = type(value)
        tagger = _TAGGERS.get(kind)
        if tagger is None:
            tagger = next((tagger for base, tagger in _TAGGERS.items() if issubclass(kind, base)), None)
        if tagger is None:
            self.refuse(value)
        return tagger(self, value)

    def tag_constant(self, value: bool | None) -> bool | None:
        return value

    def tag_integer(self, value: int) -> Any:
        number = int.__pos__(value)
        if number.bit_length() <= PLAIN_BITS:
            return number
        self.spend(number.bit_length() // 4)
        return {TAG: ["int", hex(number)]}

    def tag_float(self, value: float) -> Any:
        number = float.__pos__(value)
        if is_plain_float(number):
            return number
        if not isfinite(number):
            self.refuse(value, "JSON has neither NaN nor infinity. Pass None or a str instead.")
        return {TAG: ["float", repr(number)]}

    def tag_text(self, value: str) -> str:
        self.spend(str.__len__(value))
        text = str.__str__(value)
        if "\x00" in text:
            self.fail(
                f"contains NUL (U+0000) at position {text.index(chr(0))} of a str, which PostgreSQL cannot store. "
                "Remove it, or pass bytes."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                self.fail(
                    f"contains a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start} of a str, "
                    'which is not Unicode. Decode the text properly, or pass value.encode("utf-8", "surrogatepass").'
                )
        return text

    def tag_list(self, value: list[Any]) -> Any:
        return self.tag_items(value, list)

    def tag_tuple(self, value: tuple[Any, ...]) -> Any:
        if type(value) is not tuple:
            hint = "value._asdict() or tuple(value)" if hasattr(type(value), "_asdict") else "tuple(value)"
            self.refuse(value, f"It would come back as a plain tuple, without its names. Pass {hint}.")
        return {TAG: ["tuple", self.tag_items(value, tuple)]}

    def tag_set(self, value: set[Any]) -> Any:
        return {TAG: ["set", sorted(self.tag_items(value, set), key=to_json)]}

    def tag_frozenset(self, value: frozenset[Any]) -> Any:
        return {TAG: ["frozenset", sorted(self.tag_items(value, frozenset), key=to_json)]}

    def tag_items(self, value: Any, base: Any) -> Any:
        self.enter(value, base.__len__(value))
        tagged = []
        for index, item in enumerate(base.__iter__(value)):
            self.path.append(index if base in (list, tuple) else None)
            tagged.append(self.tag(item))
            self.path.pop()
        self.above.discard(id(value))
        return tagged

    def tag_dict(self, value: dict[Any, Any]) -> Any:
        if issubclass(type(value), MultiValueDict):
            self.refuse(value, "It may hold several values per key. Pass dict(value.lists()), or value.dict().")
        self.enter(value, dict.__len__(value))
        tagged: dict[str, Any] = {}
        for key, item in dict.items(value):
            if not issubclass(type(key), str):
                self.fail(
                    f"is a dict with the key {show(key)} of type {type_name(key)}; in JSON keys are str. "
                    "Pass {str(key): item for key, item in value.items()}, or a list of pairs."
                )
            name = self.tag_text(key)
            if name in tagged:
                self.fail(f"is a dict with two keys that are the same text, {quote(name)}. Make them differ.")
            self.path.append(name)
            tagged[name] = self.tag(item)
            self.path.pop()
        self.above.discard(id(value))
        return {TAG: ["dict", [*map(list, tagged.items())]]} if TAG in tagged else tagged

    def tag_bytes(self, value: bytes) -> Any:
        self.spend(bytes.__len__(value))
        return {TAG: ["bytes", b64encode(value).decode("ascii")]}

    def tag_datetime(self, value: datetime) -> Any:
        return {TAG: ["datetime", datetime.isoformat(value), *_zone(value)]}

    def tag_time(self, value: time) -> Any:
        return {TAG: ["time", time.isoformat(value), *_zone(value)]}

    def tag_date(self, value: date) -> Any:
        return {TAG: ["date", date.isoformat(value)]}

    def tag_timedelta(self, value: timedelta) -> Any:
        return {TAG: ["timedelta", value.days, value.seconds, value.microseconds]}

    def tag_uuid(self, value: UUID) -> Any:
        return {TAG: ["uuid", UUID.__str__(value)]}

    def tag_decimal(self, value: Decimal) -> Any:
        if not Decimal.is_finite(value):
            self.refuse(value, "NaN and infinity cannot be stored. Pass None or a str instead.")
        text = Decimal.__str__(value)
        self.spend(len(text))
        return {TAG: ["decimal", text]}

    def tag_enum(self, member: Enum) -> Any:
        kind = type(member)
        home = [kind.__module__, kind.__qualname__]
        if kind.__module__ == "__main__" or find_enum(*home) is not kind:
            self.refuse(
                member, f"A worker would not find {name_of(kind)}. Define it at a module's top, or pass value.value."
            )
        if kind.__members__.get(member._name_) is member:
            return {TAG: ["enum", *home, member._name_]}
        if isinstance(member, Flag):
            return {TAG: ["enum", *home, int(member._value_)]}
        return self.refuse(member, "It is not among the members of its enum. Pass value.value.")

    def tag_instance(self, value: Model) -> Any:
        model = type(value)
        label = model._meta.label_lower
        keys = value.pk if isinstance(value.pk, tuple) else (value.pk,)
        if value._state.adding or None in keys:
            self.fail(f"is an unsaved {label}, and model instances go by reference. Save it first.")
        try:
            apps.get_model(label)
        except LookupError:
            self.fail(f"is a {label}, which is no model of an installed app. Pass the values the task needs.")
        # Where it is written, not where it was read: a replica may not have the row yet when the task runs.
        using = router.db_for_write(model, instance=value)
        return self.tag_reference(ModelRef(label, model._meta.pk.to_python(value.pk), using))

    def tag_reference(self, value: ModelRef) -> Any:
        return {TAG: ["model", self.tag_text(value.label), self.tag(value.pk), self.tag_text(value.using)]}

    def tag_failed(self, value: FailedMember) -> Any:
        return {TAG: ["failed", *map(self.tag, (value.task_id, value.status, value.error))]}

    def tag_unreadable(self, value: Unreadable) -> Any:
        return {key: self.tag(item) for key, item in value.stored.items()}

    def tag_promise(self, value: Promise) -> str:
        if not hasattr(type(value), "casefold"):
            self.fail("is a lazy value other than a str. Evaluate it first.")
        return self.tag_text(str(value))

    def tag_lazy(self, value: Any) -> Any:
        if value._wrapped is empty:
            value._setup()
        return self.tag(value._wrapped)

    def enter(self, value: Any, length: int) -> None:
        if id(value) in self.above:
            self.fail(f"is a {type_name(value)} that contains itself. Pass a copy without the circle.")
        if len(self.above) >= MAX_NESTING:
            self.fail(f"is nested deeper than {MAX_NESTING} levels. Pass a flatter value, or its JSON text.")
        self.above.add(id(value))
        self.spend(length)

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge(too_large(self.what, self.limit, f"the limit was reached in {self.where()}"))

    def refuse(self, value: Any, hint: str = "") -> NoReturn:
        self.fail(f"cannot be stored: {show(value)} is of type {type_name(value)}. {hint or hint_for(value)}")

    def fail(self, sentence: str) -> NoReturn:
        raise NotSerializable(f"{self.where()} {sentence}")

    def where(self) -> str:
        shown = self.path if len(self.path) <= 12 else [*self.path[:6], ..., *self.path[-5:]]
        return self.root + "".join(step(part) for part in shown)


# In this order: a subclass is treated as the first of these that it is.
_TAGGERS: dict[type, Callable[[_Tagging, Any], Any]] = {
    NoneType: _Tagging.tag_constant,
    bool: _Tagging.tag_constant,
    Enum: _Tagging.tag_enum,
    Model: _Tagging.tag_instance,
    ModelRef: _Tagging.tag_reference,
    Unreadable: _Tagging.tag_unreadable,
    FailedMember: _Tagging.tag_failed,
    Promise: _Tagging.tag_promise,
    LazyObject: _Tagging.tag_lazy,
    str: _Tagging.tag_text,
    int: _Tagging.tag_integer,
    float: _Tagging.tag_float,
    list: _Tagging.tag_list,
    dict: _Tagging.tag_dict,
    tuple: _Tagging.tag_tuple,
    set: _Tagging.tag_set,
    frozenset: _Tagging.tag_frozenset,
    bytes: _Tagging.tag_bytes,
    datetime: _Tagging.tag_datetime,
    date: _Tagging.tag_date,
    time: _Tagging.tag_time,
    timedelta: _Tagging.tag_timedelta,
    UUID: _Tagging.tag_uuid,
    Decimal: _Tagging.tag_decimal,
}


def _zone(value: datetime | time) -> list[Any]:
    """Give what ISO 8601 leaves out: the zone's name and the fold, if there is something to say."""
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    return [zone, value.fold] if zone or value.fold else []
