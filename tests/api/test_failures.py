"""Bodies that raise: what the row keeps, when there is another attempt, and that nothing takes the worker along."""

import asyncio
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User

from cq import task
from cq.exceptions import TaskFailed
from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.api.run import ended, ended_in_time
from tests.tasks import adds

pytestmark = pytest.mark.django_db

CLASSES = {
    c.__name__: c for c in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError)
}
CLASSES |= {c.__name__: c for c in (StopIteration, asyncio.CancelledError, BaseException, TimeoutError, TaskFailed)}


@task(retries=1, backoff=0)
def raises_any(cqt, name):
    Group.objects.create(name=f"attempt {cqt.attempt}")
    raise CLASSES[name]("why")


@task(atomic=False)
def raises_any_plainly(cqt, name):
    raise CLASSES[name]("why")


@task
async def raises_any_in_a_coroutine(cqt, name):
    await asyncio.sleep(0)
    raise CLASSES[name]("why")


@pytest.mark.parametrize("name", CLASSES)
def test_an_exception_of_any_class_is_a_failure(name):
    failed = ended(raises_any.delay(name))

    assert (failed.status, failed.attempt, failed.error, failed.result) == ("FAILURE", 2, "why", None)
    assert failed.exception.endswith(f".{name}")
    assert failed.traceback.startswith("Traceback (most recent call last)")
    assert "raises_any" in failed.traceback
    assert 'cq/executor.py"' not in failed.traceback
    assert not Group.objects.exists()
    assert ended(adds.delay(1)).status == "SUCCESS"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("func", [raises_any_plainly, raises_any_in_a_coroutine])
def test_an_exception_of_any_class_is_a_failure_everywhere(func):
    failed = [func.delay(name) for name in CLASSES]

    drain()

    for one, name in zip(failed, CLASSES, strict=True):
        one.refresh_from_db()
        is_converted = name == "StopIteration" and func is raises_any_in_a_coroutine
        assert one.status == "FAILURE"
        assert one.exception == ("builtins.RuntimeError" if is_converted else one.exception)
        assert one.exception.endswith(name) or is_converted


def test_the_module_and_name_of_the_class_are_kept():
    assert ended(tasks.raises.delay()).exception == "builtins.ValueError"
    assert ended(raises_own.delay("quiet")).exception == "tests.api.test_failures.Quiet"


class Quiet(Exception):
    pass


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Deadly(Exception):
    def __str__(self):
        raise SystemExit(3)


class Looping(Exception):
    def __str__(self):
        return str(self)


class NoText(Exception):
    def __str__(self):
        return 5


class Chained(Exception):
    def __init__(self):
        self.__cause__ = self


OWN = {
    "quiet": Quiet,
    "unspeakable": Unspeakable,
    "deadly": Deadly,
    "looping": Looping,
    "no text": NoText,
    "chained": Chained,
    "NUL": lambda: ValueError("a\0b"),
    "surrogate": lambda: ValueError("a\ud800b"),
    "long": lambda: ValueError("x" * 10_000_000),
    "bytes": lambda: ValueError(b"\xff\x00"),
    "group": lambda: ExceptionGroup("many", [ValueError(n) for n in range(1000)]),
    "notes": lambda: _noted(),
}


def _noted():
    error = ValueError("noted")
    error.add_note("n" * 1_000_000)
    error.__notes__.append(5)
    return error


@task
def raises_own(cqt, which):
    raise OWN[which]()


@pytest.mark.parametrize("which", OWN)
def test_an_exception_whose_text_is_trouble_is_a_failure_with_a_storable_text(which, settings):
    failed = ended(raises_own.delay(which))

    assert failed.status == "FAILURE"
    assert failed.error
    assert failed.exception
    for text in (failed.error, failed.traceback):
        assert len(text.encode()) <= 64 * 1024
        assert "\0" not in text
    if which == "quiet":
        assert failed.error == "Quiet"
    if which == "long":
        assert failed.error.startswith("xxx")
        assert failed.error.endswith("[cut]")


