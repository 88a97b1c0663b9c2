"""Values go to JSON text, through jsonb, and come back as they were; what cannot is refused, saying what to do."""

import ast
import io
import json
import math
import sys
import time as clock
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import Group, User
from django.core.files.base import ContentFile
from django.db import connection, models
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject, lazy
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given, settings
from hypothesis import strategies as st

from cq.codec import MAX_NESTING, ModelRef, Unreadable, dumps, loads, plain, resolve
from cq.exceptions import ModelGone, NotSerializable, TooLarge
from tests.naming import shown

LIMIT = 262_144
BERLIN = ZoneInfo("Europe/Berlin")


class Colour(Enum):
    RED = "red"
    ROSE = "red"
    BLUE = ("b", 1)


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    NEW = "new"


class Size(models.TextChoices):
    LARGE = "l", "Large"


class Access(Flag):
    READ = 1
    WRITE = 2


class Mode(IntFlag):
    A = 1
    B = 4


class Outer:
    class Inner(Enum):
        X = 1


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class Stamp(datetime):
    pass


Point = namedtuple("Point", "x y")


@dataclass
class Plain:
    x: int = 1


def encode(value: Any, what: str = "result", limit: int = LIMIT) -> str:
    return dumps(value, limit=limit, what=what)


def refusal(value: Any, what: str = "result") -> str:
    with pytest.raises(NotSerializable) as caught:
        encode(value, what)
    return str(caught.value)


def jsonb(text: str) -> str:
    """Do to a JSON text what a jsonb column does: no exponent, no -0, the last of equal keys, shorter keys first."""
    pairs = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return _written(pairs)


