"""The ASGI application for projects that have none, and the routing for those that do."""

import asyncio
import logging

from asgiref.testing import ApplicationCommunicator

from cq import asgi, notifier
from cq.consumers import CQConsumer
from cq.routing import channel_routing


async def test_the_application_hands_wake_ups_to_the_consumer(monkeypatch):
    heard: asyncio.Queue[object] = asyncio.Queue()
    monkeypatch.setattr(CQConsumer, "hear", lambda self, message: heard.put(message))
    application = ApplicationCommunicator(asgi.get_application(), {"type": "channel", "channel": notifier.CHANNEL})

    await application.send_input({"type": "cq.wake"})

    assert await asyncio.wait_for(heard.get(), 5) == {"type": "cq.wake"}
    await application.wait()


async def test_a_consumer_without_a_worker_says_who_has_one(caplog):
    with caplog.at_level(logging.ERROR, logger="cq.consumer"):
        await CQConsumer().hear({"type": "cq.wake"})

    assert "Start workers with: manage.py cq_runworker" in caplog.text


async def test_the_routing_has_the_one_channel():
    assert list(channel_routing) == [notifier.CHANNEL]


async def test_the_consumer_wakes_its_worker_and_ignores_everything_else():
    woken = []
    consumer = CQConsumer(lambda: woken.append(1))

    for message in ({"type": "cq.wake"}, {"type": "cq.wake", "task": "os.system"}, {}, {"type": "_x"}, None, b"x", [1]):
        await consumer.hear(message)

    assert len(woken) == 2
    assert consumer.counts == {"woken": 2, "ignored": 5}
