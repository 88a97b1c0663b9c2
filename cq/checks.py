"""System checks: what would keep CQ from working, or from working well, said at start-up."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

from cq.conf import KEYS, conf
from cq.cron import doubts
from cq.declared import CODE, declared
from cq.exceptions import InvalidOption
from cq.models import RepeatingTask
from cq.options import check_queue_name

_LEAST_CAPACITY = 100
_LEAST_EXPIRY = 10


def _number(least: float, most: float) -> tuple[Callable[[Any], bool], str]:
    def accepts(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most

    return accepts, f"a number from {least} to {most}"


def _is_queue(value: Any) -> bool:
    try:
        return bool(check_queue_name(value))
    except InvalidOption:
        return False


def _is_ttl(value: Any) -> bool:
    if isinstance(value, timedelta):
        return value >= timedelta(0)
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0)


def _is_queues(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(map(_is_queue, value)) and _are_options(value.values()))


def _are_options(values: Iterable[Any]) -> bool:
    return all(isinstance(own, Mapping) and all(_is_paused(*one) for one in own.items()) for own in values)


def _is_paused(name: Any, value: Any) -> bool:
    return name == "paused" and isinstance(value, bool)


def _is_routes(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and all(map(_is_queue, value.values()))
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in value)


def _is_level(value: Any) -> bool:
    return isinstance(value, int) or value in logging.getLevelNamesMapping()


_NAMES = (_is_names, "a list of names or dotted paths")
# What each setting may be, and how that is said.
_ACCEPTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "CHANNEL_LAYER": (lambda value: isinstance(value, str), "an alias in CHANNEL_LAYERS"),
    "DATABASE": (lambda value: isinstance(value, str), "an alias in DATABASES"),
    "QUEUES": (
        _is_queues,
        "None, or a dict of queue names (letters, digits, '-', '_' and '.') to options: {} or {'paused': True}",
    ),
    "ROUTES": (_is_routes, "a dict of name patterns to queues"),
    "TASK_MODULES": _NAMES,
    "SERIAL": (lambda value: isinstance(value, bool), "True or False"),
    "RESULT_TTL": (_is_ttl, "a timedelta or seconds from 0 on, or None"),
    "LEASE": _number(1, 3600),
    "POLL_INTERVAL": _number(0.05, 300),
    "MAX_CRASHES": _number(1, 1000),
    "MAX_ARGS_SIZE": _number(64, 1 << 28),
    "MAX_RESULT_SIZE": _number(64, 1 << 28),
    "MAX_ERROR_SIZE": _number(64, 1 << 28),
    "MAX_DEPTH": _number(1, 32_000),
    "MAX_FANOUT": _number(1, 10_000_000),
    "LOG_LEVEL": (_is_level, "a level of logging, by name or number"),
    "LOG_LIMIT": _number(0, 10_000_000),
    "UNKNOWN_TASK_TIMEOUT": _number(0, 10**9),
    "SENSITIVE_KEYS": _NAMES,
    "SERVICES": _NAMES,
    "MIDDLEWARE": _NAMES,
}


def check_settings(**_: Any) -> list[CheckMessage]:
    """The setting `CQ` is a dict of known keys with values that can be."""
    given = getattr(settings, "CQ", {})
    if not isinstance(given, Mapping):
        return [Error(f"CQ is {type(given).__name__}, expected a dict.", id="cq.E001")]
    return [*_unknown(given), *_wrong(given)]


def _unknown(given: Mapping[str, Any]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for key in given.keys() - KEYS.keys():
        close = get_close_matches(str(key), KEYS, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(KEYS)}."
        found.append(Error(f"CQ[{key!r}] is not a setting.", hint=hint, id="cq.E002"))
    return found


def _wrong(given: Mapping[str, Any]) -> list[CheckMessage]:
    return [
        Error(f"CQ[{key!r}] is {given[key]!r}.", hint=f"Expected {expected}.", id="cq.E003")
        for key, (accepts, expected) in _ACCEPTED.items()
        if key in given and not accepts(given[key])
    ]


def check_database(**_: Any) -> list[CheckMessage]:
    """CQ's tables are in PostgreSQL."""
    alias = conf().DATABASE
    if not isinstance(alias, str) or alias not in settings.DATABASES:
        return [
            Error(f"CQ['DATABASE'] is {alias!r}.", hint=f"DATABASES has {sorted(settings.DATABASES)}.", id="cq.E004")
        ]
    vendor = connections[alias].vendor
    if vendor == "postgresql":
        return []
    return [
        Error(
            f"The database {alias!r} is {vendor}; CQ needs PostgreSQL 15 or later for its rows, locks and clock.",
            hint="Point DATABASES at a PostgreSQL, or CQ['DATABASE'] at the alias that is one. Direct calls of tasks work without.",
            id="cq.E005",
        )
    ]


def check_channel_layer(**_: Any) -> list[CheckMessage]:
    """The channel layer reaches other processes and holds a few hints. Without it everything works, but later."""
    alias = conf().CHANNEL_LAYER
    layers: Mapping[str, Any] = getattr(settings, "CHANNEL_LAYERS", {})
    layer = layers.get(alias)
    if layer is None:
        return [
            Warning(
                f"There is no channel layer {alias!r}: workers find new tasks only by their poll.",
                hint="Configure CHANNEL_LAYERS, for example with channels_redis.core.RedisChannelLayer.",
                id="cq.W001",
            )
        ]
    if layer.get("BACKEND") == "channels.layers.InMemoryChannelLayer":
        return [
            Warning(
                f"The channel layer {alias!r} is in memory and does not reach other processes: workers find new tasks by their poll.",
                hint="Use channels_redis.core.RedisChannelLayer, or silence cq.W002 where that is fine.",
                id="cq.W002",
            )
        ]
    config = layer.get("CONFIG", {})
    found: list[CheckMessage] = []
    for key, least in (("capacity", _LEAST_CAPACITY), ("expiry", _LEAST_EXPIRY)):
        if config.get(key, least) < least:
            found.append(
                Warning(
                    f"The channel layer {alias!r} has {key} {config[key]}: hints will be lost, and tasks found by the poll.",
                    hint=f"Give it {key} {least} or more.",
                    id="cq.W003",
                )
            )
    return found


def check_declared_crontabs(**_: Any) -> list[CheckMessage]:
    """Crontabs in the code mean what they seem to mean."""
    return _doubtful(declared())


def check_stored_crontabs(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """So do stored ones; looked at by `migrate`, and by `check --database`."""
    alias = conf().DATABASE
    if alias not in (databases or ()) or connections[alias].vendor != "postgresql":
        return []
    if RepeatingTask._meta.db_table not in connections[alias].introspection.table_names():
        return []
    rows = RepeatingTask.objects.using(alias).exclude(source=CODE).exclude(crontab="")
    return _doubtful(dict(rows.values_list("name", "crontab")))


def _doubtful(crontabs: Mapping[str, str]) -> list[CheckMessage]:
    return [
        Warning(f"The crontab of the repeating task {name!r} is {crontab!r}: {doubt}", id="cq.W010")
        for name, crontab in crontabs.items()
        for doubt in doubts(crontab)
    ]
