"""System checks: a setting that cannot be is said at start-up, with what would be right."""

import math
import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper

from cq.conf import KEYS

LAYER = {"BACKEND": "channels_redis.core.RedisChannelLayer"}


def found() -> list[checks.CheckMessage]:
    return [message for message in checks.run_checks(tags=["cq"]) if (message.id or "").startswith("cq.")]


def test_nothing_is_wrong_with_the_settings_of_these_tests() -> None:
    assert found() == []


def test_all_keys_at_once_are_fine(settings: Any) -> None:
    settings.CQ = {
        "CHANNEL_LAYER": "default",
        "DATABASE": "default",
        "QUEUES": {"mail": {"paused": False}},
        "ROUTES": {"a.*": "mail"},
        "TASK_MODULES": ["a.b"],
        "SERIAL": True,
        "RESULT_TTL": 5,
        "LEASE": 10,
        "POLL_INTERVAL": 0.5,
        "MAX_CRASHES": 1,
        "MAX_ARGS_SIZE": 1000,
        "MAX_RESULT_SIZE": 1000,
        "MAX_ERROR_SIZE": 1000,
        "MAX_DEPTH": 5,
        "MAX_FANOUT": 5,
        "LOG_LEVEL": "DEBUG",
        "LOG_LIMIT": 0,
        "UNKNOWN_TASK_TIMEOUT": 0,
        "SENSITIVE_KEYS": ["pin"],
        "SERVICES": ["a.b"],
        "MIDDLEWARE": ("a.b",),
        "MONITOR_PERMISSION": None,
    }

    assert set(settings.CQ) == set(KEYS)
    assert found() == []


@pytest.mark.parametrize("given", [[], ["x"], "LEASE", 5, {"LEASE"}])
def test_the_setting_is_a_dict(settings: Any, given: Any) -> None:
    settings.CQ = given

    assert [message.id for message in found()] == ["cq.E001"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("LEESE", "Did you mean 'LEASE'?"),
        ("lease", "There are|Did you mean"),
        ("SOMETHING_ELSE", "There are .*LEASE"),
        (5, "There are"),
    ],
)
def test_a_key_that_there_is_not_is_an_error(settings: Any, key: Any, hint: str) -> None:
    settings.CQ = {key: 1}

    (message,) = found()

    assert (message.id, message.level) == ("cq.E002", checks.ERROR)
    assert message.msg == f"CQ[{key!r}] is not a setting."
    assert re.search(hint, message.hint or "")


def test_a_key_that_there_is_not_stops_every_command(settings: Any) -> None:
    settings.CQ = {"LEESE": 1}

    with pytest.raises(SystemCheckError, match=r"cq\.E002.*'LEESE'.*not a setting"):
        call_command("check")


NUMBERS = [key for key in KEYS if key.startswith("MAX_")] + [
    "LEASE",
    "POLL_INTERVAL",
    "LOG_LIMIT",
    "UNKNOWN_TASK_TIMEOUT",
]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [-1, "5", None, True, math.nan, math.inf, timedelta(1), []])
def test_a_number_that_cannot_be_is_an_error_that_says_which_can(settings: Any, key: str, value: Any) -> None:
    settings.CQ = {key: value}

    (message,) = found()

    assert (message.id, message.msg) == ("cq.E003", f"CQ[{key!r}] is {value!r}.")
    assert "Expected a number from" in (message.hint or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("QUEUES", ["mail"]),
        ("QUEUES", "mail"),
        ("ROUTES", []),
        ("ROUTES", None),
        ("SERIAL", 1),
        ("RESULT_TTL", "3 days"),
        ("TASK_MODULES", "a.b"),
        ("SERVICES", "a.b"),
        ("MIDDLEWARE", None),
        ("SENSITIVE_KEYS", 5),
        ("SENSITIVE_KEYS", "password"),
        ("LOG_LEVEL", "LOUD"),
        ("QUEUES", {"a b": {}}),
        ("QUEUES", {"mail": {"pause": True}}),
        ("QUEUES", {"mail": {"paused": 1}}),
        ("QUEUES", {"mail": None}),
        ("QUEUES", {"mail": {"paused": True, "limit": 3}}),
        ("ROUTES", {"*": "a b"}),
        ("RESULT_TTL", -1),
        ("RESULT_TTL", timedelta(days=-1)),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_that_says_which_is_right(settings: Any, key: str, value: Any) -> None:
    settings.CQ = {key: value}

    (message,) = found()

    assert message.id == "cq.E003"
    assert f"CQ[{key!r}]" in message.msg
    assert message.hint


@pytest.mark.parametrize("value", ["nowhere", None, 5, ["default"]])
def test_the_database_is_one_of_the_projects(settings: Any, value: Any) -> None:
    settings.CQ = {"DATABASE": value}

    assert "cq.E004" in [message.id for message in found()]


def test_another_database_than_postgresql_is_an_error_that_says_so(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections["lite"] = DatabaseWrapper({"NAME": ":memory:", "ENGINE": "django.db.backends.sqlite3"}, "lite")
    monkeypatch.setitem(settings.DATABASES, "lite", {})
    settings.CQ = {"DATABASE": "lite"}
    try:
        (message,) = found()
    finally:
        del connections["lite"]

    assert message.id == "cq.E005"
    assert "is sqlite; CQ needs PostgreSQL 15 or later" in message.msg


@pytest.mark.parametrize(
    ("layers", "warnings"),
    [
        ({}, ["cq.W001"]),
        ({"other": LAYER}, ["cq.W001"]),
        ({"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, ["cq.W002"]),
        ({"default": LAYER | {"CONFIG": {"capacity": 10}}}, ["cq.W003"]),
        ({"default": LAYER | {"CONFIG": {"capacity": 10, "expiry": 1}}}, ["cq.W003", "cq.W003"]),
        ({"default": LAYER | {"CONFIG": {"capacity": 100, "expiry": 10}}}, []),
        ({"default": LAYER}, []),
    ],
)
def test_a_channel_layer_that_will_lose_hints_is_a_warning(
    settings: Any, layers: dict[str, Any], warnings: list[str]
) -> None:
    settings.CHANNEL_LAYERS = layers

    messages = found()

    assert [message.id for message in messages] == warnings
    assert all(message.level == checks.WARNING and message.hint for message in messages)


def test_another_layer_can_be_named(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"hints": LAYER}
    settings.CQ = {"CHANNEL_LAYER": "hints"}

    assert found() == []
