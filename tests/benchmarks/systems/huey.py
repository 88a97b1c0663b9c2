"""Huey on Redis; it stores results where the work needs them."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey
from huey.api import chord

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, redis_url, set_up_django

set_up_django()
NEEDS_RESULTS = os.environ["BENCH_WORK"] in ("get", "fan")
huey = RedisHuey("benchmarks", results=NEEDS_RESULTS, notify_result=NEEDS_RESULTS, url=redis_url())
noop = huey.task(name="noop")(bodies.noop)
row = huey.task(name="row")(bodies.row)


@huey.task(name="step")
def step(*numbers: int) -> None:
    """Leave a record; in a pipeline the result before, which is none, is not passed."""
    bodies.noop(numbers[0])


@huey.task(name="callback")
def callback(number: int, results: list[int]) -> None:
    """Leave a record when all of a chord have ended."""
    bodies.noop(number)


class Huey(System):
    """`huey_consumer` with processes."""

    tasks = {"noop": noop, "row": row}

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        program = [PYTHON, "-m", "huey.bin.huey_consumer", f"{__name__}.huey"]
        return [[*program, "--worker-type", "process", "--workers", str(processes), "--quiet"]]

    def enqueue(self, body: str, number: int) -> None:
        self.tasks[body](number)

    def submit_and_wait(self, number: int) -> Any:
        return noop(number).get(blocking=True, timeout=10)

    def fan_out(self, first: int, count: int) -> None:
        members = [noop.s(number) for number in range(first, first + count)]
        huey.enqueue(chord(members, callback.s(first + count)))

    def chain(self, first: int, count: int) -> None:
        *before, last = (step.s(number) for number in range(first, first + count))
        for task in reversed(before):
            last = task.then(last)
        huey.enqueue(last)


system = Huey()
