"""When a task is tried again, after how long, and that a broken rule ends the task instead of losing it."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cq.exceptions import NEVER_RETRIED, InvalidOption, TaskTimeout
from cq.retry import MAX_EXPONENTIAL, MAX_SECONDS, RetryPolicy, decide, validate_backoff_data, validate_policy
from tests.naming import shown


def after(backoff: object, attempt: int, exc: BaseException | None = None, random: float = 0.5) -> float | None:
    policy = RetryPolicy(retries=1000, backoff=backoff)
    return decide(policy, exc or ValueError(), retries_used=0, attempt=attempt, random=lambda: random)


def test_three_retries_are_four_attempts() -> None:
    policy = RetryPolicy(retries=3, backoff=0)

    decisions = [decide(policy, ValueError(), retries_used=used, attempt=used + 1) for used in range(5)]

    assert decisions == [0, 0, 0, None, None]


def test_no_retries_is_the_default() -> None:
    assert decide(RetryPolicy(), ValueError(), retries_used=0, attempt=1) is None


def test_retries_count_apart_from_attempts() -> None:
    assert decide(RetryPolicy(retries=1, backoff="linear"), ValueError(), retries_used=0, attempt=7) == 35


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (5, 16), (12, 2048), (13, 3600), (10_000, 3600)]
)
def test_exponential_backoff_doubles_up_to_an_hour(attempt: int, seconds: float) -> None:
    assert after("exponential", attempt) == seconds


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_exponential_backoff_is_within_a_quarter_and_an_hour(attempt: int, random: float) -> None:
    nominal = 2.0 ** min(attempt - 1, 1000)

    seconds = after("exponential", attempt, random=random)

    assert seconds is not None
    assert min(0.75 * nominal, MAX_EXPONENTIAL * 0.75) <= seconds <= min(1.25 * nominal, MAX_EXPONENTIAL)


def test_exponential_backoff_spreads_by_a_quarter() -> None:
    assert after("exponential", 3, random=0.0) == 3
    assert after("exponential", 3, random=1.0) == 5


@pytest.mark.parametrize(
    ("backoff", "attempt", "seconds"),
    [
        ("linear", 1, 5),
        ("linear", 4, 20),
        (0, 1, 0),
        (2.5, 9, 2.5),
        ([1, 2, 30], 1, 1),
        ([1, 2, 30], 3, 30),
        ([1, 2, 30], 99, 30),
        ((7,), 2, 7),
        (lambda attempt, exc: attempt * 10, 3, 30),
        (lambda attempt, exc: len(str(exc)), 1, 3),
        (lambda attempt, exc: Fraction(1, 2), 1, 0.5),
    ],
)
def test_backoff_gives_the_seconds_after_the_attempt_that_failed(backoff: Any, attempt: int, seconds: float) -> None:
    assert after(backoff, attempt, ValueError("abc")) == seconds


@pytest.mark.parametrize(
    ("conditions", "is_retried"),
    [
        ((), True),
        ((ValueError,), True),
        ((Exception,), True),
        ((KeyError,), False),
        ((KeyError, lambda exc: "busy" in str(exc)), True),
        ((lambda exc: False,), False),
        ((lambda exc: None,), False),
        ((lambda exc: False, ValueError), True),
    ],
)
def test_exception_is_retried_if_any_condition_holds(conditions: tuple[Any, ...], is_retried: bool) -> None:
    policy = RetryPolicy(retries=1, retry_exceptions=conditions, backoff=1)

    assert (decide(policy, ValueError("busy"), retries_used=0, attempt=1) is not None) is is_retried


@pytest.mark.parametrize("exc", [SystemExit(1), KeyboardInterrupt(), TaskTimeout()], ids=shown)
def test_exceptions_of_any_class_are_retried(exc: BaseException) -> None:
    assert after(1, 1, exc) == 1


@pytest.mark.parametrize("kind", NEVER_RETRIED)
def test_what_could_not_end_otherwise_is_never_retried(kind: type[Exception]) -> None:
    policy = RetryPolicy(retries=5, retry_exceptions=(Exception, lambda exc: True), backoff=0)

    assert decide(policy, kind(), retries_used=0, attempt=1) is None


def raising(*args: Any) -> Any:
    raise RuntimeError("rule broken")


def exiting(*args: Any) -> Any:
    raise SystemExit(3)


class Undecided:
    def __bool__(self) -> bool:
        raise RuntimeError("rule broken")


async def coroutine(exc: BaseException) -> bool:
    return True


@pytest.mark.parametrize("predicate", [raising, exiting, lambda: True, lambda exc: Undecided(), lambda exc: Waiting()])
def test_broken_predicate_means_no_retry_and_a_note(predicate: Callable[..., Any]) -> None:
    exc = ValueError("the task's own")
    policy = RetryPolicy(retries=5, retry_exceptions=(predicate,), backoff=1)

    assert decide(policy, exc, retries_used=0, attempt=1) is None
    assert exc.__notes__[0].startswith("Not retried: deciding about it failed with ")


class Waiting:
    def __await__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    "answer",
    [-1, -0.001, math.nan, math.inf, 1e300, 10**400, None, "5", True, [1], Decimal(1), object(), Undecided()],
    ids=shown,
)
def test_nonsense_from_a_backoff_function_means_no_retry_and_a_note(answer: Any) -> None:
    exc = ValueError("the task's own")

    assert after(lambda attempt, exc: answer, 1, exc) is None
    assert exc.__notes__[0].startswith("Not retried: ")


@pytest.mark.parametrize("backoff", [raising, exiting, lambda: 1, "often", [], None, -1])
def test_broken_backoff_means_no_retry_and_a_note(backoff: Any) -> None:
    exc = ValueError("the task's own")

    assert after(backoff, 1, exc) is None
    assert len(exc.__notes__) == 1


def test_exception_that_takes_no_note_is_no_harm() -> None:
    class Closed(Exception):
        def add_note(self, note: str) -> None:
            raise TypeError(note)

    assert after(raising, 1, Closed()) is None


def test_policy_is_made_of_valid_options() -> None:
    def is_temporary(exc: BaseException) -> bool:
        return True

    policy = validate_policy(3, [ValueError, is_temporary], [1, 2.5])

    assert policy == RetryPolicy(3, (ValueError, is_temporary), (1, 2.5))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), ()),
        (ValueError, (ValueError,)),
        (raising, (raising,)),
        ({KeyError}, (KeyError,)),
        ((e for e in [OSError]), (OSError,)),
    ],
)
def test_one_condition_or_several_can_be_given(given: Any, kept: tuple[Any, ...]) -> None:
    assert validate_policy(1, given, 1).retry_exceptions == kept


@pytest.mark.parametrize("retries", [-1, 1001, True, 1.0, "3", None, math.inf])
def test_retries_are_a_whole_number_up_to_a_thousand(retries: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^retries=.* from 0 to 1,000\.$"):
        validate_policy(retries, (), 1)


@pytest.mark.parametrize(
    "conditions",
    [
        None,
        "ValueError",
        ["ValueError"],
        b"x",
        5,
        (int,),
        int,
        (ValueError(),),
        [None],
        (ValueError, (KeyError,)),
        ((KeyError,),),
    ],
    ids=shown,
)
def test_conditions_are_exception_classes_and_functions(conditions: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^retry_exceptions: found .*; expected exception classes and functions"):
        validate_policy(1, conditions, 1)


class CallableLater:
    async def __call__(self, *args: Any) -> float:
        return 1


@pytest.mark.parametrize("predicate", [lambda: True, lambda a, b: True, coroutine, CallableLater()])
def test_predicate_that_cannot_be_called_with_an_exception_is_refused(predicate: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected f\(exc\) that says whether to retry"):
        validate_policy(1, (predicate,), 1)


@pytest.mark.parametrize("backoff", [lambda: 1, lambda attempt: 1, coroutine, CallableLater()])
def test_backoff_function_that_cannot_be_called_is_refused(backoff: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected f\(attempt, exc\) that returns seconds"):
        validate_policy(1, (), backoff)


@pytest.mark.parametrize("function", [raising, max, lambda attempt, exc, more=1: 1])
def test_backoff_function_is_kept_as_it_is(function: Any) -> None:
    assert validate_policy(1, (), function).backoff is function


@pytest.mark.parametrize("backoff", ["exponential", "linear", 0, 5, 0.5, MAX_SECONDS, [1], [0, 2.5, 60]])
def test_backoff_data_is_a_word_a_number_or_a_list(backoff: Any) -> None:
    assert validate_backoff_data(backoff) == backoff
    assert validate_backoff_data((1, 2)) == [1, 2]


@pytest.mark.parametrize(
    "backoff",
    [
        "often",
        "",
        -1,
        math.nan,
        math.inf,
        True,
        None,
        [],
        ["linear"],
        [1, -1],
        [True],
        {},
        1e12,
        10**400,
        Decimal(1),
        raising,
    ],
    ids=shown,
)
def test_other_backoff_data_is_refused(backoff: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^backoff=.*'exponential', 'linear', a number of seconds"):
        validate_backoff_data(backoff)


@given(
    st.one_of(
        st.sampled_from(["exponential", "linear"]), st.floats(0, 1e6), st.lists(st.integers(0, 10**6), min_size=1)
    )
)
def test_valid_data_always_gives_seconds(backoff: Any) -> None:
    policy = validate_policy(1, (), backoff)

    for attempt in (1, 2, 1000):
        seconds = decide(policy, ValueError(), retries_used=0, attempt=attempt)
        assert seconds is not None
        assert 0 <= seconds <= MAX_SECONDS
