"""Steps: called once for all runs, and recorded together with what they have written."""

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group, User

from cq.exceptions import InvalidArguments
from cq.models import Task
from tests.api import endurance
from tests.api.endurance import CALLS
from tests.api.run import ended, ended_in_time

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def test_a_step_is_called_once_for_all_attempts_and_its_result_comes_back() -> None:
    task = ended_in_time(endurance.steps_and_fails.delay(2, "a", {"b": None}))

    assert (task.status, task.result, task.attempt) == ("SUCCESS", ["a", {"b": None}], 3)
    assert CALLS == {"0": 1, "1": 1}


VALUES = [
    (1, 2),
    {3, 4},
    b"bytes",
    Decimal("1.10"),
    timedelta(days=2),
    datetime(2030, 1, 2, tzinfo=UTC),
    UUID(int=7),
    [None, True, 2.5, "text"],
    None,
]


@pytest.mark.parametrize("failures", [0, 1], ids=["the first time", "a later time"])
def test_what_a_step_returned_comes_back_as_it_went_in(failures: int) -> None:
    task = ended_in_time(endurance.steps_and_fails.delay(failures, *VALUES))

    assert task.result == VALUES
    assert [type(value) for value in task.result] == [type(value) for value in VALUES]
    assert set(CALLS.values()) == {1}


@pytest.mark.parametrize("failures", [0, 1], ids=["the first time", "a later time"])
def test_a_model_instance_that_a_step_returned_is_read_again(failures: int) -> None:
    user = User.objects.create(username="ada")

    task = ended_in_time(endurance.steps_and_fails.delay(failures, user))

    assert (task.result[0].get(), CALLS) == (user, {"0": 1})


@endurance.task(atomic=False, retries=1, backoff=0)
def tells_its_type(cqt: Any, attempt: int) -> str:
    found = cqt.step("made", OrderedDict, a=1)
    if cqt.attempt < attempt:
        raise ValueError("not yet")
    return type(found).__name__


@pytest.mark.parametrize("attempt", [1, 2])
def test_what_the_first_run_gets_is_what_later_ones_will(attempt: int) -> None:
    assert ended_in_time(tells_its_type.delay(attempt)).result == "dict"


def test_steps_are_listed_in_order_with_their_times() -> None:
    task = ended_in_time(endurance.steps_and_fails.delay(1, "a", "b"))

    steps = list(task.steps.all())
    assert [(step.kind, step.name, step.result, step.attempt) for step in steps] == [
        ("step", "0", "a", 1),
        ("step", "1", "b", 1),
    ]
    assert task.created_at <= steps[0].started_at <= steps[0].ended_at <= steps[1].started_at <= steps[1].ended_at


def test_a_step_that_raises_is_not_recorded_rolls_back_and_is_called_again() -> None:
    task = ended_in_time(endurance.step_fails.delay())

    assert (task.status, task.result, task.attempt) == ("SUCCESS", "at last", 2)
    assert list(Group.objects.values_list("name", flat=True)) == ["None2"]
    assert [attempt.error for attempt in task.attempts.all()] == ["in the step", None]


def test_in_a_coroutine_functions_and_coroutines_can_be_steps() -> None:
    task = ended_in_time(endurance.steps_in_coroutine.delay(1))

    assert (task.status, task.result, task.attempt) == ("SUCCESS", ["function", (1, 2)], 2)
    assert CALLS == {"function": 1, "coroutine": 1}
    assert [step.name for step in task.steps.all()] == ["function", "coroutine"]


@endurance.task
async def steps_side_by_side(cqt: Any) -> Any:
    inside, done = asyncio.Event(), asyncio.Event()

    async def first() -> int:
        inside.set()
        await done.wait()
        return 1

    async def second() -> Any:
        await inside.wait()
        found = await cqt.astep("two", endurance.acall, "two", 2)
        done.set()
        return found

    async with asyncio.timeout(10):
        return await asyncio.gather(cqt.astep("one", first), second())


