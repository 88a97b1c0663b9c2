"""What workers hear on the channel layer: one message that says "look at the database". It carries nothing else."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from channels.consumer import AsyncConsumer

from cq.notifier import WAKE

logger = logging.getLogger("cq.consumer")


class CQConsumer(AsyncConsumer):
    """Turns `cq.wake` into a round of the worker it belongs to: settle what was asked for, fire what is due, claim what fits.

    `cq_runworker` gives it that worker. Anything else that arrives on the channel is counted and ignored.
    """

    def __init__(self, wake: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.wake = wake
        self.counts: Counter[str] = Counter()

    async def hear(self, message: Any) -> None:
        """Take a message as it came off the layer, whoever wrote it."""
        if isinstance(message, dict) and message.get("type") == WAKE:
            self.counts["woken"] += 1
            await self.cq_wake(message)
            return
        self.counts["ignored"] += 1
        logger.debug("message ignored type=%.80r", message.get("type") if isinstance(message, dict) else type(message))

    async def dispatch(self, message: Any) -> None:
        """Do the same for Channels' own dispatcher."""
        await self.hear(message)

    async def cq_wake(self, _message: Any) -> None:
        """Look at the database."""
        if self.wake is None:
            logger.error("This process cannot run tasks. Start workers with: manage.py cq_runworker")
            return
        self.wake()