def _written(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(abs(value) if value == 0 else value, "f")
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{_written(key)}: {_written(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def identity(value: Any) -> Any:
    """Give what distinguishes a value from an equal one: its type, its members' types, signs, zones, folds."""
    if isinstance(value, dict):
        return dict, {key: identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [identity(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(identity(item)) for item in value)
    if isinstance(value, datetime):
        return type(value), value.replace(tzinfo=None), value.fold, str(value.tzinfo), value.utcoffset()
    if isinstance(value, time):
        return type(value), value.replace(tzinfo=None), value.fold, str(value.tzinfo)
    if type(value) is int:
        return int, value
    return type(value), repr(value)


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63,
    -(10**600),
    10**5000,
    -(2**20000),
    0.0,
    -0.0,
    1.0,
    0.1,
    1e15,
    123456789012345680.0,
    1e16,
    1e20,
    -1e20,
    1e-4,
    1e-5,
    5e-324,
    sys.float_info.max,
    "",
    "a",
    'quotes " and \\ and / and \b\x7f\u2028',
    "\\u0000 is only text here",
    "Zoë 💥 \uffff",
    [],
    [[], {}, [None]],
    {},
    {"b": 1, "aa": [2], "": {"ä": None}},
    {"$cq": 1},
    {"$cq": ["datetime", "2026-01-01"], "other": {"$cq": {"$cq": None}}},
    (),
    (1, (2, [3])),
    set(),
    {1, "a", None, (1, 2), frozenset({1})},
    frozenset({Decimal("1.50"), 2.5}),
    b"",
    bytes(range(256)),
    datetime(2026, 1, 2, 3, 4, 5, 678),
    datetime(1, 1, 1),
    datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=-3, minutes=-30, seconds=-15))),
    datetime(2026, 7, 1, 12, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),
    datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
    datetime(2026, 1, 1, fold=1),
    date(2026, 2, 28),
    date.max,
    time(1, 2, 3, 4),
    time(1, 2, tzinfo=UTC),
    time(1, 2, tzinfo=BERLIN),
    time(1, fold=1),
    timedelta(0),
    timedelta(days=-1, microseconds=1),
    timedelta.max,
    timedelta.min,
    UUID("00000000-0000-0000-0000-00000000000a"),
    Decimal("1.10"),
    Decimal("-0"),
    Decimal("0E-10"),
    Decimal("1E+5"),
    Decimal("1E-400"),
    Decimal("9" * 1000),
    Colour.RED,
    Colour.BLUE,
    Level.LOW,
    Word.NEW,
    Size.LARGE,
    Access.WRITE,
    Access.READ | Access.WRITE,
    Access(0),
    Mode.A | Mode.B,
    Outer.Inner.X,
    [Word.NEW, {"when": {date(2026, 1, 1): 1}.popitem()[0]}],
    ModelRef("auth.user", 7),
    ModelRef("shop.order", UUID(int=5), "other"),
    {"deep": [({"$cq": {Level.LOW}},)]},
]


@pytest.mark.parametrize("value", VALUES, ids=[f"{type(value).__name__}{index}" for index, value in enumerate(VALUES)])
def test_value_comes_back_as_the_type_and_value_it_went_in(value: Any) -> None:
    text = jsonb(encode(value))

    found = loads(text)

    assert identity(found) == identity(value)
    assert found == value


@pytest.mark.django_db
def test_every_value_comes_back_from_a_real_jsonb_column() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT item::jsonb::text FROM unnest(%s::text[]) item", [[encode(value) for value in VALUES]])
        found = [loads(text) for (text,) in cursor.fetchall()]

    assert identity(found) == identity(VALUES)


@pytest.mark.django_db
def test_simulated_jsonb_is_like_the_real_one() -> None:
    texts = [encode(value) for value in VALUES] + ["1e3", "-0.0", "1.10", '{"bb": 1, "a": 2, "a": 3, "é": 0}']

    with connection.cursor() as cursor:
        cursor.execute("SELECT item::jsonb::text FROM unnest(%s::text[]) item", [texts])
        found = [text for (text,) in cursor.fetchall()]

    assert [json.loads(text) for text in found] == [json.loads(jsonb(text)) for text in texts]


SAFE_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
# Python itself reads an offset of less than a second as UTC.
OFFSETS = (
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
    .filter(lambda offset: not timedelta(0) < abs(offset) < timedelta(seconds=1))
    .map(timezone)
)
ZONES = st.none() | st.just(UTC) | OFFSETS | st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]).map(ZoneInfo)
FOLDS = st.integers(0, 1)
HASHABLE_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**5000), 2**5000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | SAFE_TEXT
    | st.binary()
    | st.builds(
        lambda moment, fold: moment.replace(fold=fold), st.datetimes(timezones=ZONES, allow_imaginary=True), FOLDS
    )
    | st.dates()
    | st.builds(lambda moment, fold: moment.replace(fold=fold), st.times(), FOLDS)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from([Colour.RED, Level.LOW, Word.NEW, Size.LARGE, Access.READ | Access.WRITE, Outer.Inner.X])
    | st.builds(ModelRef, st.just("auth.user"), st.integers() | st.uuids() | SAFE_TEXT, st.just("default"))
)
HASHABLE = st.recursive(
    HASHABLE_LEAVES,
    lambda inner: st.frozensets(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
KEYS = SAFE_TEXT | st.just("$cq")
ANYTHING = st.recursive(
    HASHABLE_LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(HASHABLE, max_size=3)
        | st.frozensets(HASHABLE, max_size=3)
    ),
    max_leaves=20,
)


@given(ANYTHING)
@settings(deadline=None)
def test_anything_allowed_survives_jsonb(value: Any) -> None:
    text = encode(value, limit=10**7)

    found = loads(jsonb(text))

    assert identity(found) == identity(value)


@given(ANYTHING)
@settings(deadline=None)
def test_what_came_back_encodes_to_an_equal_text_again(value: Any) -> None:
    text = encode(value, limit=10**7)

    again = encode(loads(text), limit=10**7)

    assert json.loads(again) == json.loads(text)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.just("$cq"), inner, max_size=3)
        | st.fixed_dictionaries(
            {
                "$cq": st.tuples(
                    st.sampled_from(["int", "set", "enum", "model", "datetime", "uuid", "bytes", "dict"]), inner
                )
            }
        )
    ),
)


@given(ANY_JSON)
@settings(deadline=None)
def test_reading_any_json_gives_a_value_or_not_serializable(value: Any) -> None:
    text = json.dumps(value)

    try:
        loads(text)
    except NotSerializable:
        loads(text, strict=False)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        (mark_safe("<b>"), "<b>"),
        (Number(5), 5),
        (Real(0.5), 0.5),
        (Real(-0.0), -0.0),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        ({Text("a"): 1}, {"a": 1}),
        ({Word.NEW: 1}, {"new": 1}),
        (type("Items", (list,), {})([1]), [1]),
        (type("Bag", (set,), {})([1]), {1}),
        (Stamp(2026, 1, 1), datetime(2026, 1, 1)),
        (gettext_lazy("Yes"), "Yes"),
        (SimpleLazyObject(lambda: [1]), [1]),
        (Colour.ROSE, Colour.RED),
    ],
    ids=shown,
)
def test_subclass_comes_back_as_its_base_type(value: Any, plain: Any) -> None:
    found = loads(jsonb(encode(value)))

    assert identity(found) == identity(plain)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, Real("nan"), Decimal("NaN"), Decimal("-Infinity"), Decimal("sNaN")]
)
def test_not_a_number_and_infinity_are_refused(value: Any) -> None:
    assert refusal({"deep": [value]}).startswith('result["deep"][0] cannot be stored: ')


