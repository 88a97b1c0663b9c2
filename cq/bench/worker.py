"""A worker that is forked off for the measurement, and ends with it whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from django.db import connections

from cq.bench.functions import QUEUE
from cq.worker.child import die_with
from cq.worker.options import WorkerOptions
from cq.worker.supervisor import Supervisor

_GRACE = 2.0
_STOP_WITHIN = 15.0
_LOOK_EVERY = 0.02


class WorkerEnded(Exception):
    """The worker has ended before the measurement; what it logged says why."""


class Worker:
    """The forked worker."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.has_ended = False

    def check(self) -> None:
        """Raise WorkerEnded if it has."""
        if not self.has_ended and os.waitpid(self.pid, os.WNOHANG) != (0, 0):
            self.has_ended = True
        if self.has_ended:
            raise WorkerEnded(WorkerEnded.__doc__)

    def stop(self) -> None:
        """Stop it in order, by force if that takes too long."""
        deadline = time.monotonic() + _STOP_WITHIN
        number = signal.SIGTERM
        with suppress(WorkerEnded):
            while True:
                self.check()
                if number == signal.SIGTERM or time.monotonic() > deadline:
                    os.kill(self.pid, number)
                    number = signal.SIGKILL
                time.sleep(_LOOK_EVERY)


@contextmanager
def worker(processes: int, threads: int) -> Iterator[Worker]:
    """Have a worker that serves the benchmark's queue, inside the block."""
    connections.close_all()  # a connection cannot be shared with what is forked
    own_pid = os.getpid()
    pid = os.fork()
    if not pid:
        _serve(WorkerOptions(queues=(QUEUE,), processes=processes, threads=threads, grace=_GRACE), own_pid)
    forked = Worker(pid)
    try:
        yield forked
    finally:
        forked.stop()


def _serve(options: WorkerOptions, parent_pid: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)  # a terminal's Ctrl-C shall reach only the command, which stops this
        die_with(parent_pid, signal.SIGTERM)
        _log_warnings_only()
        status = Supervisor(options).run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _log_warnings_only() -> None:
    """Spare the terminal a line for each task."""
    for name in ("cq", *(name for name in logging.root.manager.loggerDict if name.startswith("cq."))):
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.WARNING, logger.level))
