"""A child that nobody wakes, no keeper and no hint, sees itself to what it has suspended."""

import time

from cq import engine, task
from tests.processes import until

SOON = 5.0


@task(atomic=False)
def naps(cqt):
    cqt.sleep(0.2)
    return "rested"


@task(atomic=False)
def waits(cqt):
    return cqt.wait_event("go")


@task(atomic=False)
def waits_a_moment(cqt):
    try:
        cqt.wait_event("go", timeout=0.2)
    except TimeoutError:
        return "in vain"


@task
async def naps_and_waits(cqt):
    await cqt.asleep(0.1)
    return await cqt.await_event("go")


def ended(task):
    task.refresh_from_db()
    return task.is_done


def test_what_sleeps_goes_on_when_it_is_due(rounds):
    sleeping, waiting = naps.delay(), waits_a_moment.delay()
    began = time.monotonic()
    rounds("default", threads=1)

    until(lambda: ended(sleeping) and ended(waiting), SOON)

    assert (sleeping.result, waiting.result) == ("rested", "in vain")
    assert time.monotonic() - began >= 0.2


def test_an_event_that_came_before_the_suspension_was_written_is_found_at_once(rounds, monkeypatch):
    """Nothing is told to this child but what it asks for itself."""
    waiting = waits.delay()
    finish = []

    def send_meanwhile(original):
        def exchange(outcomes, wish):
            if any(outcome.wait for outcome in outcomes) and not finish:
                finish.append(waiting.send_event("go", "come"))
            return original(outcomes, wish)

        return exchange

    monkeypatch.setattr(engine, "exchange", send_meanwhile(engine.exchange))
    rounds("default", threads=1)

    until(lambda: ended(waiting), SOON)

    assert (waiting.result, finish) == ("come", [True])


def test_a_coroutine_sleeps_and_waits(rounds):
    waiting = naps_and_waits.delay()
    waiting.send_event("go", "come")
    rounds("default")

    until(lambda: ended(waiting), SOON)

    assert (waiting.result, waiting.attempt) == ("come", 1)
