"""The works that are measured, and what is wanted of CQ in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Stands for the fastest of all other systems.
BEST = "best"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a work: its name among those that the measure gives, and how it is written."""

    name: str
    title: str
    write: Callable[[float], str]
    is_better_higher: bool = False
    # Whether the number is a ratio already, of CQ to itself, or stands for itself; then nobody else's is beside it.
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """How CQ's figure has to stand to a peer's (None: the figure itself): CQ divided by peer. `floor` for a release."""

    work: str
    figure: str
    peer: str | None
    floor: float | None
    target: float | None


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    # Seconds after which a run has failed.
    limit: float = 180.0


def _rate(value: float) -> str:
    return f"{value:,.0f}/s"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.2f} ms" if value < 0.01 else f"{value * 1000:,.0f} ms"


def _bytes(value: float) -> str:
    return f"{value:,.0f} bytes"


def _times(value: float) -> str:
    return f"{value:.2f} ×"


_PER_SECOND = (Figure("per_second", "", _rate, is_better_higher=True),)
_SECONDS = (Figure("seconds", "", _milliseconds),)
_PERCENTILES = (Figure("p50", "p50", _milliseconds), Figure("p99", "p99", _milliseconds))

WORKS = (
    Work("drain_2", "drain of no-op functions, 2 processes", _PER_SECOND),
    Work("drain_1", "drain of no-op functions, 1 process", _PER_SECOND),
    Work("rows_1", "drain of functions that write a row through the ORM, 2 processes of 1 thread", _PER_SECOND),
    Work("rows_4", "the same, 2 processes of 4 threads", _PER_SECOND),
    Work("delay", "`delay()` outside a transaction", _PER_SECOND),
    Work("delay_in_transaction", "`delay()` inside transactions of 1,000", _PER_SECOND),
    Work("delay_many", "`delay_many` of 10,000", _PER_SECOND),
    Work("start", "`delay()` to the body's start, 2 idle processes", _PERCENTILES),
    Work("get", "`delay().get()`", _PERCENTILES[:1]),
    Work("fan", "1,000 subtasks and a callback after them", _SECONDS),
    Work("chain", "chain of 100", _SECONDS),
    Work(
        "finished",
        "1,000,000 finished rows against none",
        (
            Figure("drain_ratio", "drain", _times, is_better_higher=True, is_own=True),
            Figure("delay_ratio", "`delay()`", _times, is_better_higher=True, is_own=True),
        ),
        limit=1800,
    ),
    Work(
        "waiting",
        "drain with 1,000,000 waiting against 60,000",
        (Figure("drain_ratio", "", _times, is_better_higher=True, is_own=True),),
        limit=1800,
    ),
    Work(
        "future",
        "100,000 tasks due tomorrow against none",
        (
            Figure("drain_ratio", "drain", _times, is_better_higher=True, is_own=True),
            Figure("delay_ratio", "`delay()`", _times, is_better_higher=True, is_own=True),
        ),
        limit=1800,
    ),
    Work(
        "crowd",
        "drain by 64 processes against 2",
        (Figure("drain_ratio", "", _times, is_better_higher=True, is_own=True),),
        limit=1800,
    ),
    Work(
        "held",
        "drain while a transaction keeps dead versions against without, third turn",
        (Figure("drain_ratio", "", _times, is_better_higher=True, is_own=True),),
        limit=1800,
    ),
    Work(
        "linear",
        "one parent of 10,000, 20,000, 40,000 subtasks: time by doubling",
        (Figure("doubling_1", "first", _times, is_own=True), Figure("doubling_2", "second", _times, is_own=True)),
        limit=600,
    ),
    Work(
        "footprint",
        "what one no-op task leaves in PostgreSQL",
        (
            Figure("log", "write-ahead log", _bytes, is_own=True),
            Figure("table", "table", _bytes, is_own=True),
            Figure("indexes", "indexes", _bytes, is_own=True),
        ),
    ),
    Work(
        "idle",
        "idle worker of 2 processes",
        (
            Figure("mebibytes", "memory (PSS)", lambda value: f"{value:.0f} MiB"),
            Figure("statements", "statements", lambda value: f"{value:.2f}/s", is_own=True),
        ),
    ),
)
WORKS_BY_NAME = {work.name: work for work in WORKS}

GOALS = (
    Goal("drain_2", "per_second", "celery", 10, 25),
    Goal("drain_2", "per_second", "django-tasks-db", 15, None),
    Goal("drain_2", "per_second", "pgqueuer", None, 1.5),
    Goal("drain_2", "per_second", "dramatiq", None, 3.5),
    Goal("drain_1", "per_second", "celery", 8, None),
    Goal("drain_1", "per_second", "pgqueuer", None, 1.2),
    Goal("rows_1", "per_second", "celery", 2, 2.5),
    Goal("rows_1", "per_second", "celery-kept", None, 2),
    Goal("rows_4", "per_second", "celery", 2, 5),
    Goal("rows_4", "per_second", "celery-kept", None, 2),
    Goal("delay", "per_second", "celery", 1.0, 1.1),
    Goal("delay_in_transaction", "per_second", "celery", 2, 3),
    Goal("delay_many", "per_second", "pgqueuer", 1.0, 1.6),
    Goal("start", "p50", "celery", 1.0, 0.8),
    Goal("start", "p99", "celery", 1.0, 0.9),
    Goal("get", "p50", "celery-results", 1.0, 0.7),
    Goal("fan", "seconds", "celery-results", 0.25, 0.07),
    Goal("fan", "seconds", BEST, None, 0.3),
    Goal("chain", "seconds", "celery", 1.0, None),
    Goal("chain", "seconds", "huey", None, 1.0),
    Goal("finished", "drain_ratio", None, 0.9, 0.97),
    Goal("finished", "delay_ratio", None, 0.9, 0.97),
    Goal("waiting", "drain_ratio", None, 0.25, 0.5),
    Goal("linear", "doubling_1", None, 2.3, 2.1),
    Goal("linear", "doubling_2", None, 2.3, 2.1),
    Goal("idle", "mebibytes", "celery", 1.0, 0.6),
    Goal("idle", "statements", None, 2.0, 0.5),
)