def test_the_size_of_an_error_can_be_set(settings):
    settings.CQ = {"MAX_ERROR_SIZE": 100}

    failed = ended(raises_own.delay("long"))

    assert len(failed.error.encode()) <= 100 >= len(failed.traceback.encode())


# Results that cannot be


@task(retries=3, backoff=0)
def returns_any(cqt, which):
    Group.objects.create(name="written")
    return RESULTS[which]()


@task(atomic=False, retries=3, backoff=0)
def returns_any_plainly(cqt, which):
    return RESULTS[which]()


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def circular():
    value = []
    value.append(value)
    return value


class Odd:
    def __repr__(self):
        raise RuntimeError


RESULTS = {
    "object": object,
    "odd": Odd,
    "unspeakable": Unspeakable,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "1e400": lambda: [1e400],
    "NUL": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "int keys": lambda: {1: 2},
    "deep": lambda: deep(5000),
    "circular": circular,
    "queryset": User.objects.all,
    "generator": lambda: (x for x in ()),
    "unsaved": lambda: User(username="x"),
    "large": lambda: "x" * 10_000_000,
    "long list": lambda: list(range(1_000_000)),
}


@pytest.mark.parametrize("which", RESULTS)
def test_a_result_that_cannot_be_stored_is_a_failure_after_one_attempt(which):
    failed = ended(returns_any.delay(which))

    assert (failed.status, failed.attempt, failed.result) == ("FAILURE", 1, None)
    assert failed.exception in ("cq.exceptions.NotSerializable", "cq.exceptions.TooLarge")
    assert "result" in failed.error
    assert not Group.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_result_that_cannot_be_stored_fails_a_body_that_is_not_atomic_too():
    failed = ended(returns_any_plainly.delay("object"))

    assert (failed.status, failed.attempt, failed.exception) == ("FAILURE", 1, "cq.exceptions.NotSerializable")


def test_the_size_of_a_result_can_be_set(settings):
    settings.CQ = {"MAX_RESULT_SIZE": 100}

    assert ended(tasks.echoes.delay("x" * 80)).status == "SUCCESS"
    assert ended(tasks.echoes.delay("x" * 100)).exception == "cq.exceptions.TooLarge"


# Retries


def test_retries_are_further_attempts():
    third_time = ended(tasks.succeeds_at.delay(3))
    never = ended(tasks.succeeds_at.delay(4))

    assert (third_time.status, third_time.attempt, third_time.result) == ("SUCCESS", 3, 3)
    assert (third_time.error, third_time.exception, third_time.traceback) == (None, None, None)
    assert (never.status, never.attempt, never.error) == ("FAILURE", 3, "attempt 3")


def test_each_attempt_is_kept():
    done = ended(tasks.succeeds_at.delay(3))

    attempts = list(done.attempts.all())

    assert [(a.number, a.outcome, a.error) for a in attempts] == [
        (1, "error", "attempt 1"),
        (2, "error", "attempt 2"),
        (3, "success", None),
    ]
    assert [a.exception for a in attempts] == ["builtins.ValueError"] * 2 + [None]
    assert "succeeds_at" in attempts[0].traceback
    assert all(a.started_at <= a.ended_at for a in attempts)
    assert all(a.worker for a in attempts)


def test_a_failed_task_keeps_its_last_attempt_too():
    failed = ended(tasks.raises.delay("x"))

    assert [(a.number, a.outcome, a.error) for a in failed.attempts.all()] == [(1, "error", "x")]


@task
def looks_at_its_attempts(cqt):
    return [(a.number, a.outcome, a.ended_at is None) for a in cqt.row.attempts.all()]


def test_a_running_attempt_has_no_outcome_yet():
    assert ended(looks_at_its_attempts.delay()).result == [(1, None, True)]


def test_between_attempts_a_task_shows_the_error_and_when_it_runs_again():
    waiting = tasks.raises.using(retries=1, backoff=60).delay("busy")

    assert drain() == 1

    waiting.refresh_from_db()
    assert (waiting.status, waiting.error, waiting.attempt, waiting.is_done) == ("RETRY", "busy", 1, False)
    assert waiting.run_after - waiting.attempts.get().ended_at == timedelta(seconds=60)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_of_the_call_beat_the_decorators(retries):
    failed = ended(tasks.raises.using(retries=retries, backoff=0).delay())

    assert failed.attempt == retries + 1


