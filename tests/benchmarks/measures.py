"""How each work is measured: functions from a run to its figures. They run in the client, beside nothing but the worker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.benchmarks.growth import crowd, finished, footprint, future, held, idle, linear, waiting
from tests.benchmarks.run import Run, WentWrong

Figures = dict[str, float]

_BLOCK = 1_000
_SPACING = 0.05
_PAUSE = 0.02
_FANS, _CHAINS, _BULKS = 3, 5, 3
_WARM_CALLS = 20


def drain(run: Run, *, body: str = "noop", processes: int = 2, threads: int | None = None) -> Figures:
    """Enqueue all, then start the worker: tasks per second from the first record until the last, or the last stored result."""
    run.fill(body, range(run.size))
    with run.worker(processes, threads):
        run.await_all()
        stored = run.await_stored()
        run.check(body)
    moments = [moment for moment, _ in run.records.read()]
    return {"per_second": run.size / (max(moments[-1], stored) - moments[0])}


def delay(run: Run) -> Figures:
    """Enqueue one after another, with nobody there to run them; they run afterwards, to prove that they were enqueued."""
    warm_up_enqueueing(run)
    numbers = range(run.size)
    run.expects(numbers)
    began = time.perf_counter()
    for number in numbers:
        run.system.enqueue("noop", number)
    took = time.perf_counter() - began
    prove(run)
    return {"per_second": run.size / took}


def delay_in_transaction(run: Run) -> Figures:
    """Enqueue one after another in transactions of a thousand, their commits included."""
    warm_up_enqueueing(run)
    numbers = range(run.size)
    run.expects(numbers)
    began = time.perf_counter()
    for start in range(0, run.size, _BLOCK):
        with run.system.transaction():
            for number in numbers[start : start + _BLOCK]:
                run.system.enqueue("noop", number)
    took = time.perf_counter() - began
    prove(run)
    return {"per_second": run.size / took}


def delay_many(run: Run) -> Figures:
    """Enqueue all in one call; the median of some calls."""
    warm_up_enqueueing(run)
    rates: list[float] = []
    for turn in range(_BULKS):
        numbers = range(turn * run.size, (turn + 1) * run.size)
        run.expects(numbers)
        began = time.perf_counter()
        run.system.fill("noop", numbers)
        rates.append(run.size / (time.perf_counter() - began))
    prove(run)
    return {"per_second": statistics.median(rates)}


def start(run: Run) -> Figures:
    """Enqueue 50 ms apart for idle workers: from the call to the body's record."""
    sent: dict[int, float] = {}
    with run.worker(2):
        settle_down(run)
        run.expects(range(run.size))
        began = time.monotonic()
        for number in range(run.size):
            time.sleep(max(0.0, began + number * _SPACING - time.monotonic()))
            sent[number] = time.time()
            run.system.enqueue("noop", number)
        run.await_all()
        run.check()
    times = run.records.times()
    return percentiles([times[number] - moment for number, moment in sent.items()])


def get(run: Run) -> Figures:
    """Submit and wait for the result, one after another, with idle workers."""
    took: list[float] = []
    with run.worker(2):
        settle_down(run)
        for number in range(-5, run.size):
            if number >= 0:
                run.expects([number])
            else:
                run.warm_ups += 1
            began = time.perf_counter()
            result = run.system.submit_and_wait(number)  # type: ignore[attr-defined]
            took.append(time.perf_counter() - began)
            if result != number:
                raise WentWrong(f"task {number} gave {result!r}")
            time.sleep(_PAUSE)
        run.await_all()
        run.check()
    return percentiles(took[5:])


def fan(run: Run) -> Figures:
    """From the call to the record of the callback that follows the last of so many tasks; the median of some fans."""
    return repeated(run, _FANS, run.size + 1, lambda first: run.system.fan_out(first, run.size))  # type: ignore[attr-defined]


def chain(run: Run) -> Figures:
    """From the call to the record of the last step; the median of some chains."""
    return repeated(run, _CHAINS, run.size, lambda first: run.system.chain(first, run.size))  # type: ignore[attr-defined]


def repeated(run: Run, times: int, numbers: int, launch: Callable[[int], None]) -> Figures:
    """Launch something of so many tasks some times, once for warming up; `making` is what the call itself took."""
    whole: list[float] = []
    making: list[float] = []
    with run.worker(2):
        settle_down(run)
        for turn in range(times + 1):
            first = turn * numbers
            run.expects(range(first, first + numbers))
            began = time.time()
            launch(first)
            making.append(time.time() - began)
            run.await_all()
            ended = run.records.times()
            if ended[first + numbers - 1] < max(ended[number] for number in range(first, first + numbers)):
                raise WentWrong("the last task did not run last")
            whole.append(ended[first + numbers - 1] - began)
            time.sleep(0.2)
        run.check()
    return {"seconds": statistics.median(whole[1:]), "making": statistics.median(making[1:])}


def warm_up_enqueueing(run: Run) -> None:
    """Enqueue some that are not counted: connections are opened, modules imported."""
    for _ in range(_WARM_CALLS):
        run.warm_ups += 1
        run.system.enqueue("noop", -run.warm_ups)


def prove(run: Run) -> None:
    """Let a worker run what was enqueued."""
    with run.worker(2):
        run.await_all()
        run.check()


def settle_down(run: Run) -> None:
    """Warm the worker up and leave it idle."""
    run.warm_up()
    time.sleep(1.0)


def percentiles(seconds: Sequence[float]) -> Figures:
    """Return the median and the 99th percentile."""
    ordered = sorted(seconds)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]}


MEASURES: dict[str, Callable[[Run], Figures]] = {
    "drain_2": drain,
    "drain_1": partial(drain, processes=1),
    "rows_1": partial(drain, body="row", threads=1),
    "rows_4": partial(drain, body="row", threads=4),
    "delay": delay,
    "delay_in_transaction": delay_in_transaction,
    "delay_many": delay_many,
    "start": start,
    "get": get,
    "fan": fan,
    "chain": chain,
    "idle": idle,
    "finished": finished,
    "waiting": waiting,
    "future": future,
    "crowd": crowd,
    "held": held,
    "linear": linear,
    "footprint": footprint,
}
