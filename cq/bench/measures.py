"""What is measured, in the order in which it is: first with nobody there to run the tasks, then with the worker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cq import database
from cq.bench import rows
from cq.bench.functions import noop, parent
from cq.bench.worker import Worker, worker

_CALLS = 1_000
_BULK = 10_000
_STARTS, _SPACING = 100, 0.02
_GETS = 50
_CHAIN = 100
_SUBTASKS = 1_000
_WARM_UPS = 20
_TURNS = 3
# Without hints each of these waits for a poll: then fewer are enough.
_BUDGET = 15.0
_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Measurement:
    """One result: `name` for programs, `title` and `unit` for people."""

    name: str
    title: str
    value: float
    unit: str


def measure(tasks: int, processes: int, threads: int) -> Iterator[Measurement]:
    """Measure one after another. The rows are still there afterwards."""
    yield Measurement("delay", "delay()", _delay(min(tasks, _CALLS)), "/s")
    yield Measurement("delay_many", f"delay_many() of {min(tasks, _BULK):,}", _delay_many(tasks), "/s")
    with worker(processes, threads) as running:
        yield Measurement("drain", f"drain of {tasks:,} tasks", _drain(running), "/s")
        _warm_up()
        p50, p99 = _starts(min(tasks, _STARTS))
        yield Measurement("start_p50", "delay() to start, p50", p50 * 1000, "ms")
        yield Measurement("start_p99", "delay() to start, p99", p99 * 1000, "ms")
        yield Measurement("get_p50", "delay().get(), p50", statistics.median(_gets(min(tasks, _GETS))) * 1000, "ms")
        yield Measurement("chain", f"chain of {_CHAIN}", _median_of(_chain) * 1000, "ms")
        yield Measurement("subtasks", f"parent of {_SUBTASKS:,} subtasks", _median_of(_subtasks) * 1000, "ms")
        running.check()


def _delay(count: int) -> float:
    noop.delay()
    began = time.perf_counter()
    for _ in range(count):
        noop.delay()
    return count / (time.perf_counter() - began)


def _delay_many(count: int) -> float:
    began = time.perf_counter()
    for first in range(0, count, _BULK):
        noop.delay_many([()] * min(_BULK, count - first))
    return count / (time.perf_counter() - began)


def _drain(running: Worker) -> float:
    count, seconds = rows.drained(running.check)
    return count / max(seconds, 1e-6)


def _warm_up() -> None:
    for _ in range(_WARM_UPS):
        noop.delay()
    noop.delay().get(rows.PATIENCE)


def _starts(count: int) -> tuple[float, float]:
    sent = []
    deadline = time.monotonic() + _BUDGET
    for _ in range(count):
        sent.append((time.monotonic(), noop.delay()))
        time.sleep(_SPACING)
        if time.monotonic() > deadline:
            break
    took = sorted(task.get(rows.PATIENCE) - moment for moment, task in sent)
    return statistics.median(took), took[int(len(took) * 0.99)]


def _gets(count: int) -> list[float]:
    took: list[float] = []
    deadline = time.monotonic() + _BUDGET
    while len(took) < count and (not took or time.monotonic() < deadline):
        began = time.perf_counter()
        noop.delay().get(rows.PATIENCE)
        took.append(time.perf_counter() - began)
        time.sleep(_PAUSE)
    return took


def _median_of(once: Callable[[], float]) -> float:
    return statistics.median(once() for _ in range(_TURNS))


def _chain() -> float:
    began = time.perf_counter()
    with database.atomic():
        last = noop.delay()
        for _ in range(_CHAIN - 1):
            last = last.chain(noop)
    last.get(rows.PATIENCE)
    return time.perf_counter() - began


def _subtasks() -> float:
    began = time.perf_counter()
    parent.delay(_SUBTASKS).get(rows.PATIENCE)
    return time.perf_counter() - began
