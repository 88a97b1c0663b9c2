"""How CQ behaves as it grows, and when it has nothing to do: measures of its own, on its own tables."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
from django.apps import apps
from django.db import connection

from tests.benchmarks.processes import in_session, pss
from tests.benchmarks.run import Run, WentWrong, tidy_database
from tests.benchmarks.system import uses_django

# So many of a million rows are drained, and make up the small backlog.
_DRAINED, _SMALL = 0.03, 0.06
_TURNS = 3
_CALLS = 2_000
# PostgreSQL adds up what an idle connection has done after ten seconds at the latest.
_AT_REST = 12.0
_DOUBLINGS = 3
_STEPS = 100_000
_SOME = 30_000
_CROWD = 64
_PATIENCE = 60.0

# Copies of one row, full width, made one after another in the milliseconds before it; a value is put for each column named.
_COPY = """
INSERT INTO cq_task ({columns})
SELECT {values} FROM (SELECT * FROM cq_task WHERE status = %(status)s LIMIT 1) AS t, generate_series(%(first)s, %(last)s) AS n
"""
_NEW_VALUES = {
    "id": "(lpad(to_hex((extract(epoch FROM t.created_at) * 1000)::bigint - %(count)s + n), 12, '0') || '7' || substr(md5(n::text), 1, 3)"
    " || '8' || substr(md5(n::text), 4, 15))::uuid",
    "args": "jsonb_build_array(n)",
}
_SIZES = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn, pg_table_size('cq_task'), pg_indexes_size('cq_task')"
_STATEMENTS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"


def finished(run: Run) -> dict[str, float]:
    """Drain and enqueue with none and with so many finished rows in the table; the ratios of with to without."""
    return _beside(run, int(run.size * _DRAINED), lambda: _copy("SUCCESS", run.size))


def future(run: Run) -> dict[str, float]:
    """Drain and enqueue with none and with so many tasks that are due tomorrow; the ratios of with to without."""

    def fill() -> None:
        run.system.tasks["noop"].delay_args((0,), run_after=timedelta(days=1))  # type: ignore[attr-defined]
        _copy("SCHEDULED", run.size)

    return _beside(run, _SOME, fill)


def crowd(run: Run) -> dict[str, float]:
    """Drain with 2 and with 64 processes of one thread, all of them waiting when the tasks come; the ratio of many to few."""
    few = statistics.median(_crowd_speed(run, 2) for _ in range(_TURNS))
    many = statistics.median(_crowd_speed(run, _CROWD) for _ in range(_TURNS))
    run.check()
    return {"drain_ratio": many / few, "few": few, "many": many}


def held(run: Run) -> dict[str, float]:
    """Drain without and with a transaction that keeps every dead version; the ratio of the last of some turns to those without."""
    without = statistics.median(_drain_speed(run, run.size) for _ in range(_TURNS))
    with psycopg.connect(os.environ["DATABASE_URL"]) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT pg_current_snapshot()")
        turns = [_drain_speed(run, run.size) for _ in range(_TURNS)]
    run.check()
    return {"drain_ratio": turns[-1] / without, "without": without, "last": turns[-1]}


def _beside(run: Run, count: int, fill: Callable[[], object]) -> dict[str, float]:
    before = _speeds(run, count)
    fill()
    after = _speeds(run, count)
    run.check()
    return {
        "drain_ratio": after["drain"] / before["drain"],
        "delay_ratio": after["delay"] / before["delay"],
        **{f"{name}_without": value for name, value in before.items()},
        **{f"{name}_with": value for name, value in after.items()},
    }


def waiting(run: Run) -> dict[str, float]:
    """Drain the first of a long queue and of a short one; the ratio of long to short."""
    count = int(run.size * _DRAINED)
    short = statistics.median(_head_speed(run, int(run.size * _SMALL), count) for _ in range(_TURNS))
    long = _head_speed(run, run.size, count)
    return {"drain_ratio": long / short, "short": short, "long": long}


def linear(run: Run) -> dict[str, float]:
    """Have one parent of more and more subtasks; by which factor each doubling prolongs it."""
    took: list[float] = []
    with run.worker(2):
        run.warm_up()
        _fan(run, run.size // 10)
        for doubling in range(_DOUBLINGS):
            took.append(statistics.median(_fan(run, run.size << doubling) for _ in range(_TURNS)))
        run.check()
    first, second, third = took
    return {
        "doubling_1": second / first,
        "doubling_2": third / second,
        "first": first,
        "second": second,
        "third": third,
    }


def idle(run: Run) -> dict[str, float]:
    """Look at a worker of two processes that has nothing to do: memory of all its processes, its statements in a second."""
    with run.worker(2):
        run.warm_up()
        if uses_django():
            connection.close()
        time.sleep(_AT_REST)
        before, began = _statements(), time.monotonic()
        time.sleep(run.size)
        statements = (_statements() - before) / (time.monotonic() - began)
        memory = pss(pid for pid in in_session(os.getsid(0)) if pid != os.getpid())
    return {"mebibytes": memory / 2**20, "statements": statements}


def footprint(run: Run) -> dict[str, float]:
    """Look at what one task leaves: write-ahead log on its way, table and indexes afterwards."""
    numbers = _next_numbers(run, run.size)
    run.expects(numbers)
    before = _sizes()
    run.system.fill("noop", numbers)
    with run.worker(2, in_order=True):
        run.await_all()
        run.await_stored()
    run.check()
    after = _sizes()
    return {name: (after[name] - before[name]) / run.size for name in after}


def _sizes() -> dict[str, float]:
    """Bytes of the log so far, of the table, of its indexes; without the traces of a checkpoint."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM cq_task")
        cursor.execute("CHECKPOINT")
        cursor.execute(_SIZES)
        return dict(zip(("log", "table", "indexes"), map(float, cursor.fetchone()), strict=True))