@pytest.mark.parametrize("text", ["\x00", "ab\x00", "\ud800", "x\udfff", "\ud83d ä"])
@pytest.mark.parametrize(
    "wrap", [lambda text: text, lambda text: [text], lambda text: {text: 1}, lambda text: {(text,)}, Text]
)
def test_text_that_postgresql_cannot_store_is_refused(wrap: Callable[[str], Any], text: str) -> None:
    message = refusal(wrap(text))

    assert "position" in message
    assert message.isprintable()


def test_message_about_a_text_does_not_show_the_text() -> None:
    assert "hunter2" not in refusal({"password": "hunter2\x00"})


class Hostile:
    """Raises whatever it is asked."""

    def _refuse(self, *args: Any) -> Any:
        raise RuntimeError("do not touch me")

    __repr__ = __str__ = __len__ = __eq__ = __hash__ = __bool__ = __iter__ = __getattr__ = _refuse
    __class__ = property(_refuse)


class HostileList(list):  # type: ignore[type-arg]
    __repr__ = __len__ = __iter__ = __getitem__ = Hostile._refuse


class HostileDict(dict):  # type: ignore[type-arg]
    __repr__ = __len__ = __iter__ = items = keys = values = Hostile._refuse


class HostileText(str):
    __repr__ = __str__ = __len__ = __eq__ = encode = isascii = Hostile._refuse  # type: ignore[assignment]
    __hash__ = str.__hash__


class Liar:
    """Says it is a str; it is none."""

    __class__ = str  # type: ignore[assignment]


class Unprintable:
    def __repr__(self) -> str:
        return "\x00\ud800\n" * 1000


def generate() -> Any:
    yield 1


REFUSED: list[Any] = [
    object(),
    Liar(),
    Unprintable(),
    Hostile,
    generate(),
    iter([1]),
    map(str, [1]),
    range(3),
    {}.keys(),
    io.StringIO("x"),
    ContentFile(b"x"),
    open,
    len,
    lambda: 1,
    generate,
    Plain,
    Plain(),
    ValueError("x"),
    Point(1, 2),
    clock.localtime(0),
    1j,
    Fraction(1, 2),
    bytearray(b"x"),
    memoryview(b"x"),
    Path("x"),
    sys,
    BERLIN,
    UTC,
    ...,
    NotImplemented,
    User(username="unsaved"),
    User(pk=7),
    User.objects,
    User.objects.all(),
    User,
    QueryDict("a=1&a=2"),
    lazy(lambda: 5, int)(),
    {1: "a"},
    {None: 1},
    {(1, 2): 1},
    {b"a": 1},
    {Hostile: 1},
]


def test_hostile_object_is_refused_without_asking_it_anything() -> None:
    message = refusal([{"when": (Hostile(),)}])

    assert message.startswith(
        'result[0]["when"][0] cannot be stored: <an object whose repr() raises> is of type tests.'
    )


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("what", ["arguments", "result"])
def test_what_cannot_be_stored_is_refused_where_it_is(value: Any, what: str) -> None:
    root = "args" if what == "arguments" else "result"

    message = refusal([{"when": (value,)}], what)

    assert message.startswith(f'{root}[0]["when"][0] ')
    assert message.endswith((".", ".)"))
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (lambda: User.objects.all(), 'list(queryset.values_list("pk", flat=True))'),
        (lambda: User.objects, 'list(queryset.values_list("pk", flat=True))'),
        (lambda: Point(1, 2), "value._asdict() or tuple(value)"),
        (lambda: {1: 2}, "{str(key): item for key, item in value.items()}"),
        (lambda: Plain(), "dataclasses.asdict(value)"),
        (lambda: generate(), "list(value)"),
        (lambda: ValueError("x"), "str(value)"),
        (lambda: User(username="x"), "Save it first"),
        (lambda: object(), "Allowed are None, bool"),
        (lambda: [Hostile()], "<an object whose repr() raises>"),
    ],
)
def test_refusal_says_what_to_do(value: Callable[[], Any], advice: str) -> None:
    assert advice in refusal(value())


