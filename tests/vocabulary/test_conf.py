"""The setting `CQ`: defaults, and that it is read when it is asked for."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from cq import conf as module
from cq.conf import KEYS, Conf, conf

DEFAULTS = {
    "CHANNEL_LAYER": "default",
    "DATABASE": "default",
    "QUEUES": None,
    "ROUTES": {},
    "TASK_MODULES": [],
    "SERIAL": False,
    "RESULT_TTL": timedelta(days=3),
    "LEASE": 30,
    "POLL_INTERVAL": 2,
    "MAX_CRASHES": 3,
    "MAX_ARGS_SIZE": 256 * 1024,
    "MAX_RESULT_SIZE": 1024 * 1024,
    "MAX_ERROR_SIZE": 64 * 1024,
    "MAX_DEPTH": 256,
    "MAX_FANOUT": 100_000,
    "LOG_LEVEL": "INFO",
    "LOG_LIMIT": 1000,
    "UNKNOWN_TASK_TIMEOUT": 600,
    "SERVICES": [],
    "MIDDLEWARE": [],
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_key_that_is_not_given_has_its_default(key: str) -> None:
    assert getattr(conf(), key) == DEFAULTS[key]


def test_every_key_of_the_contract_is_there_and_no_other() -> None:
    assert set(KEYS) == {*DEFAULTS, "SENSITIVE_KEYS", "MONITOR_PERMISSION"}
    assert {"password", "token", "secret"} <= set(conf().SENSITIVE_KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_says_what_it_means(key: str) -> None:
    assert len(KEYS[key].metadata["meaning"]) > 10


def test_it_is_read_when_it_is_asked_for(settings: Any) -> None:
    with override_settings(CQ={"LEASE": 5}):
        assert (conf().LEASE, conf().POLL_INTERVAL) == (5, 2)
        with override_settings(CQ={"POLL_INTERVAL": 1}):
            assert (conf().LEASE, conf().POLL_INTERVAL) == (30, 1)
        assert conf().LEASE == 5
    assert conf().LEASE == 30


@pytest.mark.parametrize("given", [None, {}])
def test_nothing_given_means_all_defaults(settings: Any, given: Any) -> None:
    settings.CQ = given

    assert conf() == Conf()


def test_unknown_keys_are_left_to_the_check(settings: Any) -> None:
    settings.CQ = {"LEESE": 5, "LEASE": 6}

    assert conf().LEASE == 6


@pytest.mark.parametrize(("given", "expected"), [(60, 60), (0.2, 1), (timedelta(days=1), 86_400), (None, None)])
def test_the_time_to_keep_results_is_a_timedelta_seconds_or_none(
    settings: Any, given: Any, expected: int | None
) -> None:
    settings.CQ = {"RESULT_TTL": given}

    assert conf().result_ttl_seconds == expected


def test_defaults_are_not_shared() -> None:
    one, other = Conf(), Conf()

    one.TASK_MODULES.append("x")

    assert other.TASK_MODULES == []


def test_settings_are_read_in_one_place_only() -> None:
    package = Path(module.__file__).parent
    readers = {
        path.name for path in package.rglob("*.py") if re.search(r"settings\.CQ\b|[\"']CQ[\"'],", path.read_text())
    }

    assert readers <= {"conf.py", "checks.py"}
