"""CQ: every task a row in PostgreSQL, wake-ups through a Redis channel layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from django.db import connection, transaction

from cq import task
from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System

# Is a task still to run, or running? By the partial indexes, however many rows there are.
UNFINISHED = """
SELECT coalesce((SELECT true FROM cq_task WHERE status = 'QUEUED' AND admitted LIMIT 1),
                (SELECT true FROM cq_task WHERE status = 'RUNNING' LIMIT 1))
"""


@task
def noop(cqt: Any, number: int) -> int:
    """Leave a record."""
    return bodies.noop(number)


@task
def row(cqt: Any, number: int) -> int:
    """Write a row in the task's own transaction: it, the result and the end of the task are true together."""
    return bodies.write_row(number)


@task
def fan(cqt: Any, first: int, count: int) -> None:
    """Have so many subtasks."""
    cqt.subtask_many(noop, [(number,) for number in range(first, first + count)])


class CQ(System):
    """`cq_runworker`, as it comes."""

    stores_later = True
    threads = 4
    tasks = {"noop": noop, "row": row}

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        counts = ["--processes", str(processes), "--threads", str(threads)]
        return [[PYTHON, "-m", "django", "cq_runworker", *counts]]

    def enqueue(self, body: str, number: int) -> None:
        self.tasks[body].delay(number)

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        self.tasks[body].delay_many([(number,) for number in numbers])

    def transaction(self) -> AbstractContextManager[Any]:
        return transaction.atomic()

    def has_stored(self, count: int) -> bool:
        return _scalar(UNFINISHED) is None

    def stored_at(self) -> float:
        return float(_scalar("SELECT extract(epoch FROM max(finished_at)) FROM cq_task"))

    def submit_and_wait(self, number: int) -> Any:
        return noop.delay(number).get(10)

    def fan_out(self, first: int, count: int) -> None:
        with transaction.atomic():
            fan.delay(first, count).chain(noop, (first + count,))

    def chain(self, first: int, count: int) -> None:
        with transaction.atomic():
            last = noop.delay(first)
            for number in range(first + 1, first + count):
                last = last.chain(noop, (number,))


def _scalar(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


system = CQ()
