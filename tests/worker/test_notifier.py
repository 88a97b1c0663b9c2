"""The sender of hints: what it spares a channel that is full, and a layer that is used by others too."""

import asyncio
import threading
import time
from uuid import uuid4

import pytest
from channels.layers import channel_layers
from django.test import override_settings

from cq import notifier
from cq.notifier import Notifier
from tests.processes import until

FULL_AT_ONE = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1}}}

REFUSED = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]},
    }
}


@override_settings(CHANNEL_LAYERS=FULL_AT_ONE)
def test_a_full_channel_is_left_alone_for_a_while():
    sender = Notifier()
    began = time.monotonic()

    while time.monotonic() < began + 0.4:
        sender.mark(look=True)
    sender.flush(5)

    assert sender.counts["sent"] == 1
    assert sender.counts["full"] == 1


@override_settings(CHANNEL_LAYERS=REFUSED)
def test_a_layer_that_is_away_is_left_alone_for_a_while():
    sender = Notifier()
    began = time.monotonic()

    while time.monotonic() < began + 0.2:
        sender.mark(look=True, queues=["a"])
    sender.flush(5)

    assert sender.counts == {"failed": 1}


@pytest.mark.parametrize("layers", [{}, {"default": {}}, {"default": {"BACKEND": "no.such.Layer"}}])
def test_a_layer_that_cannot_be_imported_does_not_keep_a_worker_from_starting(layers):
    with override_settings(CHANNEL_LAYERS=layers):
        notifier.preload()


def test_a_layer_that_cannot_be_made_is_complained_of_once(caplog):
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "not.there.Layer"}}):
        layers = [notifier.layer(), notifier.layer()]

    assert layers == [None, None]
    assert caplog.messages == [
        "channel layer 'default' cannot be used error=InvalidChannelLayerError: Cannot import BACKEND 'not.there.Layer'"
        " specified for default; workers find new tasks by their poll"
    ]


def test_a_layer_that_cannot_be_made_is_tried_again():
    sender = Notifier()

    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "no.such.Layer"}}):
        sender.mark(look=True)
        sender.flush(5)
    is_through = not sender.is_saying
    sender.mark(look=True)
    sender.flush(5)

    assert is_through
    assert sender.counts["sent"] + sender.counts["full"] == sender.counts.total() == 1


def test_a_layer_that_is_away_is_complained_of_once_until_it_is_back(caplog, monkeypatch):
    monkeypatch.setattr(notifier, "_BREAK", 0.0)
    sender = Notifier()

    def send(number: int) -> None:
        for _ in range(number):
            sender.mark(look=True, queues=["a"])
            sender.flush(5)

    for _ in range(2):
        with override_settings(CHANNEL_LAYERS=REFUSED):
            send(3)
        send(1)

    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_a_project_may_receive_on_its_layer_in_another_loop(loop):
    layer = channel_layers["default"]
    channel = asyncio.run_coroutine_threadsafe(layer.new_channel(), loop).result(5)
    received = asyncio.run_coroutine_threadsafe(layer.receive(channel), loop)
    told = threading.Event()
    task_id = uuid4()
    notifier.listen(task_id, told.set)

    def is_told() -> bool:
        notifier.announce([task_id])
        return told.wait(0.02)

    until(is_told, 5)
    notifier.unlisten(task_id, told.set)
    asyncio.run_coroutine_threadsafe(layer.send(channel, {"type": "project.message"}), loop).result(5)

    assert received.result(5) == {"type": "project.message"}
