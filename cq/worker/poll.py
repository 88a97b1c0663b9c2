"""How often a worker looks at the database by itself: seldom while hints reach it, oftener while they do not.

Whether they do is seen, not guessed: at each look one of its children is sent a message, and by the next look it has come or not. So
no layer, one that ends at the process, one that is away and one that hangs are all the same. (Oban's Sonar asks likewise.)
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from math import inf
from uuid import UUID

from cq import notifier
from cq.conf import conf
from cq.worker.marks import Moment

logger = logging.getLogger("cq.keeper")

_OFTENER = 4


class Poll:
    """The pause after each look: `POLL_INTERVAL` at most, a quarter of it without hints, doubled from look to look with them."""

    def __init__(self, heard: Moment, children: Iterable[UUID]) -> None:
        self.heard = heard
        self.children = set(children)
        self.is_heard = False
        self._pause = 0.0
        self._sent_at = inf
        self._send_at = -inf

    def pause(self, now: float) -> float:
        """Return the seconds until the next look, and find out until then whether hints come."""
        if now >= self._send_at:  # looks may follow each other closely, faster than any message
            self._note(self.heard.at >= self._sent_at)
            longest = conf().POLL_INTERVAL
            self._pause = min(2 * self._pause, longest) if self.is_heard else longest / _OFTENER
            self._send(now)
        return self._pause

    def _send(self, now: float) -> None:
        if self.children:
            self._sent_at, self._send_at = now, now + self._pause / 2
            notifier.check([random.choice(list(self.children))])

    def _note(self, is_heard: bool) -> None:
        if is_heard != self.is_heard:
            logger.info("hints come" if is_heard else "no hints come; the database is looked at oftener")
        self.is_heard = is_heard
