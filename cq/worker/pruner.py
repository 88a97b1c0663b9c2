"""The thread of the keeper that removes what is past its time, a batch at a time.

On a thread and a connection of its own, because a large workflow goes in one transaction: the worker's sign of life does not wait
for that. Every worker does it; whoever finds a workflow locked leaves it to the other.
"""

from __future__ import annotations

import logging
import random
import threading
import time

from django.db import Error as DatabaseError
from django.db import connections

from cq import database
from cq.prune import Pruned, prune, prune_statistics

logger = logging.getLogger("cq.prune")

_FIRST_AFTER = 1.0
_EVERY = 60.0
# So long at one go, and so long a pause if there is more.
_BUDGET = 5.0


class Pruner(threading.Thread):
    """Prunes until it is stopped. What it is just removing when its process ends is rolled back."""

    def __init__(self) -> None:
        super().__init__(name="cq-pruner", daemon=True)
        self._is_stopping = threading.Event()

    def stop(self) -> None:
        """Begin no other batch."""
        self._is_stopping.set()

    def run(self) -> None:
        logger.debug("pruner started")
        pause = random.uniform(0, _FIRST_AFTER)
        while not self._is_stopping.wait(pause):
            pause = self._round()
        logger.debug("pruner ended")

    def _round(self) -> float:
        """Prune for a while; return how long to pause."""
        try:
            database.use_read_committed()
            is_complete = self._prune()
        except DatabaseError as error:
            logger.warning("nothing was pruned error=%s", database.first_line(error))
            database.mend()
            is_complete = True
        finally:
            connections.close_all()
        return _EVERY * random.uniform(0.5, 1.0) if is_complete else _BUDGET

    def _prune(self) -> bool:
        until = time.monotonic() + _BUDGET
        total = Pruned()
        while not total.is_complete and time.monotonic() < until and not self._is_stopping.is_set():
            this = prune()
            total = Pruned(
                total.workflows + this.workflows,
                total.tasks + this.tasks,
                total.revoked + this.revoked,
                this.is_complete,
            )
        prune_statistics()
        if total.workflows or total.revoked:
            logger.info("pruned workflows=%s tasks=%s revoked=%s", total.workflows, total.tasks, total.revoked)
        return total.is_complete