@pytest.mark.parametrize("value", [HostileList([1]), HostileDict(a=1), HostileText("a")], ids=["list", "dict", "str"])
def test_hostile_subclass_is_read_through_its_base_type(value: Any) -> None:
    assert encode([value]) in ("[[1]]", '[{"a":1}]', '["a"]')


def test_two_keys_that_are_the_same_text_are_refused() -> None:
    class Odd(str):
        __slots__ = ()
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    assert "two keys" in refusal({Odd("a"): 1, Odd("a"): 2})


def test_arguments_are_named_by_position_or_name() -> None:
    assert refusal([1, {"when": object()}], "arguments").startswith('args[1]["when"] ')
    assert refusal({"when": object()}, "arguments").startswith('kwargs["when"] ')


def test_message_shortens_long_keys_and_representations() -> None:
    class Long:
        def __repr__(self) -> str:
            return "x" * 1_000_000

    assert len(refusal({"k" * 1_000: {"\n": Long()}})) < 600


def circular_list() -> Any:
    value: list[Any] = []
    value.append({"again": [value]})
    return value


def circular_dict() -> Any:
    value: dict[str, Any] = {}
    value["self"] = (value, 1)
    return value


@pytest.mark.parametrize("make", [circular_list, circular_dict])
def test_circular_structure_is_refused(make: Callable[[], Any]) -> None:
    assert "contains itself" in refusal(make())


def test_repeated_but_not_circular_structure_is_stored() -> None:
    part = [1, {"x": (2,)}]

    assert loads(encode([part, part, {"y": part}])) == [part, part, {"y": part}]


def nested(levels: int, kind: Callable[[Any], Any], inner: Any = 1) -> Any:
    for _ in range(levels):
        inner = kind(inner)
    return inner


KINDS = [lambda value: [value], lambda value: {"a": value}, lambda value: {"$cq": value}, lambda value: (value,)]


@pytest.mark.parametrize("inner", [1, [], date(2026, 1, 1)], ids=shown)
@pytest.mark.parametrize("kind", KINDS, ids=["list", "dict", "escaped dict", "tuple"])
def test_nesting_is_allowed_up_to_the_limit_and_refused_beyond(kind: Callable[[Any], Any], inner: Any) -> None:
    levels = MAX_NESTING - isinstance(inner, list)
    deepest = nested(levels, kind, inner)

    assert loads(jsonb(encode(deepest))) == deepest
    assert "nested deeper than 100" in refusal(kind(deepest))
    assert "nested deeper than 100" in refusal(nested(100_000, kind, inner))


def test_size_is_counted_in_bytes_of_utf8() -> None:
    assert encode("ä" * 10, limit=22)
    with pytest.raises(TooLarge, match=r"The result may take at most 21 bytes as JSON; it takes 22 bytes\."):
        encode("ä" * 10, limit=21)


def doubled() -> Any:
    value: Any = ["x"]
    for _ in range(90):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 10_000_000,
        lambda: ["x" * 10_000_000] * 10_000,
        lambda: {"x" * 10_000_000: 1},
        lambda: [0] * 10_000_000,
        lambda: (b"x" * 10_000_000,),
        lambda: 1 << 80_000_000,
        lambda: Text("x" * 10_000_000),
        lambda: [list(range(1000))] * 100_000,
        doubled,
        lambda: (doubled(),),
    ],
)
def test_too_large_value_is_refused_without_writing_it_all(make: Callable[[], Any]) -> None:
    value = make()
    started = clock.process_time()

    with pytest.raises(TooLarge, match=r"The arguments may take at most 262,144 bytes as JSON"):
        encode(value, "arguments")

    assert clock.process_time() - started < 2


def test_too_large_says_where() -> None:
    with pytest.raises(TooLarge, match=r'in args\[1\]\["text"\]\. Store large data'):
        encode([1, {"text": "x" * 300_000}], "arguments")


@given(ANYTHING)
@settings(deadline=None)
def test_value_is_too_large_exactly_beyond_its_length(value: Any) -> None:
    size = len(encode(value, limit=10**7).encode())

    assert encode(value, limit=size)
    with pytest.raises(TooLarge):
        encode(value, limit=size - 1)


def test_equal_sets_give_equal_texts() -> None:
    one, other = {0, 8}, {8, 0}

    assert list(one) != list(other)
    assert encode(one) == encode(other)


