"""One child's engine thread, in this process, on the test's database."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import connections

from cq.worker.bodies import Bodies
from cq.worker.marks import Marks
from cq.worker.options import WorkerOptions
from cq.worker.rounds import Rounds
from tests.processes import run_worker, until
from tests.rows import make

__all__ = ["run_worker"]


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a running loop."""
    running = Loop()
    yield running.loop
    running.close()


class ClosingRounds(Rounds):
    """Rounds that leave no connection behind at their end, which is elsewhere the end of their process."""

    def run(self) -> None:
        try:
            super().run()
        finally:
            connections.close_all()


@pytest.fixture
def rounds(transactional_db: None, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Rounds]]:
    """Give a function that starts the engine thread of a process, without a keeper that would wake it now and then."""
    started: list[Rounds] = []

    def start(*queues: str, threads: int = 2, ahead: int = 0, suspects: bool = False) -> Rounds:
        new = ClosingRounds(make.process(), WorkerOptions(queues or None, threads=threads), suspects=suspects)
        new.bodies = Bodies(threads=threads, ahead=ahead, coroutines=10, marks=Marks(), loop=loop, ended=new.put)
        new.start()
        started.append(new)
        return new

    yield start
    for one in started:
        one.stop(0.0)
    until(lambda: all(one.is_done.is_set() for one in started), 5)
    for one in started:
        one.join()
