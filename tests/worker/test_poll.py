"""How often a worker looks by itself, by what its children hear."""

import asyncio
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


class Looks:
    """A keeper that looks when it is time, and children that hear what they are sent, or do not."""

    def __init__(self) -> None:
        self.heard = Moment()
        self.now = 1000.0
        self.poll = Poll(self.heard, [uuid4()])

    def take(self, *hears: bool) -> list[float]:
        """Look once, and once more after each pause; return the pauses."""
        pauses = [self.poll.pause(self.now)]
        for hears_it in hears:
            if hears_it:
                self.heard.note(self.now + 0.001)
            self.now += pauses[-1]
            pauses.append(self.poll.pause(self.now))
        return pauses


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
    assert Looks().take(*hears) == pauses


def test_what_came_before_it_was_sent_shows_nothing():
    looks = Looks()
    looks.heard.note(looks.now - 1)

    assert looks.take(NONE) == [2, 2]


def test_a_worker_without_children_hears_nothing():
    looks = Looks()
    looks.poll.children.clear()

    assert looks.take(HINTS) == [2, 2]


@pytest.mark.parametrize("hears_it", [HINTS, NONE])
def test_looks_that_follow_each_other_closely_leave_a_message_its_time(hears_it):
    """Tasks that become due one after the other have the keeper look for each."""
    looks = Looks()
    looks.take(HINTS)
    began = looks.now

    pauses = []
    while looks.now < began + 1.9:
        looks.now += 0.1
        pauses.append(looks.poll.pause(looks.now))
    if hears_it:
        looks.heard.note(began + 1.9)
    looks.now = began + 2.1

    assert set(pauses) == {4}
    assert looks.poll.pause(looks.now) == (8 if hears_it else 2)


def test_a_child_is_sent_a_message_at_each_look(loop):
    dead, child = uuid4(), uuid4()
    poll = Poll(Moment(), [dead])
    poll.children.add(child)
    poll.children.discard(dead)
    layer = channel_layers["default"]

    for now in (1000, 1002):
        poll.pause(now)
        received = asyncio.run_coroutine_threadsafe(layer.receive(PROCESS_CHANNEL.format(child.hex)), loop)

        assert received.result(5) == {"type": "cq.wake"}


def test_the_log_says_once_that_hints_come_or_go(caplog):
    caplog.set_level("INFO", "cq.keeper")

    Looks().take(NONE, HINTS, HINTS, NONE, NONE)

    assert caplog.messages == ["hints come", "no hints come; the database is looked at oftener"]
