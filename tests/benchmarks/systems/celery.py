"""Celery on Redis: without results, with results in Redis, with results in the database through django-celery-results.

By default its worker closes the database connection before and after each task; `CELERY_DB_REUSE_MAX` keeps it.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chain, chord
from django.apps import apps

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, redis_url, set_up_django

set_up_django()
NAME = os.environ["BENCH_SYSTEM"]
REDIS = redis_url(socket_scheme="redis+socket")
RESULTS = {"celery-results": REDIS, "celery-db": "django-db"}
KEEPS_CONNECTIONS = {"celery-kept", "celery-8", "celery-db"}

app = Celery("benchmarks", broker=REDIS, backend=RESULTS.get(NAME))
app.conf.update(
    task_ignore_result=NAME not in RESULTS,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    **({"CELERY_DB_REUSE_MAX": 1_000_000} if NAME in KEEPS_CONNECTIONS else {}),
)
noop = app.task(bodies.noop, name="noop")
row = app.task(bodies.row, name="row")


class CelerySystem(System):
    """`celery worker`, a pool of processes."""

    stores_later = NAME == "celery-db"
    tasks = {"noop": noop, "row": row}

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        program = [PYTHON, "-m", "celery", "-A", __name__, "worker", "--loglevel", "ERROR"]
        count = 8 if NAME == "celery-8" else processes
        return [[*program, "--concurrency", str(count)]]

    def enqueue(self, body: str, number: int) -> None:
        self.tasks[body].delay(number)

    def has_stored(self, count: int) -> bool:
        stored = apps.get_model("django_celery_results", "TaskResult").objects.filter(status="SUCCESS")
        return int(stored.count()) >= count

    def submit_and_wait(self, number: int) -> Any:
        return noop.delay(number).get(timeout=10)

    def fan_out(self, first: int, count: int) -> None:
        chord([noop.s(number) for number in range(first, first + count)])(noop.si(first + count))

    def chain(self, first: int, count: int) -> None:
        chain(noop.si(number) for number in range(first, first + count)).delay()


system = CelerySystem()
