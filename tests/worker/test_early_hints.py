"""What is being committed is said a moment early: who hears it finds it as soon as it is there, and nothing depends on it."""

import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from cq import engine, notifier, waiter
from cq.models import Task
from cq.notifier import Notifier
from cq.outcome import returned
from cq.states import Status
from tests import fault_tasks
from tests.processes import until
from tests.rows.elsewhere import elsewhere
from tests.rows.make import held, row
from tests.rows.test_races import pausing_at
from tests.worker.test_rounds import are_done
from tests.worker.test_rounds import looks as looks


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what was said, the queues that have something new and the tasks that have ended, in turn."""
    said: list[str] = []
    silent = Notifier()  # whatever the tests before have left to be said
    monkeypatch.setattr(notifier, "_here", lambda: silent)
    monkeypatch.setattr(notifier, "wake", lambda queues: said.extend(queues))
    monkeypatch.setattr(notifier, "announce", lambda ids: said.extend(map(str, ids)))
    return said


# What is said


@pytest.mark.django_db(transaction=True)
def test_a_task_is_said_while_it_is_committed_and_then(marks):
    with elsewhere() as other, elsewhere() as web:
        other.open()
        other(lambda: connection.cursor().execute("LOCK TABLE cq_task IN SHARE MODE"))
        enqueued = web.begin(fault_tasks.dry.delay)
        until(lambda: marks == ["default"])
        assert not enqueued.done()
        other.commit()
        enqueued.result(5)

    assert marks == ["default", "default"]


@pytest.mark.django_db(transaction=True)
def test_a_task_of_a_transaction_is_said_only_when_that_has_committed(marks):
    with transaction.atomic():
        fault_tasks.dry.delay()
        assert marks == []

    assert marks == ["default"]


@pytest.mark.django_db(transaction=True)
def test_nothing_is_said_early_of_a_task_that_starts_later(marks):
    fault_tasks.dry.using(run_after=5).delay()

    assert marks == ["default"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("finish", "point"),
    [
        (lambda one: engine.exchange([one], None), "exchange.before_commit"),
        (lambda one: engine.finish_own(one, commits=True), "body.swapped"),
    ],
    ids=["a list", "a body's own"],
)
def test_an_end_is_said_before_it_is_committed(marks, finish: Callable[..., object], point: str):
    task = held(row(Status.RUNNING))
    seen: list[list[str]] = []

    with transaction.atomic(), pausing_at(point, lambda: seen.append(list(marks))):
        finish(returned(task, "1"))

    assert seen == [[str(task.id)]]


@pytest.mark.django_db(transaction=True)
def test_of_many_ends_at_once_none_is_said_early(marks):
    both = [held(row(Status.RUNNING)) for _ in range(2)]

    engine.exchange([returned(task, "1") for task in both], None)

    assert marks == []


@pytest.mark.django_db(transaction=True)
def test_what_waits_for_its_subtasks_has_not_ended(marks):
    engine.exchange([returned(held(row(Status.RUNNING)), None, waits=True)], None)

    assert marks == []


@pytest.mark.parametrize(
    "say", [lambda: notifier.wake_early("default"), lambda: notifier.announce_early(uuid4())], ids=["new", "ended"]
)
@pytest.mark.parametrize("is_saying", [False, True])
def test_only_a_silent_notifier_says_anything_early(say, is_saying: bool, marks, monkeypatch):
    here = Notifier()
    here.is_saying = is_saying
    monkeypatch.setattr(notifier, "_here", lambda: here)

    say()

    assert len(marks) == (not is_saying)


# Who hears it


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hearers expect what is said for half a minute."""
    monkeypatch.setattr(notifier, "EARLY", 30.0)


def enqueue_in_silence() -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifier, "wake", lambda queues: None)
        return fault_tasks.dry.delay()


@pytest.mark.parametrize("queues", [["default"], []], ids=["one queue", "any queue"])
def test_a_worker_that_hears_of_a_task_before_its_commit_looks_until_it_is_there(rounds, looks, early, queues):
    thread = rounds(*queues)
    until(lambda: thread.wake_ups.vain)
    thread.wake_ups.is_lucky = True
    before = len(looks)
    thread.wake()
    until(lambda: len(looks) > before + 2)

    task = enqueue_in_silence()

    until(lambda: are_done(task), 2)


def test_it_looks_no_longer_than_for_a_moment(rounds, looks, monkeypatch):
    monkeypatch.setattr(notifier, "EARLY", 0.05)  # longer than a look takes
    thread = rounds("default")
    until(lambda: thread.wake_ups.vain)
    thread.wake_ups.is_lucky = True
    thread.wake()
    until(lambda: not thread.wake_ups.is_lucky)
    before = len(looks)

    time.sleep(0.1)

    assert len(looks) == before


