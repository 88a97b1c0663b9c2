"""RQ on Redis: a pool of SimpleWorkers, which do not fork for each job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, redis_url, set_up_django

set_up_django()


class RQ(System):
    """`rq worker-pool`."""

    tasks = {"noop": bodies.noop, "row": bodies.row}

    def __init__(self) -> None:
        self.queue = Queue(connection=Redis.from_url(redis_url()))

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        program = [PYTHON, "-m", "rq.cli", "worker-pool", "--url", redis_url(), "--logging-level", "ERROR"]
        return [[*program, "--worker-class", "rq.worker.SimpleWorker", "--num-workers", str(processes)]]

    def enqueue(self, body: str, number: int) -> None:
        self.queue.enqueue(self.tasks[body], number)

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        self.queue.enqueue_many([Queue.prepare_data(self.tasks[body], (number,)) for number in numbers])

    def submit_and_wait(self, number: int) -> Any:
        result = self.queue.enqueue(bodies.noop, number).latest_result(timeout=10)
        return result and result.return_value

    def fan_out(self, first: int, count: int) -> None:
        numbers = range(first, first + count)
        jobs = self.queue.enqueue_many([Queue.prepare_data(bodies.noop, (number,)) for number in numbers])
        self.queue.enqueue(bodies.noop, first + count, depends_on=jobs)

    def chain(self, first: int, count: int) -> None:
        job = None
        for number in range(first, first + count):
            job = self.queue.enqueue(bodies.noop, number, depends_on=job)


system = RQ()