def _speeds(run: Run, count: int) -> dict[str, float]:
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")  # nobody is still writing what was put there
    return {
        "drain": statistics.median(_drain_speed(run, count) for _ in range(_TURNS)),
        "delay": statistics.median(_delay_speed(run) for _ in range(_TURNS)),
    }


def _drain_speed(run: Run, count: int) -> float:
    numbers = _next_numbers(run, count)
    run.fill("noop", numbers)
    with run.worker(2, in_order=True):
        run.await_all()
        stored = run.await_stored()
    times = run.records.times()
    return count / (stored - min(times[number] for number in numbers))


def _crowd_speed(run: Run, processes: int) -> float:
    numbers = _next_numbers(run, run.size)
    run.expects(numbers)
    with run.worker(processes, 1, in_order=True):
        deadline = time.monotonic() + _PATIENCE
        while apps.get_model("cq", "Process").objects.filter(ended_at=None).count() < processes:
            if time.monotonic() > deadline:
                raise WentWrong(f"of {processes} processes some did not start")
            time.sleep(0.1)
        run.system.fill("noop", numbers)
        run.await_all()
        stored = run.await_stored()
    times = run.records.times()
    return run.size / (stored - min(times[number] for number in numbers))


def _delay_speed(run: Run) -> float:
    numbers = _next_numbers(run, _CALLS)
    run.expects(numbers)
    began = time.perf_counter()
    for number in numbers:
        run.system.enqueue("noop", number)
    took = time.perf_counter() - began
    with run.worker(2, in_order=True):
        run.await_all()
        run.await_stored()
    return _CALLS / took


def _head_speed(run: Run, backlog: int, count: int) -> float:
    """Drain the first so many of a backlog that is made of copies of one row."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE cq_task CASCADE")
    run.records.path.write_bytes(b"")
    run.system.fill("noop", [0])
    _copy("QUEUED", backlog - 1)
    with run.worker(2):
        run.await_records(count)
    moments = [moment for moment, _ in run.records.read()]
    return (count - 1) / (moments[count - 1] - moments[0])


def _fan(run: Run, count: int) -> float:
    numbers = _next_numbers(run, count + 1)
    run.expects(numbers)
    began = time.time()
    run.system.fan_out(numbers[0], count)  # type: ignore[attr-defined]
    run.await_all()
    return run.records.times()[numbers[-1]] - began


def _copy(status: str, count: int) -> None:
    """Put so many copies of a row of this status into the table; their numbers begin with 1."""
    columns = [field.column for field in apps.get_model("cq", "Task")._meta.concrete_fields]
    values = ", ".join(_NEW_VALUES.get(column, f't."{column}"') for column in columns)
    statement = _COPY.format(columns=", ".join(f'"{column}"' for column in columns), values=values)
    with connection.cursor() as cursor:
        for first in range(1, count + 1, _STEPS):
            bounds = {"first": first, "last": min(count, first + _STEPS - 1)}
            cursor.execute(statement, {"status": status, "count": count, **bounds})
    tidy_database()


def _next_numbers(run: Run, count: int) -> Sequence[int]:
    first = max(run.expected, default=-1) + 1
    return range(first, first + count)


def _statements() -> int:
    """Ask from another database, so that asking is not counted."""
    url = urlsplit(os.environ["DATABASE_URL"])
    with psycopg.connect(os.environ["BENCH_OTHER_DATABASE_URL"]) as other:
        row = other.execute(_STATEMENTS, [url.path.lstrip("/")]).fetchone()
        assert row is not None
        return int(row[0])
