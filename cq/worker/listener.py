"""Listen on the channel layer, for as long as there is room: a full worker leaves the hints to others.

Our own loop around the layer's `receive`: Channels' worker ends at a message without a type, or an error of the layer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

from cq import notifier
from cq.consumers import CQConsumer
from cq.worker.options import WorkerOptions

logger = logging.getLogger("cq.listener")

_ROOM_LOOK_EVERY = 0.05
_LONGEST_BACKOFF = 5.0
# An error after so long is a client that gives up waiting for a message, as redis-py does after 5 s, not a broken layer.
_IDLE = 1.0


def channels(options: WorkerOptions) -> Sequence[str]:
    """Name the channels that a worker of these queues listens on."""
    if options.queues is None:
        return [notifier.CHANNEL]
    return [notifier.QUEUE_CHANNEL.format(queue) for queue in options.queues]


async def listen(channel: str, consumer: CQConsumer, has_room: Callable[[], bool]) -> None:
    """Hear one channel for ever; a layer that fails is tried again, later and later."""
    layer = notifier.layer()
    if layer is None:
        return
    failures = 0
    while True:
        while not has_room():
            await asyncio.sleep(_ROOM_LOOK_EVERY)
        began = time.monotonic()
        try:
            message = await layer.receive(channel)
            failures = 0
        except Exception as error:  # a layer may raise anything, and must not end the worker
            if time.monotonic() - began > _IDLE:
                continue
            failures += 1
            pause = min(_LONGEST_BACKOFF, 0.1 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)
            logger.warning("channel layer unavailable error=%s; the poll goes on; next try in %.1f s", error, pause)
            await asyncio.sleep(pause)
        else:
            await consumer.hear(message)