def test_a_look_that_took_longer_than_that_moment_was_still_too_early(rounds, monkeypatch):
    monkeypatch.setattr(notifier, "EARLY", 0.05)
    thread = rounds("default")
    until(lambda: thread.wake_ups.vain)
    exchange, enqueued = engine.exchange, []

    def slowly(*given):
        began, exchanged = time.monotonic(), exchange(*given)
        if not enqueued:
            enqueued.append(enqueue_in_silence())
            until(lambda: time.monotonic() > began + 0.05)
        return exchanged

    monkeypatch.setattr(engine, "exchange", slowly)
    thread.wake_ups.is_lucky = True
    thread.wake()

    until(lambda: enqueued and are_done(enqueued[0]), 2)


def test_a_worker_to_which_the_last_hint_brought_nothing_looks_once(rounds, looks, early):
    thread = rounds("default")
    until(lambda: thread.wake_ups.vain)
    before = len(looks)

    thread.wake()
    until(lambda: len(looks) > before)
    time.sleep(0.1)

    assert len(looks) == before + 1


def test_the_second_hint_of_a_task_makes_nobody_unlucky(rounds, monkeypatch):
    monkeypatch.setattr("cq.worker.wakeups._ECHO", 30.0)
    thread = rounds("default")
    until(lambda: thread.wake_ups.vain)
    task = enqueue_in_silence()
    thread.wake()
    until(lambda: are_done(task) and thread.wake_ups.worked_at > 0)

    thread.wake()
    until(lambda: thread.wake_ups.worked_at < 0)
    after_its_echo = thread.wake_ups.is_lucky, thread.wake_ups.vain, thread.wake_ups.heed_from
    thread.wake()
    until(lambda: thread.wake_ups.vain, what="a flood is none of echoes")

    assert after_its_echo == (True, 0, 0.0)
    assert not thread.wake_ups.is_lucky


def test_wake_ups_that_are_far_apart_are_no_flood(rounds, monkeypatch):
    monkeypatch.setattr("cq.worker.wakeups._QUIET", 0.0)
    thread = rounds("default")
    until(lambda: thread.wake_ups.vain)

    for _ in range(10):
        heard = thread.claims._turn
        thread.wake()
        until(lambda heard=heard: thread.claims._turn > heard)

    assert thread.wake_ups.heed_from == 0.0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("wait", [Task.wait, async_to_sync(Task.await_done)], ids=["function", "coroutine"])
def test_whoever_waits_and_hears_of_an_end_before_its_commit_looks_until_it_is_there(
    early, monkeypatch, settings, wait
):
    settings.CQ = {"POLL_INTERVAL": 30}
    monkeypatch.setattr(waiter, "_FIRST_PAUSE", 30.0)
    task = row(Status.RUNNING)
    listeners: list[Callable[[], object]] = []
    looks: list[object] = []
    state = engine.state
    monkeypatch.setattr(notifier, "listen", lambda task_id, listener: listeners.append(listener))
    monkeypatch.setattr(engine, "state", lambda task_id: looks.append(task_id) or state(task_id))
    with elsewhere() as web:
        waiting = web.begin(lambda: wait(Task.objects.get(pk=task.pk), 20))
        until(lambda: listeners)
        listeners[0]()
        until(lambda: len(looks) > 2)  # at first, when told, and now

        engine.finish([returned(held(task), "1")])

        waiting.result(5)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("wait", [Task.wait, async_to_sync(Task.await_done)], ids=["function", "coroutine"])
def test_whoever_waits_looks_again_when_that_look_took_longer_than_the_moment(monkeypatch, settings, wait):
    settings.CQ = {"POLL_INTERVAL": 30}
    monkeypatch.setattr(notifier, "EARLY", 0.05)
    monkeypatch.setattr(waiter, "_FIRST_PAUSE", 30.0)
    task = row(Status.RUNNING)
    listeners: list[Callable[[], object]] = []
    monkeypatch.setattr(notifier, "listen", lambda task_id, listener: listeners.append(listener))
    look, ended = engine.state, []

    def slowly(task_id):
        state = look(task_id)
        if listeners and not ended:
            with elsewhere() as worker:
                ended.append(worker(lambda: engine.finish([returned(held(task), "1")])))
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 0.05)
        return state

    monkeypatch.setattr(engine, "state", slowly)
    with elsewhere() as web:
        waiting = web.begin(lambda: wait(Task.objects.get(pk=task.pk), 20))
        until(lambda: listeners)
        listeners[0]()

        waiting.result(5)