@pytest.mark.parametrize(
    "value", [None, 'ä\u2028"\\\n\x7f', [1, 2.5, True, None, "x", [], {}], {"a": [{"b": "ü"}], "": 1e300}]
)
def test_python_s_own_encoder_gives_the_same_text(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = plain.to_json(value)
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)

    assert plain.make_to_json()(value) == text
    assert json.loads(text) == value


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": {1, 2}}, [b"x"]])
def test_what_json_does_not_know_is_refused_by_the_encoder(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        plain.to_json(value)


def test_plain_json_is_stored_as_plain_json() -> None:
    assert encode({"a": [1, 0.5, "ä", None, True]}) == '{"a":[1,0.5,"ä",null,true]}'


def test_enum_that_a_worker_would_not_find_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Enum):
        A = 1

    main = Enum("main", "A")
    main.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "main", main, raising=False)

    assert "Define it at a module's top, or pass value.value." in refusal(Local.A)
    assert "Define it at a module's top, or pass value.value." in refusal(main["A"])


@pytest.mark.parametrize(
    "stored",
    [
        ["enum", "never_imported_module", "Colour", "RED"],
        ["enum", "antigravity", "Colour", "RED"],
        ["enum", __name__, "Missing", "RED"],
        ["enum", __name__, "Colour", "GREEN"],
        ["enum", __name__, "Colour", 1],
        ["enum", __name__, "Access", 64],
        ["enum", __name__, "Plain", "x"],
        ["enum", __name__, "sys.modules", "os"],
        ["enum", __name__, "Point", "x"],
        ["enum", "os", "system", "true"],
        ["enum", "builtins", "eval", "1"],
        ["enum", ["x"], "Colour", "RED"],
        ["datetime", "yesterday"],
        ["datetime", 5],
        ["time", "25:00"],
        ["decimal", "many"],
        ["uuid", 5],
        ["bytes", "***"],
        ["set", [[]]],
        ["set", 5],
        ["int", None],
        ["timedelta", 10**12],
        ["model", "auth.user"],
        ["model", 1, 2, 3],
        ["model", "auth.user", [], "default"],
        ["dict", [1]],
        ["unheard_of", 1],
        [["set"], 1],
        [],
        "set",
        None,
    ],
    ids=shown,
)
def test_foreign_tag_is_not_serializable_and_imports_nothing(stored: Any) -> None:
    text = json.dumps([1, {"$cq": stored}])
    modules = set(sys.modules)

    with pytest.raises(NotSerializable):
        loads(text)
    first, kept = loads(text, strict=False)

    assert first == 1
    assert isinstance(kept, Unreadable)
    assert json.loads(encode([1, kept])) == json.loads(text)
    with pytest.raises(NotSerializable):
        resolve([kept])
    assert set(sys.modules) == modules


def test_looking_for_an_enum_runs_no_code_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("touched")

    module = ModuleType("with_getattr")
    module.__dict__["__getattr__"] = lambda name: Colour
    monkeypatch.setitem(sys.modules, "with_getattr", module)
    monkeypatch.setitem(sys.modules, "lazily_imported", Lazy("lazily_imported"))

    for name in ("with_getattr", "lazily_imported"):
        with pytest.raises(NotSerializable, match="not among the imported modules"):
            loads(json.dumps({"$cq": ["enum", name, "Anything", "RED"]}))


@pytest.mark.parametrize("text", ["", "{", "[1,", "[" * 100_000, "9" * 5000, "'a'"])
def test_text_that_is_no_json_is_not_serializable(text: str) -> None:
    with pytest.raises(NotSerializable):
        loads(text)


def test_unknown_zone_and_changed_rules_keep_the_instant() -> None:
    unknown = loads('{"$cq":["datetime","2026-07-01T12:00:00+02:00","Mars/Olympus",0]}')
    changed = loads('{"$cq":["datetime","2026-07-01T12:00:00+05:00","Europe/Berlin",0]}')
    outside = loads('{"$cq":["datetime","2026-07-01T12:00:00+02:00","../../etc/passwd",0]}')

    assert unknown == outside == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert changed == datetime(2026, 7, 1, 7, tzinfo=UTC)


def test_decoding_module_imports_and_evaluates_nothing() -> None:
    source = Path(sys.modules["cq.codec.decoding"].__file__ or "").read_text()

    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}

    assert not names & {"eval", "exec", "__import__", "import_module", "import_string", "pickle", "compile"}


def test_reference_reads_well() -> None:
    assert repr(ModelRef("shop.order", 7)) == "<ModelRef shop.order 7>"
    assert repr(ModelRef("shop.order", "a", "other")) == "<ModelRef shop.order 'a' in 'other'>"


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create(username="ann")


