"""Sleeping: the worker is given back, and the body goes on from where it was when it is time."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import transaction

from cq import task
from cq.exceptions import InvalidOption, NotAllowedHere
from cq.models import Task
from cq.testing import drain
from tests.api import endurance
from tests.api.endurance import CALLS, let_time_pass
from tests.api.run import ended, ended_in_time

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def test_a_body_that_sleeps_holds_no_worker_and_has_made_nothing() -> None:
    task = ended(endurance.naps.delay())

    assert (task.status, task.attempt, task.process_id, task.worker[:7]) == ("SUSPENDED", 1, None, "serial/")
    assert not task.is_done
    assert timedelta(minutes=59) < task.run_after - task.started_at <= timedelta(hours=1, seconds=5)
    assert not task.subtasks.exists()
    assert [attempt.outcome for attempt in task.attempts.all()] == [None]


def test_a_body_that_has_slept_goes_on_in_the_same_attempt() -> None:
    task = ended(endurance.naps.delay())
    let_time_pass(task)

    task = ended(task)

    assert (task.status, task.result, task.attempt) == ("SUCCESS", [1, 1], 1)
    assert CALLS == {"naps": 3, "before": 2}, "two runs and one subtask"
    assert [subtask.status for subtask in task.subtasks.all()] == ["SUCCESS"]
    assert [(step.kind, step.name) for step in task.steps.all()] == [("step", "before"), ("sleep", "#1")]
    assert [(attempt.number, attempt.outcome) for attempt in task.attempts.all()] == [(1, "success")]


def test_before_its_time_nothing_wakes_it() -> None:
    task = ended(endurance.naps.delay())

    assert drain() == 0
    task.refresh_from_db()
    assert task.status == "SUSPENDED"


def test_a_coroutine_sleeps_step_by_step() -> None:
    task = ended(endurance.naps_in_coroutine.delay())
    assert task.status == "SUSPENDED"
    let_time_pass(task)
    ended(task)
    assert CALLS["naps"] == 2
    let_time_pass(task)

    task = ended(task)

    assert (task.status, task.result, task.attempt) == ("SUCCESS", 1, 1)
    assert CALLS == {"naps": 3, "before": 1, "after": 1}
    assert [step.name for step in task.steps.all()] == ["before", "#1", "again", "after"]


@task(atomic=False)
def naps_in_a_block(cqt: Any) -> None:
    with transaction.atomic():
        Group.objects.create(name="half")
        cqt.sleep(3600)


def test_inside_a_transaction_of_the_bodys_own_it_is_refused() -> None:
    task = ended(naps_in_a_block.delay())

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")
    assert "cqt.sleep() or cqt.asleep() inside a transaction" in task.error
    assert not Group.objects.exists()


@pytest.mark.parametrize("verb", ["sleep", "wait_event"])
def test_in_an_atomic_body_it_is_refused(verb: str) -> None:
    task = ended(endurance.uses_atomically.delay(verb))

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")
    assert f"cqt.{verb}()" in task.error
    assert "@task(atomic=False)" in task.error
    with pytest.raises(NotAllowedHere, match="atomic"):
        endurance.uses_atomically(verb)


@pytest.mark.parametrize(
    "then", [(), ("step",), ("subtask",), ("short sleep",)], ids=["nothing", "step", "subtask", "sleep"]
)
def test_a_body_that_swallows_its_suspension_and_goes_on_fails_and_says_so(then: tuple[str, ...]) -> None:
    task = ended(endurance.uses.delay("swallow", *then))

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")
    assert "was suspended by cqt.sleep() or cqt.asleep(), caught that, and went on" in task.error
    assert CALLS == {"swallowed": 1}
    assert not task.steps.exists()


@task
async def naps_in_a_group(cqt: Any) -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(cqt.asleep(3600))
    return "slept"


def test_a_coroutine_may_sleep_in_a_task_group() -> None:
    task = ended(naps_in_a_group.delay())
    assert task.status == "SUSPENDED"
    let_time_pass(task)

    assert ended(task).result == "slept"


@task(atomic=False)
def fails_while_leaving(cqt: Any) -> None:
    try:
        cqt.sleep(3600)
    finally:
        raise ValueError("while leaving")


def test_a_body_that_fails_while_it_is_left_fails() -> None:
    task = ended(fails_while_leaving.delay())

    assert (task.status, task.error) == ("FAILURE", "while leaving")


@task(atomic=False, retries=1, backoff=0)
def naps_and_fails(cqt: Any) -> int:
    cqt.sleep(3600, "nap")
    if cqt.attempt == 1:
        raise ValueError("tired")
    return int(cqt.attempt)


def test_a_sleep_that_is_over_stays_so_in_later_attempts() -> None:
    task = ended(naps_and_fails.delay())
    let_time_pass(task)

    task = ended_in_time(task)

    assert (task.status, task.result) == ("SUCCESS", 2)
    assert [(attempt.number, attempt.outcome) for attempt in task.attempts.all()] == [(1, "error"), (2, "success")]


def test_a_revoked_sleep_ends_the_attempt_and_goes_on_to_the_same_time_when_it_is_retried() -> None:
    task = ended(endurance.naps.delay())
    until = task.run_after

    assert task.revoke()
    assert (task.status, [attempt.outcome for attempt in task.attempts.all()]) == ("REVOKED", ["revoked"])
    assert task.retry()
    task = ended(task)

    assert (task.status, task.attempt, task.run_after) == ("SUSPENDED", 2, until)
    let_time_pass(task)
    task = ended(task)
    assert (task.status, task.result) == ("SUCCESS", [1, 2])
    assert [attempt.outcome for attempt in task.attempts.all()] == ["revoked", "success"]


def test_a_revoke_from_above_ends_the_attempt_of_a_sleeping_subtask() -> None:
    root = ended(sleeps_below.delay())
    (below,) = root.subtasks.all()
    assert (root.status, below.status) == ("WAITING", "SUSPENDED")

    root.revoke()
    ended(root)

    below.refresh_from_db()
    assert (below.status, [attempt.outcome for attempt in below.attempts.all()]) == ("REVOKED", ["revoked"])


@task
def sleeps_below(cqt: Any) -> None:
    cqt.subtask(endurance.naps)


def test_a_parent_waits_for_a_subtask_that_sleeps() -> None:
    root = ended(sleeps_below.delay())
    let_time_pass(*root.subtasks.all())

    assert ended(root).status == "SUCCESS"


@pytest.mark.parametrize("duration", [-1, float("nan"), "1", None, True, timedelta(days=40_000)])
def test_a_duration_is_seconds_or_a_timedelta(duration: Any) -> None:
    with pytest.raises(InvalidOption, match=r"duration=.*: expected seconds or a timedelta from 0"):
        rests(duration)


@task(atomic=False)
def rests(cqt: Any, duration: Any) -> str:
    cqt.sleep(duration)
    return "rested"


@task
async def rests_in_coroutine(cqt: Any, duration: Any) -> str:
    await cqt.asleep(duration)
    return "rested"


async def directly(duration: float) -> Any:
    return await rests_in_coroutine(duration)


@pytest.mark.parametrize("call", [rests, async_to_sync(directly)], ids=["function", "coroutine"])
def test_a_direct_call_sleeps_here(call: Any) -> None:
    began = time.monotonic()

    assert call(0.05) == "rested"

    assert time.monotonic() - began >= 0.05
    assert not Task.objects.exists()
