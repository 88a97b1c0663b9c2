"""A child: the process in which users' code runs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from uuid import UUID

from django.conf import settings
from django.db import connections
from django.db.backends.signals import connection_created

from cq import database, notifier
from cq.consumers import CQConsumer
from cq.failpoints import failpoint
from cq.notifier import PROCESS_CHANNEL
from cq.worker.bodies import Bodies
from cq.worker.listener import channels, listen
from cq.worker.marks import Marks, Moment
from cq.worker.options import AHEAD_MOST, COROUTINES, WorkerOptions
from cq.worker.rounds import Rounds

logger = logging.getLogger("cq.worker")

_PR_SET_PDEATHSIG = 1
_ANSWER_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """What a child gets from its supervisor: who it is, its shared memory, and the pipes it hears."""

    process_id: UUID
    marks: Marks
    wake_pipe: int
    life_pipe: int
    supervisor_pid: int
    suspects: bool = False
    # When the last message came that is for this process or one beside it.
    heard: Moment = field(default_factory=Moment)


class Child:
    """One boot of a child process."""

    def __init__(self, options: WorkerOptions, place: Place) -> None:
        self.options = options
        self.place = place

    def run(self) -> None:
        """Run tasks until told to stop."""
        die_with(self.place.supervisor_pid)
        failpoint("child.starting")
        name_connections(f"cq:{self.place.process_id}")
        connection_created.connect(database.keep_plans)
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        notifier.attach(loop)
        rounds = Rounds(self.place.process_id, self.options, suspects=self.place.suspects)
        rounds.bodies = Bodies(
            threads=1 if self.place.suspects else self.options.threads,
            ahead=0 if self.place.suspects else AHEAD_MOST,
            coroutines=1 if self.place.suspects else COROUTINES,
            marks=self.place.marks,
            loop=loop,
            ended=rounds.put,
            given_up=rounds.give_up,
        )
        loop.add_signal_handler(signal.SIGTERM, rounds.stop, self.options.grace)
        loop.add_reader(self.place.wake_pipe, self._drain_and_wake, rounds)
        loop.add_reader(self.place.life_pipe, self._die)
        consumer, own = CQConsumer(rounds.wake), CQConsumer(lambda: self._check(rounds))
        told = listen(PROCESS_CHANNEL.format(self.place.process_id.hex), own, lambda: True)
        self.hearing = [
            loop.create_task(told),
            *(
                loop.create_task(listen(channel, consumer, lambda: rounds.has_room))
                for channel in ([] if self.place.suspects else channels(self.options))
            ),
        ]
        logger.debug("child started process=%s pid=%s", self.place.process_id, os.getpid())
        rounds.start()
        while not rounds.is_done.is_set():
            if not rounds.is_alive():
                logger.error("the engine thread died; this process ends and is replaced")
                os._exit(1)
            self.place.marks.answered.note(time.monotonic())
            self._hear(rounds)
            await asyncio.sleep(_ANSWER_EVERY)
        status = 1 if rounds.has_undecided else 0
        if not status:
            self.place.marks.clear(retired=True)  # an end in order: nobody is to blame
        await notifier.flush()
        # Not by way of the loop's own end, which would wait for whatever a cancelled coroutine waits for in a thread.
        logging.shutdown()
        os._exit(status)

    def _check(self, rounds: Rounds) -> None:
        self.place.heard.note(time.monotonic())
        rounds.check()

    def _drain_and_wake(self, rounds: Rounds) -> None:
        if self.place.marks.retired.at:  # the wake-ups are for another process by now
            asyncio.get_running_loop().remove_reader(self.place.wake_pipe)
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self.place.wake_pipe, 4096)
        self._hear(rounds)
        rounds.wake()

    def _hear(self, rounds: Rounds) -> None:
        """Stop if the supervisor says so; a signal may also come from somebody else."""
        if self.place.marks.stopping.at:
            rounds.stop(self.options.grace)

    def _die(self) -> None:
        """The supervisor is gone: nobody renews the lease, so nothing may go on."""
        os._exit(1)


def die_with(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent dies (Linux; elsewhere the pipe says so)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os._exit(1)


def name_connections(name: str) -> None:
    """Make this process's connections known by a name that rescuers can find."""
    own = settings.DATABASES[database.alias()]
    # Not out of a pool: every thread here keeps its connection, and a pool would be shared with what is forked.
    options = {key: value for key, value in own.get("OPTIONS", {}).items() if key != "pool"}
    own["OPTIONS"] = {**options, "application_name": name}
    connections.databases[database.alias()]["OPTIONS"] = own["OPTIONS"]