class Staff(User):
    class Meta:
        proxy = True
        app_label = "auth"


class NoneManager(models.Manager["Hidden"]):
    def get_queryset(self) -> models.QuerySet["Hidden"]:
        return super().get_queryset().none()


class Hidden(User):
    objects = NoneManager()  # type: ignore[assignment]

    class Meta:
        proxy = True
        app_label = "auth"


def test_instance_goes_by_reference_and_is_read_again(user: User) -> None:
    found = loads(jsonb(encode([user, {"it": (user,)}])))
    User.objects.update(username="changed")

    again = resolve(found)

    assert found == [ModelRef("auth.user", user.pk), {"it": (ModelRef("auth.user", user.pk),)}]
    assert again == [user, {"it": (user,)}]
    assert again[0].username == "changed"
    assert again[0] is again[1]["it"][0]
    assert found[0].get() == user


def test_lazy_user_of_a_request_goes_by_reference(user: User) -> None:
    assert loads(encode(SimpleLazyObject(lambda: user))) == ModelRef("auth.user", user.pk)


def test_reference_can_be_passed_on(user: User) -> None:
    reference = loads(encode(user))

    assert loads(encode([reference])) == [reference]


def test_proxy_comes_back_as_proxy(user: User) -> None:
    proxy = Staff.objects.get()

    again = resolve(loads(encode(proxy)))

    assert type(again) is Staff
    assert again.pk == user.pk


def test_deferred_instance_comes_back_whole(user: User) -> None:
    deferred = User.objects.only("pk").get()

    again = resolve(loads(encode(deferred)))

    assert again.get_deferred_fields() == set()


def test_key_given_as_text_finds_its_row(user: User) -> None:
    user.pk = str(user.pk)

    again = resolve(loads(encode(user)))

    assert again.username == "ann"


def test_set_of_instances_comes_back_as_set(user: User) -> None:
    other = User.objects.create(username="bob")

    assert resolve(loads(encode({user, other}))) == {user, other}


def test_one_query_reads_all_instances_of_a_model(db: None) -> None:
    users = [User.objects.create(username=f"u{number}") for number in range(20)]
    groups = [Group.objects.create(name=f"g{number}") for number in range(20)]
    found = loads(encode([users, {"groups": tuple(groups)}, users]))

    with CaptureQueriesContext(connection) as queries:
        again = resolve(found)

    assert again == [users, {"groups": tuple(groups)}, users]
    assert len(queries) == 2


def test_resolving_copies_and_reads_nothing_without_references() -> None:
    value: dict[str, Any] = {"a": [1, {"b"}, (2, [3])]}

    copy = resolve(value)

    assert copy == value
    assert copy["a"] is not value["a"]
    assert copy["a"][2][1] is not value["a"][2][1]


def test_instance_hidden_by_its_default_manager_is_found(user: User) -> None:
    hidden = Hidden._base_manager.get()

    assert not Hidden._default_manager.exists()
    assert resolve(loads(encode(hidden))) == hidden


def test_missing_row_is_model_gone_naming_it(user: User) -> None:
    found = loads(encode({"who": user}))
    User.objects.all().delete()

    with pytest.raises(ModelGone, match=rf"auth\.user with key {found['who'].pk} no longer exists"):
        resolve(found)


@pytest.mark.parametrize(
    "reference",
    [
        ModelRef("gone.model", 1),
        ModelRef("nolabel", 1),
        ModelRef("auth.user", "no number"),
        ModelRef("auth.user", (1, 2)),
    ],
)
def test_reference_that_fits_no_model_is_model_gone(db: None, reference: ModelRef) -> None:
    with pytest.raises(ModelGone, match=reference.label):
        resolve([reference])


def test_deleted_instance_is_refused(user: User) -> None:
    user.delete()

    assert "unsaved auth.user" in refusal([user])


def test_refusing_a_queryset_runs_no_query(db: None) -> None:
    with CaptureQueriesContext(connection) as queries:
        refusal(User.objects.filter(username="x"))

    assert len(queries) == 0


def test_instance_is_read_from_where_it_is_written(user: User, settings: Any) -> None:
    class Primary:
        def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
            return "primary"

    settings.DATABASE_ROUTERS = [Primary()]

    assert loads(encode(user)) == ModelRef("auth.user", user.pk, "primary")


def test_keys_of_many_types_are_kept() -> None:
    key = uuid4()

    assert loads(jsonb(encode(ModelRef("shop.order", key)))).pk == key
