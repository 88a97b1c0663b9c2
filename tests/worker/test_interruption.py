"""An interruption lands in the body or nowhere, whenever it comes."""

import asyncio
import random
import sys
import threading
import time
import traceback

import pytest

from cq import interruption as interruption_module
from cq.exceptions import Fenced, TaskTimeout
from cq.interruption import Interrupted, Interruption, Stopped, Why, shielded, woken_by_interruption
from tests.processes import until


@pytest.fixture(autouse=True)
def _switches_often():
    """Let threads take turns in the middle of everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def spin(seconds: float) -> str:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return "returned"


def raced(run, interruption: Interruption, after: float, why: Why = Why.TIMEOUT) -> object:
    """Run this while another thread interrupts it after so long; return what it came to."""
    other = threading.Thread(target=lambda: (spin(after), interruption.interrupt(why)))
    other.start()
    try:
        return run()
    except (TaskTimeout, Fenced, Stopped) as error:
        return error
    finally:
        other.join()


def test_a_body_that_runs_is_interrupted_and_shows_where_it_was():
    interruption = Interruption(timeout=7)

    error = raced(lambda: interruption.run(spin, (30,), {}), interruption, 0.01)

    assert isinstance(error, TaskTimeout)
    assert str(error) == "The body ran longer than its timeout of 7 s."
    assert "in spin" in "".join(traceback.format_tb(error.__traceback__))


def swallow() -> str:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        spin(30)
    return "swallowed"


def translate() -> None:
    try:
        spin(30)
    except BaseException:
        raise ValueError("something else") from None


@pytest.mark.parametrize("body", [swallow, translate])
def test_whatever_a_body_makes_of_an_interruption_it_has_ended_by_it(body):
    interruption = Interruption(timeout=1)

    assert isinstance(raced(lambda: interruption.run(body, (), {}), interruption, 0.01), TaskTimeout)


@pytest.mark.parametrize(("why", "kind"), [(Why.OVERTAKEN, Fenced), (Why.STOPPED, Stopped)])
def test_each_reason_has_an_exception_of_its_own(why, kind):
    interruption = Interruption()

    assert isinstance(raced(lambda: interruption.run(spin, (30,), {}), interruption, 0.01, why), kind)


def test_a_body_that_was_interrupted_before_it_began_does_nothing():
    interruption = Interruption(timeout=1)
    interruption.interrupt(Why.TIMEOUT)

    with pytest.raises(TaskTimeout):
        interruption.run(pytest.fail, ("it ran",), {})


def test_an_interruption_that_comes_when_the_body_ends_lands_nowhere_else():
    """The interesting moment is between the body's last bytecode and the note that it has left."""
    came_to = {"returned": 0, "TaskTimeout": 0}
    for _ in range(3000):
        interruption = Interruption(timeout=1)
        result = raced(lambda i=interruption: i.run(spin, (5e-5,), {}), interruption, random.uniform(2e-5, 1e-4))
        came_to[result if isinstance(result, str) else type(result).__name__] += 1
        assert interruption.has_left
        assert (result == "returned") is not interruption.was_interrupted

    assert min(came_to.values()) > 30, came_to


@pytest.fixture
def slow_to_inject(monkeypatch):
    """Let the stopper lose the processor after it has decided to inject."""
    inject = interruption_module._inject

    def slowly(thread_id: int | None, exception: type[BaseException] | None) -> None:
        if exception is not None:
            time.sleep(0.02)
        inject(thread_id, exception)

    monkeypatch.setattr(interruption_module, "_inject", slowly)


@pytest.mark.usefixtures("slow_to_inject")
@pytest.mark.parametrize("is_shielded", [True, False])
def test_a_body_that_ends_waits_for_the_exception_that_is_on_its_way(is_shielded):
    shared, interruption = Shared(), Interruption(timeout=1)

    def body() -> None:
        until(lambda: interruption.was_interrupted)
        if is_shielded:
            shared.change()

    result = raced(lambda: interruption.run(body, (), {}), interruption, 0.001)

    assert spin(0.05) == "returned"
    assert isinstance(result, TaskTimeout)
    assert shared.first == shared.second


