"""The keeper: the worker's sign of life, the rescue of the dead, and the poll that stands behind every hint.

Runs no user code and holds one connection to PostgreSQL, and one more while it prunes. What the supervisor tells it is kept until
it is done; when PostgreSQL is away, it tries again for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError

import cq
from cq import database, engine, notifier, registry
from cq.conf import conf
from cq.failpoints import failpoint
from cq.outcome import Moved
from cq.worker.marks import Moment
from cq.worker.messages import Messages
from cq.worker.options import COROUTINES, WorkerOptions
from cq.worker.poll import Poll
from cq.worker.pruner import Pruner

logger = logging.getLogger("cq.keeper")

_REFUSE_EVERY = 30.0
_DRAIN_LOOK_EVERY = 0.2
_LONGEST_BACKOFF = 2.0
# A supervisor that is silent for this share of the lease can neither kill nor replace anybody: its worker is as good as dead.
_SUPERVISOR_SILENCE = 0.5


class Keeper:
    """One boot of the keeper process."""

    def __init__(
        self,
        worker_id: UUID,
        options: WorkerOptions,
        orders: Messages,
        reports: Messages,
        wake_pipes: Sequence[int],
        renewal: Moment,
        supervisor: Moment,
        poll: Poll,
        to_do: list[list[Any]],
    ) -> None:
        self.worker_id = worker_id
        self.options = options
        self.orders = orders
        self.reports = reports
        self.wake_pipes = wake_pipes
        self.renewal = renewal
        self.supervisor = supervisor
        self.poll = poll
        self.names = registry.names()
        self.to_do = to_do
        self.has_entered = False
        self.is_leaving = False
        self.turn = 0
        self.unknown_since: dict[str, float] = {}
        self.failures = 0
        self.next_beat = self.next_look = self.next_refusal = 0.0
        self.pruner = Pruner()

    def run(self) -> None:
        """Keep until the supervisor says goodbye, or is gone."""
        logger.debug("keeper started worker=%s pid=%s", self.worker_id, os.getpid())
        database.use_read_committed()
        self.pruner.start()
        while self._hear():
            try:
                self._keep()
                self.failures = 0
            except DatabaseError as error:
                self._back_off(error)
            if self.is_leaving and not self.to_do:
                break
        self.pruner.stop()
        logger.debug("keeper ended worker=%s", self.worker_id)

    def _hear(self) -> bool:
        """Take orders until the next thing is due; False when the supervisor is gone."""
        due = min(self.next_beat, self.next_look, self.next_refusal) - time.monotonic()
        pause = max(0.0, due) if not self.to_do or self.failures else 0.0
        readable, _, _ = select.select([self.orders.fd], [], [], pause)
        if not readable:
            return True
        orders = self.orders.receive()
        if orders is None:
            return False
        self.to_do += orders
        return True

    def _back_off(self, error: DatabaseError) -> None:
        self.failures += 1
        pause = min(_LONGEST_BACKOFF, 0.1 * 2 ** min(self.failures, 10)) * random.uniform(0.5, 1.0)
        logger.warning("database unavailable error=%s; next try in %.1f s", database.first_line(error), pause)
        database.mend()
        self.next_beat = self.next_look = time.monotonic() + pause

    def _keep(self) -> None:
        if not self.has_entered or time.monotonic() >= self.next_beat:
            self._beat()
        while self.to_do:
            self._do(self.to_do[0])
            del self.to_do[0]
        if time.monotonic() >= self.next_look and not self.is_leaving:
            self._look()
        if time.monotonic() >= self.next_refusal and not self.is_leaving:
            self._refuse()

    def _refuse(self) -> None:
        """Fail tasks whose names have been unknown all the while: a worker may be away for a deploy."""
        now = time.monotonic()
        timeout = conf().UNKNOWN_TASK_TIMEOUT
        self.unknown_since = {name: self.unknown_since.get(name, now) for name in engine.unknown_names()}
        unknown = [name for name, since in self.unknown_since.items() if now - since >= timeout]
        if unknown:
            notifier.announce(engine.refuse(unknown))
        self.next_refusal = now + min(_REFUSE_EVERY, max(1.0, timeout / 2))

    def _beat(self) -> None:
        """Renew the lease; the time that counts is when the statement was sent."""
        sent = time.monotonic()
        if not self.has_entered:
            engine.enter_worker(
                self.worker_id,
                host=socket.gethostname(),
                pid=os.getppid(),
                version=cq.__version__,
                queues=self.options.queues,
                names=self.names,
                slots=self.options.processes * self.options.threads,
                coroutines=self.options.processes * COROUTINES,
            )
            self.has_entered = True
        if sent - self.supervisor.at > _SUPERVISOR_SILENCE * conf().LEASE:
            logger.error("the supervisor does not answer; the lease is left to end worker=%s", self.worker_id)
        elif not engine.heartbeat(self.worker_id):
            self.reports.send("fenced")
        else:
            self.renewal.note(sent)
        self.next_beat = sent + conf().LEASE / 3

    def _do(self, order: list[Any]) -> None:
        match order:
            case [number, "enter", process_id, pid]:
                engine.enter_process(UUID(process_id), self.worker_id, pid)
                self.poll.children.add(UUID(process_id))
                self._wake_all()
            case [number, "end", process_id, started, was_stopped, overdue]:
                ids, late = [UUID(task_id) for task_id in started], [UUID(task_id) for task_id in overdue]
                engine.end_process(UUID(process_id), ids, was_stopped=was_stopped, overdue=late)
                self.poll.children.discard(UUID(process_id))
                failpoint("keeper.ended_process")
                self._rescue()
                self._wake_all()  # children decide about what is overdue, and what lingered there may start
            case [number, "hand_back", process_id, started, before]:
                self._tell(engine.hand_back(UUID(process_id), [UUID(task_id) for task_id in started], before=before))
            case [number, "leave"]:
                engine.leave(self.worker_id)
                self._rescue()
                self.is_leaving = True
            case _:
                raise ValueError(f"unknown order {order!r}")
        self.reports.send("done", number)

    def _rescue(self) -> None:
        self._tell(engine.rescue())

    def _tell(self, rescued: Sequence[Moved]) -> None:
        """Say what has become of tasks that were taken over."""
        for task in rescued:
            logger.warning("rescued task=%s status=%s", task.id, task.status)
        if rescued:
            notifier.announce(task.id for task in rescued if task.has_ended)
            notifier.wake({task.queue for task in rescued} | engine.promote())
            self._wake_all()
            self.next_look = 0.0

    def _look(self) -> None:
        """Look for what no hint has told, and wake who can see to it."""
        seen = engine.look(self.options.queues, self.names, fires=self.options.scheduler, worker_id=self.worker_id)
        if seen.dead:
            self._rescue()
            self._wake_all()
        if seen.unheard:
            self.reports.send("unheard", [str(process_id) for process_id in seen.unheard])
        if seen.suspects:
            self.reports.send("suspects", seen.suspects)
        if seen.ready:
            self._wake_all()
        elif seen.to_settle or seen.fires or (seen.next_due is not None and seen.next_due <= 0):
            self._wake_one()
        if self.options.drain and not seen.fires and not engine.is_busy(self.options.queues, self.names):
            self.reports.send("drained")
        longest = _DRAIN_LOOK_EVERY if self.options.drain else self.poll.pause(time.monotonic())
        self.next_look = time.monotonic() + min(_pause(longest, seen.next_due), _pause(longest, seen.next_tick))

    def _wake_all(self) -> None:
        for pipe in self.wake_pipes:
            poke(pipe)

    def _wake_one(self) -> None:
        self.turn = (self.turn + 1) % self.options.processes
        poke(self.wake_pipes[self.turn])


def _pause(longest: float, next_due: float | None) -> float:
    pause = longest * random.uniform(0.9, 1.0)
    return pause if next_due is None or next_due <= 0 else min(pause, next_due + 0.001)


def poke(pipe: int) -> None:
    """Write one byte; a full pipe says the same."""
    with contextlib.suppress(BlockingIOError):
        os.write(pipe, b"w")
