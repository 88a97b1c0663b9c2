"""How often a worker looks by itself, by what its children hear."""

import asyncio
import time
from uuid import uuid4

import pytest
from channels.layers import channel_layers

from cq.notifier import PROCESS_CHANNEL
from cq.worker.marks import Moment
from cq.worker.poll import Poll

HINTS, NONE = True, False


@pytest.fixture(autouse=True)
def _eight_seconds(settings):
    settings.CQ = {"POLL_INTERVAL": 8}


@pytest.mark.parametrize(
    ("hears", "pauses"),
    [
        ([NONE, NONE, NONE], [2, 2, 2, 2]),
        ([HINTS, HINTS, HINTS, HINTS], [2, 4, 8, 8, 8]),
        ([HINTS, HINTS, NONE, NONE, HINTS, HINTS], [2, 4, 8, 2, 2, 4, 8]),
    ],
    ids=["without hints", "with hints", "hints go and come"],
)
def test_the_poll_backs_off_while_hints_come_and_only_then(hears, pauses):
    heard = Moment()
    poll = Poll(heard, [uuid4()])
    took = [poll.pause()]

    for is_heard in hears:
        if is_heard:
            heard.note(time.monotonic())
        took.append(poll.pause())

    assert took == pauses


def test_what_came_before_it_was_sent_shows_nothing():
    heard = Moment()
    heard.note(time.monotonic())
    poll = Poll(heard, [uuid4()])

    assert [poll.pause(), poll.pause()] == [2, 2]


def test_a_worker_without_children_hears_nothing():
    heard = Moment()
    poll = Poll(heard, [])

    took = [poll.pause()]
    heard.note(time.monotonic())
    took.append(poll.pause())

    assert took == [2, 2]


def test_a_child_is_sent_a_message_at_each_look(loop):
    dead, child = uuid4(), uuid4()
    poll = Poll(Moment(), [dead])
    poll.children.add(child)
    poll.children.discard(dead)
    layer = channel_layers["default"]

    for _ in range(2):
        poll.pause()
        received = asyncio.run_coroutine_threadsafe(layer.receive(PROCESS_CHANNEL.format(child.hex)), loop)

        assert received.result(5) == {"type": "cq.wake"}


def test_the_log_says_once_that_hints_come_or_go(caplog):
    caplog.set_level("INFO", "cq.keeper")
    heard = Moment()
    poll = Poll(heard, [uuid4()])

    for is_heard in (NONE, HINTS, HINTS, NONE, NONE):
        poll.pause()
        if is_heard:
            heard.note(time.monotonic())
    poll.pause()

    assert caplog.messages == ["hints come", "no hints come; the database is looked at oftener"]