def test_an_interruption_after_the_end_does_nothing():
    interruption = Interruption(timeout=1)
    assert interruption.run(spin, (0,), {}) == "returned"

    interruption.interrupt(Why.TIMEOUT)

    assert spin(0.001) == "returned"
    assert not interruption.was_interrupted


class Shared:
    """State that would be torn by an exception in the middle."""

    def __init__(self) -> None:
        self.first = self.second = 0

    def change(self) -> None:
        with shielded():
            self.first += 1
            spin(2e-6)
            with shielded():
                self.second += 1
            spin(2e-6)
            self.second += 0

    def change_for_ever(self) -> None:
        while True:
            self.change()


def test_what_is_shielded_is_never_torn():
    for _ in range(500):
        shared, interruption = Shared(), Interruption(timeout=1)

        result = raced(lambda s=shared, i=interruption: i.run(s.change_for_ever, (), {}), interruption, 1e-4)

        assert isinstance(result, TaskTimeout)
        assert shared.first == shared.second


def test_a_body_that_swallows_its_interruption_may_still_be_shielded():
    shared, interruption = Shared(), Interruption(timeout=1)

    def body() -> None:
        swallow()
        with pytest.raises(Interrupted):
            shared.change()

    assert isinstance(raced(lambda: interruption.run(body, (), {}), interruption, 0.01), TaskTimeout)
    assert (shared.first, shared.second) == (1, 1)


def test_a_thread_that_waits_is_woken():
    interruption, event = Interruption(timeout=1), threading.Event()

    def body() -> None:
        with woken_by_interruption(event.set):
            event.wait(30)
            spin(1)

    began = time.monotonic()
    assert isinstance(raced(lambda: interruption.run(body, (), {}), interruption, 0.01), TaskTimeout)
    assert time.monotonic() - began < 5


def test_a_body_that_asks_after_its_time_has_ended_by_its_timeout():
    interruption = Interruption(timeout=0.001)
    interruption.start()

    def body() -> str:
        until(lambda: time.monotonic() > interruption.deadline)
        with pytest.raises(TaskTimeout):
            interruption.check()
        with shielded():
            pass
        return "swallowed"

    with pytest.raises(TaskTimeout):
        interruption.run(body, (), {})


def test_a_body_that_is_told_goes_on_until_it_asks():
    interruption = Interruption()
    interruption.tell()

    assert interruption.run(spin, (0,), {}) == "returned"
    with pytest.raises(Fenced):
        interruption.check()


# Coroutines.


def in_loop(body, *, after: float) -> object:
    async def run() -> object:
        interruption = Interruption(timeout=1)
        timer = threading.Timer(after, lambda: interruption.interrupt(Why.TIMEOUT))
        timer.start()
        try:
            result = await interruption.arun(body, (), {})
        except TaskTimeout as error:
            result = error
        finally:
            await asyncio.to_thread(timer.join)  # nothing is left that would land here
        assert asyncio.current_task().cancelling() == 0
        return result

    return asyncio.run(run())


async def waits() -> None:
    await asyncio.sleep(30)


async def swallows() -> str:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(30)
    await asyncio.sleep(0.001)
    return "swallowed"


async def ends_at_once() -> str:
    return "returned"


@pytest.mark.parametrize("body", [waits, swallows])
def test_a_coroutine_is_cancelled_and_has_ended_by_that(body):
    assert isinstance(in_loop(body, after=0.01), TaskTimeout)


def test_a_coroutine_that_has_ended_is_not_cancelled():
    assert in_loop(ends_at_once, after=0.01) == "returned"


def test_a_workers_own_cancel_is_told_apart():
    async def run() -> None:
        task = asyncio.ensure_future(Interruption(timeout=30).arun(waits, (), {}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
