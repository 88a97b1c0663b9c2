"""Pausing: nothing is claimed from a paused queue, nobody is woken for it, and what was said at run time beats the settings."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from cq import engine, notifier, queues, registry, sql
from cq.conf import conf
from cq.exceptions import InvalidOption
from cq.models import Queue, Task
from cq.states import Status
from cq.testing import drain
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import elsewhere
from tests.rows.make import process, row, take
from tests.rows.test_guards import waits

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def by_hand(settings: Any) -> None:
    queues.pause("default")


def by_settings(settings: Any) -> None:
    settings.CQ = {"QUEUES": {"default": {"paused": True}, "mail": {}}}


def by_hand_against_the_settings(settings: Any) -> None:
    settings.CQ = {"QUEUES": {"default": {"paused": False}, "mail": {}}}
    queues.pause("default")


Pause = Callable[[Any], None]
pauses = pytest.mark.parametrize("pause", [by_hand, by_settings, by_hand_against_the_settings])


@pauses
def test_nothing_is_claimed_from_a_paused_queue(settings: Any, pause: Pause) -> None:
    row()
    other = row(queue="mail")
    process_id = process()
    pause(settings)

    assert take(process_id, 5) == []
    assert [claimed.id for claimed in take(process_id, 5, "mail")] == [other.id]


@pauses
def test_suspects_are_not_claimed_from_it_either(settings: Any, pause: Pause) -> None:
    row(crashes=1)
    process_id = process()
    pause(settings)

    assert take(process_id, 5, suspects=True) == []


@pauses
def test_a_paused_queue_is_not_among_the_ready_ones(settings: Any, pause: Pause) -> None:
    row()
    row(queue="mail")
    pause(settings)

    assert engine.ready_queues() == ["mail"]


@pauses
def test_a_paused_queue_wakes_nobody(settings: Any, pause: Pause) -> None:
    row()
    row(crashes=1)
    pause(settings)

    seen = engine.look(None, registry.names())

    assert (seen.ready, seen.suspects) == (False, 0)


@pytest.mark.parametrize("served", [None, ("default", "mail")], ids=["all queues", "some"])
def test_behind_a_paused_queue_another_is_seen(served: tuple[str, ...] | None) -> None:
    row()
    row(queue="mail")
    queues.pause("default")

    assert engine.look(served, registry.names()).ready
    assert not engine.look(("default",), registry.names()).ready


@pauses
@pytest.mark.parametrize("status", [Status.QUEUED, Status.RETRY])
def test_a_paused_queue_keeps_no_worker_from_draining(settings: Any, pause: Pause, status: Status) -> None:
    row(status, run_after=Now())
    assert engine.is_busy(None, registry.names())
    pause(settings)

    assert not engine.is_busy(None, registry.names())


def test_what_runs_in_a_paused_queue_is_waited_for() -> None:
    row(Status.RUNNING)
    queues.pause("default")

    assert engine.is_busy(None, registry.names())


def test_what_is_resumed_at_run_time_goes_on_whatever_the_settings_say(settings: Any) -> None:
    by_settings(settings)
    task = row()

    assert queues.resume("default")

    assert [claimed.id for claimed in take(process(), 5)] == [task.id]
    assert not queues.is_paused("default")


def test_pausing_twice_changes_nothing(settings: Any) -> None:
    assert queues.pause("default")
    (before,) = Queue.objects.values_list()

    assert not queues.pause("default")
    assert list(Queue.objects.values_list()) == [before]
    assert queues.is_paused("default")


def test_what_is_so_already_leaves_no_row(settings: Any) -> None:
    settings.CQ = {"QUEUES": {"bulk": {"paused": True}, "mail": {}}}

    assert not queues.pause("bulk")
    assert not queues.resume("mail")

    assert not Queue.objects.exists()


def test_a_queue_that_there_is_not_cannot_be_paused(settings: Any) -> None:
    settings.CQ = {"QUEUES": {"mail": {}}}

    with pytest.raises(InvalidOption, match=r"'other' is not in CQ\['QUEUES'\], which has \['mail'\]"):
        queues.pause("other")
    with pytest.raises(InvalidOption, match="1 to 64 letters"):
        queues.pause("a b")


def test_a_paused_queue_that_has_left_the_settings_can_be_resumed(settings: Any) -> None:
    queues.pause("old")
    settings.CQ = {"QUEUES": {"mail": {}}}

    assert queues.resume("old")


def test_a_paused_queue_takes_new_tasks_and_drain_leaves_them() -> None:
    queues.pause("default")
    task = tasks.adds.delay(1)

    assert drain() == 0
    queues.resume("default")
    assert drain() == 1

    task.refresh_from_db()
    assert task.status == Status.SUCCESS


@committed
def test_a_claim_in_flight_holds_up_no_pause() -> None:
    row()
    with elsewhere() as child:
        child.open()
        child(take, process())

        assert queues.pause("default")
        child.commit()

    assert Task.objects.get().status == Status.RUNNING


@committed
def test_a_look_does_not_walk_through_the_pile_of_a_paused_queue() -> None:
    make.many(3000, Status.QUEUED)

    walked = passed_by(["nobody.knows"])
    queues.pause("default")

    assert walked >= 3000
    assert passed_by(registry.names()) < 100


def passed_by(names: list[str]) -> int:
    """Count the rows that a look reads and does not want."""

    def sum_up(plan: dict[str, Any]) -> int:
        own = int(plan.get("Rows Removed by Filter", 0) * plan["Actual Loops"])
        return own + sum(sum_up(part) for part in plan.get("Plans", []))

    each = (None, None, conf().paused_queues, names)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.LOOK}", [*each, *each, names, names, None])
        ((explained,),) = cursor.fetchall()
    return sum_up(explained[0]["Plan"])


@committed
def test_of_two_who_pause_at_once_one_has_changed_it() -> None:
    with elsewhere() as other:
        other.open()
        first = other(queues.pause, "default")
        with elsewhere() as third:
            second = third.begin(queues.pause, "default")
            assert waits(second)
            other.commit()

            assert (first, second.result(10)) == (True, False)


@committed
def test_the_workers_of_a_resumed_queue_are_woken() -> None:
    async def hear() -> dict[str, Any]:
        layer = notifier.layer()
        assert layer is not None
        return await asyncio.wait_for(layer.receive("cq.queue.heard"), 5)

    queues.pause("heard")
    queues.resume("heard")

    assert asyncio.run(hear())["type"] == "cq.wake"
