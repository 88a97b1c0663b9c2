"""PgQueuer on asyncpg, durable tables, batches of 100. Run as a module it is one worker process: its own program needs another typer.

It knows neither parents nor chains. Here a sequence, which nobody waits for, counts the members of a fan, and a step enqueues
the next: the cheapest ways there are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System

BATCH = 100


class PgQueuerSystem(System):
    """PgQueuer's `run()`, one process after another; async bodies on its event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.connected: Queries | None = None

    def make_tables(self) -> None:
        self._run(self._queries().install())
        self._run(self._queries().driver.execute("CREATE SEQUENCE fan_members"))

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        return [[PYTHON, "-m", __name__]] * processes

    def enqueue(self, body: str, number: int) -> None:
        self._run(self._queries().enqueue(body, b"%d" % number))

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        self._run(enqueue_many(self._queries(), body, numbers))

    def fan_out(self, first: int, count: int) -> None:
        self._run(self._queries().enqueue("fan", b"%d %d" % (first, count)))

    def chain(self, first: int, count: int) -> None:
        self._run(self._queries().enqueue("step", b"%d %d" % (first, first + count)))

    def _queries(self) -> Queries:
        if self.connected is None:
            self.connected = Queries(AsyncpgDriver(self._run(connect())))
        return self.connected

    def _run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)


async def connect() -> asyncpg.Connection:
    """Connect to the database of the run."""
    return await asyncpg.connect(os.environ["DATABASE_URL"])


async def enqueue_many(queries: Queries, body: str, numbers: Sequence[int]) -> None:
    """Enqueue in bulk."""
    count = len(numbers)
    await queries.enqueue([body] * count, [b"%d" % number for number in numbers], [0] * count)


async def work() -> None:
    """Run one worker process for ever."""
    pgq = PgQueuer.from_asyncpg_connection(await connect())
    queries = pgq.qm.queries
    counter = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=2)

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        bodies.noop(*numbers_in(job))

    @pgq.entrypoint("fan")
    async def fan(job: Job) -> None:
        first, count = numbers_in(job)
        payloads = [b"%d %d %d" % (number, first, count) for number in range(first, first + count)]
        await queries.enqueue(["member"] * count, payloads, [0] * count)

    @pgq.entrypoint("member")
    async def member(job: Job) -> None:
        number, first, count = numbers_in(job)
        bodies.noop(number)
        if await counter.fetchval("SELECT nextval('fan_members')") % count == 0:
            await queries.enqueue("noop", b"%d" % (first + count))

    @pgq.entrypoint("step")
    async def step(job: Job) -> None:
        number, end = numbers_in(job)
        bodies.noop(number)
        if number + 1 < end:
            await queries.enqueue("step", b"%d %d" % (number + 1, end))

    await pgq.run(batch_size=BATCH)


def numbers_in(job: Job) -> list[int]:
    """Read a payload: numbers with blanks between them."""
    return [int(number) for number in (job.payload or b"").split()]


system = PgQueuerSystem()

if __name__ == "__main__":
    asyncio.run(work())