def test_steps_of_a_coroutine_may_run_side_by_side() -> None:
    task = ended(steps_side_by_side.delay())

    assert (task.status, task.result) == ("SUCCESS", [1, 2]), task.error
    assert {step.name for step in task.steps.all()} == {"one", "two"}


def test_in_an_atomic_body_a_step_rolls_back_with_the_body() -> None:
    task = ended_in_time(endurance.steps_atomically.delay(1))

    assert (task.status, task.result) == ("SUCCESS", "atomic")
    assert CALLS == {"atomic": 2}
    assert Group.objects.count() == 1
    assert [(step.name, step.attempt) for step in task.steps.all()] == [("write", 2)]


def test_a_result_that_cannot_be_stored_fails_the_task_and_leaves_no_step(settings: Any) -> None:
    settings.CQ = {"MAX_RESULT_SIZE": 100}

    task = ended(endurance.steps_and_fails.delay(0, "x" * 101))

    assert (task.status, task.exception, task.attempt) == ("FAILURE", "cq.exceptions.TooLarge", 1)
    assert not task.steps.exists()


REFUSED = {
    ("step", "step"): "used with the name 'one' in this run already",
    ("named sleep", "named sleep"): "used with the name 'nap' in this run already",
    ("subtask in a step",): "A subtask or a chain inside the step 'outer'",
    ("step in a step",): "cqt.step() or cqt.astep() inside the step 'outer'",
    ("sleep in a step",): "cqt.sleep() or cqt.asleep() inside the step 'outer'",
    ("wait_event in a step",): "cqt.wait_event() or cqt.await_event() inside the step 'outer'",
}


@pytest.mark.parametrize("verbs", REFUSED, ids=" ".join)
def test_what_would_not_be_the_same_in_every_run_is_refused_in_a_sentence(verbs: tuple[str, ...]) -> None:
    task = ended(endurance.uses.delay(*verbs))

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")
    assert REFUSED[verbs] in task.error
    assert not task.subtasks.exists()


def test_a_step_may_call_another_task_which_has_steps_of_its_own() -> None:
    assert ended(endurance.uses.delay("task in a step")).status == "SUCCESS"
    assert CALLS == {"one": 1}


@pytest.mark.parametrize("name", ["", None, 7, "x" * 201, "a\nb"])
def test_a_name_is_a_short_printable_text(name: Any) -> None:
    assert "name=" in str(ended(named.delay(name)).error)


@endurance.task(atomic=False)
def named(cqt: Any, name: Any) -> None:
    cqt.step(name, endurance.call, "named")


def test_a_function_cannot_step_through_a_coroutine() -> None:
    assert ended(endurance.uses.delay("step of a coroutine")).exception == "cq.exceptions.InvalidArguments"
    with pytest.raises(InvalidArguments, match=r"await cqt\.astep"):
        endurance.uses("step of a coroutine")


@pytest.mark.parametrize(
    ("verb", "twin"), [("step", "astep"), ("sleep", "asleep"), ("wait_event", "await_event")], ids=lambda verb: verb
)
def test_in_a_coroutine_what_blocks_names_its_twin(verb: str, twin: str) -> None:
    task = ended(endurance.uses_in_coroutine.delay(verb))

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")
    assert f"await cqt.{twin}(…)" in task.error


def test_in_a_thread_of_a_coroutine_what_blocks_works() -> None:
    task = ended(endurance.uses_in_coroutine.delay("step", elsewhere=True))

    assert (task.status, CALLS["one"]) == ("SUCCESS", 1)


# Direct calls


def test_in_a_direct_call_steps_are_called_and_their_results_are_what_a_worker_would_give() -> None:
    user = User.objects.create(username="ada")

    assert endurance.steps_and_fails(0, (1, 2), user) == [(1, 2), user]
    assert async_to_sync(direct_coroutine)() == ["function", (1, 2)]
    assert not Task.objects.exists()


async def direct_coroutine() -> Any:
    return await endurance.steps_in_coroutine(0)


def test_in_a_direct_call_too_a_result_must_be_storable() -> None:
    with pytest.raises(TypeError, match="result"):
        endurance.steps_and_fails(0, object())
