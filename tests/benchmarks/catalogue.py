"""Which systems are compared, how each is configured, what it does not do, and how much of each work it gets.

A size is chosen so that a run takes one to three seconds. A work without a size is one that the system cannot do, or that says
nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True)
class Entry:
    """One system, or one configuration of it."""

    name: str
    title: str
    module: str
    packages: tuple[str, ...]
    settings: str
    lacks: str
    sizes: Mapping[str, int]
    needs_django: bool = False

    def versions(self) -> dict[str, str]:
        """Return the versions of its packages; empty if one is not installed."""
        try:
            return {package: version(package) for package in self.packages}
        except PackageNotFoundError:
            return {}


SYSTEMS = (
    Entry(
        "cq",
        "CQ",
        "cq",
        ("django-cq", "psycopg", "channels-redis"),
        "cq_runworker, 4 threads a process (1 where the work says so); synchronous bodies; channel layer on Redis (publish/subscribe) "
        "for wake-ups; all defaults",
        "Nothing of what is compared: task, attempts, result and errors are rows; retries; a body and its end commit together.",
        {
            "drain_2": 30_000,
            "drain_1": 30_000,
            "rows_1": 4_000,
            "rows_4": 6_000,
            "delay": 3_000,
            "delay_in_transaction": 5_000,
            "delay_many": 10_000,
            "start": 200,
            "get": 100,
            "fan": 1_000,
            "chain": 100,
            "idle": 30,
            "finished": 1_000_000,
            "waiting": 1_000_000,
            "future": 100_000,
            "crowd": 30_000,
            "held": 30_000,
            "linear": 10_000,
            "footprint": 30_000,
        },
        needs_django=True,
    ),
    Entry(
        "celery",
        "Celery",
        "celery",
        ("celery", "kombu", "redis", "hiredis"),
        "Redis broker, no results, prefork of as many processes, all defaults (one closes the database connection around each task); "
        "with Django only for rows and memory",
        "No results; acknowledged before the run: a dead worker loses its tasks; the broker loses all with Redis; "
        "a body and its acknowledgement are not one.",
        {
            "drain_2": 5_000,
            "drain_1": 4_000,
            "rows_1": 2_000,
            "rows_4": 2_000,
            "delay": 3_000,
            "delay_in_transaction": 5_000,
            "start": 200,
            "chain": 100,
            "idle": 30,
        },
    ),
    Entry(
        "celery-kept",
        "Celery, connections kept",
        "celery",
        ("celery", "kombu", "redis", "hiredis"),
        "as Celery, tuned: CELERY_DB_REUSE_MAX keeps the database connection",
        "As Celery.",
        {"rows_1": 2_000, "rows_4": 2_000},
    ),
    Entry(
        "celery-8",
        "Celery, 8 processes",
        "celery",
        ("celery", "kombu", "redis", "hiredis"),
        "as Celery with connections kept, but as many processes as the others have threads in all",
        "As Celery.",
        {"rows_4": 2_000},
    ),
    Entry(
        "celery-results",
        "Celery, results in Redis",
        "celery",
        ("celery", "kombu", "redis", "hiredis"),
        "as Celery, result backend Redis",
        "As Celery; results last a day and go with Redis.",
        {"drain_2": 4_000, "delay": 2_000, "start": 200, "get": 100, "fan": 1_000, "chain": 100},
    ),
    Entry(
        "celery-db",
        "Celery, results in PostgreSQL",
        "celery",
        ("celery", "kombu", "redis", "hiredis", "django-celery-results"),
        "as Celery, result backend django-db, tuned: CELERY_DB_REUSE_MAX keeps the connection",
        "Results are durable, waiting tasks are not; acknowledged before the run.",
        {"drain_2": 1_500, "drain_1": 1_000, "start": 200, "fan": 1_000, "chain": 100},
        needs_django=True,
    ),
    Entry(
        "pgqueuer",
        "PgQueuer",
        "pgqueuer",
        ("pgqueuer", "asyncpg"),
        "asyncpg, durable tables, tuned: batches of 100; async bodies on the event loop; fan and chain emulated (it has neither)",
        "No results; no retries unless asked for; no parents, no chains; a body and its end are not one.",
        {
            "drain_2": 30_000,
            "drain_1": 30_000,
            "delay": 3_000,
            "delay_many": 10_000,
            "start": 200,
            "fan": 1_000,
            "chain": 100,
        },
    ),
    Entry(
        "dramatiq",
        "Dramatiq",
        "dramatiq",
        ("dramatiq", "redis", "hiredis"),
        "Redis broker, 8 threads a process (as many as the work says), tuned: dramatiq_queue_prefetch=200; no results",
        "No results; the broker loses all with Redis; a body and its acknowledgement are not one.",
        {
            "drain_2": 15_000,
            "drain_1": 10_000,
            "rows_1": 2_000,
            "rows_4": 2_000,
            "delay": 5_000,
            "start": 200,
            "fan": 1_000,
            "chain": 100,
        },
    ),
    Entry(
        "huey",
        "Huey",
        "huey",
        ("huey", "redis", "hiredis"),
        "Redis, worker processes; results and notify_result on where the work needs them (get, fan), else off",
        "At most once: a task is gone from Redis before it runs; the broker loses all with Redis; results where asked for.",
        {
            "drain_2": 10_000,
            "drain_1": 8_000,
            "rows_1": 2_000,
            "delay": 5_000,
            "start": 200,
            "get": 100,
            "fan": 1_000,
            "chain": 100,
        },
    ),
    Entry(
        "rq",
        "RQ",
        "rq",
        ("rq", "redis", "hiredis"),
        "Redis, worker-pool of SimpleWorkers (no fork per job)",
        "The broker loses all with Redis; results last 500 s; a body and its end are not one.",
        {
            "drain_2": 1_500,
            "drain_1": 1_000,
            "delay": 3_000,
            "delay_many": 10_000,
            "start": 200,
            "get": 100,
            "fan": 1_000,
            "chain": 100,
        },
    ),
    Entry(
        "procrastinate",
        "Procrastinate",
        "procrastinate",
        ("procrastinate", "psycopg"),
        "plain psycopg connector, async bodies, concurrency 10 a process",
        "No results; no parents, no chains; a body and its end are not one.",
        {"drain_2": 1_500, "drain_1": 1_000, "delay": 2_000, "delay_many": 10_000, "start": 200},
    ),
    Entry(
        "django-tasks-db",
        "django-tasks-db",
        "django_tasks_db",
        ("django-tasks-db", "psycopg"),
        "db_worker, one thread a process, tuned: --interval 0.02",
        "No retries, no parents, no chains; results are durable; a body and its end are not one.",
        {"drain_2": 1_500, "drain_1": 1_000, "rows_1": 1_000, "delay": 2_000, "start": 200, "get": 50},
        needs_django=True,
    ),
    Entry(
        "dbos",
        "DBOS",
        "dbos",
        ("dbos", "sqlalchemy", "psycopg"),
        "a queue, tuned: polled every 20 ms; each task a workflow without steps",
        "Results are durable, workflows are resumed; its steps in one process are no chain of tasks, so none is shown.",
        {"drain_2": 2_000, "drain_1": 2_000, "delay": 1_000, "start": 200, "get": 50},
    ),
    Entry(
        "least",
        "the least",
        "least",
        ("psycopg", "redis"),
        "no queue: a narrow table, a durable commit for each task, for its claim (rows: for a hundred) and for its end, messages through "
        "Redis; what such a machine, PostgreSQL, Redis and Django's ORM take by themselves",
        "Nearly all: no attempts, errors, retries, priorities; what a dead worker has claimed is lost.",
        {"rows_1": 4_000, "start": 200, "get": 100},
    ),
)
BY_NAME = {entry.name: entry for entry in SYSTEMS}
