"""Options: which there are, where each may be given, and which queue a task goes to."""

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cq import function, options
from cq.exceptions import InvalidOption
from tests import tasks


def test_every_option_of_the_decorator_is_in_its_signature_and_docstring() -> None:
    documented = inspect.getdoc(function.task) or ""
    definition = inspect.signature(function.define).parameters

    given = set(definition) - {"func"}

    assert given == {"name", *function._OPTIONS}
    assert all(f"`{name}" in documented or f"`@task({name}" in documented for name in given)


def test_no_option_belongs_both_to_the_decorator_alone_and_to_calls() -> None:
    assert not set(options.CODE_OPTIONS) & set(options.CALL_OPTIONS)
    assert set(function._OPTIONS) | {"name"} <= set(options.CODE_OPTIONS) | set(options.CALL_OPTIONS)
    assert set(options.KEPT) <= set(options.CALL_OPTIONS)


def test_options_are_returned_checked() -> None:
    given = {"queue": "q", "priority": -100, "run_after": 5, "retries": 0, "backoff": (1, 2), "submit": False}

    assert options.check_call_options(given) == given | {"run_after": timedelta(seconds=5), "backoff": [1, 2]}


@pytest.mark.parametrize("queue", ["a", "A-1_b.c", "x" * 64])
def test_queue_names_are_plain_words(queue: str) -> None:
    assert options.check_queue_name(queue) == queue


@pytest.mark.parametrize("queue", ["", " ", "a b", "a\n", "x" * 65, "ü", "a/b", "a:b", "*", b"a", 1, None, True])
def test_other_queue_names_are_refused(queue: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^queue=.*: expected 1 to 64 letters, digits, '-', '_' or '\.'\.$"):
        options.check_queue_name(queue)


def test_any_queue_may_be_used_where_no_setting_says_which() -> None:
    assert options.check_queue("any") == "any"


def test_only_queues_of_the_setting_may_be_used_where_there_is_one(settings: Any) -> None:
    settings.CQ = {"QUEUES": {"mail": {}}}

    assert options.check_queue("mail") == "mail"
    with pytest.raises(InvalidOption, match=r"^queue='other' is not in CQ\['QUEUES'\], which has \['mail'\]\. Add it"):
        options.check_queue("other")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, timedelta(0)),
        (-5, timedelta(seconds=-5)),
        (1.5, timedelta(seconds=1.5)),
        (timedelta(days=1), timedelta(days=1)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        (None, None),
    ],
)
def test_run_after_is_an_instant_or_a_time_from_now(given: Any, expected: Any) -> None:
    assert options.check_run_after(given) == expected


@pytest.mark.parametrize("given", [timedelta.max, timedelta.min, timedelta(days=40000), 10**12, -(10**12)])
def test_run_after_is_within_a_hundred_years(given: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^run_after=.*hundred years"):
        options.check_run_after(given)


ROUTES = {"shop.mail_*": "mail", "shop.*": "shop", "[ab].x": "letters"}


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("shop.mail_bulk", "mail"),
        ("shop.pack", "shop"),
        ("Shop.pack", "own"),
        ("other.shop.pack", "own"),
        ("b.x", "letters"),
        ("c.x", "own"),
    ],
)
def test_the_first_route_that_fits_decides(settings: Any, name: str, queue: str) -> None:
    settings.CQ = {"ROUTES": ROUTES}

    assert options.route(name, "own") == queue


@pytest.mark.django_db
def test_a_route_beats_the_decorator_and_a_call_beats_both(settings: Any) -> None:
    settings.CQ = {"ROUTES": {"tests.tasks.*": "routed"}}

    assert tasks.adds.delay(1).queue == "routed"
    assert tasks.adds.using(queue="called").delay(1).queue == "called"
    assert tasks.adds.delay_args((1,), queue="called").queue == "called"
    assert tasks.adds.delay(1).chain(tasks.sums, (1,)).queue == "routed"