def is_temporary(exc):
    return "temporary" in str(exc)


@task(retries=3, retry_exceptions=(KeyError, is_temporary), backoff=0)
def raises_chosen(cqt, name, message=""):
    raise {"KeyError": KeyError, "LookupError": LookupError, "ValueError": ValueError}[name](message)


@pytest.mark.parametrize(
    ("args", "attempts"),
    [(("KeyError",), 4), (("LookupError",), 1), (("ValueError",), 1), (("ValueError", "temporary"), 4)],
)
def test_only_chosen_exceptions_are_retried(args, attempts):
    assert ended(raises_chosen.delay(*args)).attempt == attempts


@task(retries=3, retry_exceptions=lambda exc: 1 / 0, backoff=0)
def has_a_broken_predicate(cqt):
    raise ValueError("own")


@task(retries=3, backoff=lambda attempt, exc: "soon")
def has_a_broken_backoff(cqt):
    raise ValueError("own")


@pytest.mark.parametrize("func", [has_a_broken_predicate, has_a_broken_backoff])
def test_a_broken_rule_ends_the_task_with_its_own_error_and_says_so(func):
    failed = ended(func.delay())

    assert (failed.status, failed.attempt, failed.error) == ("FAILURE", 1, "own")
    assert "Not retried" in failed.traceback


def by_hand(attempt, exc):
    return 10 * attempt + len(str(exc))


@task(retries=4, backoff=by_hand)
def backs_off_by_hand(cqt):
    raise ValueError("abc")


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [
        (7, [7, 7, 7]),
        (0.5, [0.5, 0.5, 0.5]),
        ([1, 30], [1, 30, 30]),
        ((2,), [2, 2, 2]),
        ("linear", [5, 10, 15]),
        ("exponential", [1, 2, 4]),
        (None, [13, 23, 33]),
    ],
    ids=str,
)
def test_the_pause_before_the_next_attempt_is_the_backoffs(backoff, seconds):
    waiting = (tasks.raises.using(retries=3, backoff=backoff) if backoff is not None else backs_off_by_hand).delay()
    found = []
    for _ in seconds:
        drain()
        waiting.refresh_from_db()
        assert waiting.status == "RETRY"
        found.append((waiting.run_after - waiting.ended_at).total_seconds())
        Task.objects.update(run_after=waiting.ended_at)

    spread = 0.25 if backoff == "exponential" else 0
    assert all(abs(pause - nominal) <= spread * nominal + 1e-3 for pause, nominal in zip(found, seconds, strict=True))


def test_a_task_in_retry_is_unfinished_for_its_parent():
    parent = has_a_subtask_that_fails_once.delay()
    assert drain() == 2
    parent.refresh_from_db()
    assert parent.status == "WAITING"

    assert ended_in_time(parent).status == "SUCCESS"


@task
def has_a_subtask_that_fails_once(cqt):
    cqt.subtask(tasks.succeeds_at.using(backoff=60), (2,))


def test_a_task_of_unknown_name_is_left_alone():
    stranger = adds.delay(1)
    Task.objects.update(name="nobody.knows")

    assert drain() == 0
    stranger.refresh_from_db()
    assert stranger.status == "QUEUED"


def test_drain_counts_runs_and_stops_where_it_is_told():
    adds.delay_many([(n,) for n in range(5)])

    assert [drain(max_tasks=2), drain(max_tasks=0), drain(), drain()] == [2, 0, 3, 0]


def test_get_raises_what_the_task_knows():
    failed = ended(tasks.raises.delay("x"))

    with pytest.raises(TaskFailed, match=r"tests\.tasks\.raises .* ended in FAILURE: x") as error:
        failed.get()

    assert (error.value.task, error.value.status, error.value.error) == (failed, "FAILURE", "x")
    assert error.value.traceback == failed.traceback
