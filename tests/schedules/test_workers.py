"""Workers fire: on time, once, without a leader, whatever dies."""

import random
import signal
import time
from datetime import timedelta

import pytest

from cq import notifier, schedules
from cq.models import RepeatingTask, Task
from cq.states import Status
from tests import fault_tasks
from tests.processes import all_done, check_invariants, run_worker, until
from tests.rows import make
from tests.schedules import tasks  # noqa: F401
from tests.schedules.conftest import ticks
from tests.worker.conftest import loop, rounds

__all__ = ["loop", "rounds", "run_worker"]

SECOND = timedelta(seconds=1)


def every_second(number: int = 1, **fields: object) -> list[RepeatingTask]:
    begins = schedules.clock().replace(microsecond=0) + SECOND + number * SECOND / 50  # later than all are stored
    given = {"task": "fault.dry", "every": SECOND, "starts_at": begins, "overlap": "allow", **fields}
    return [RepeatingTask.objects.create(name=f"r{n}", **given) for n in range(number)]


@pytest.mark.slow
def test_ticks_come_on_time_without_hints(run_worker):
    """The first one wakes a worker that has not heard of it; it knows of the others by itself."""
    run_worker(TEST_LAYER="none", cq={"POLL_INTERVAL": 2}).ready()
    row = RepeatingTask.objects.create(
        name="r", task="fault.dry", every=SECOND / 0.8, starts_at=schedules.clock() + 3.2 * SECOND, overlap="allow"
    )

    until(lambda: len(ticks(row)) >= 3)

    late = [run.created_at - run.scheduled_for for run in row.runs]
    assert max(late) < timedelta(seconds=0.3), late


@pytest.mark.slow
def test_an_edit_takes_effect_at_once(run_worker):
    worker = run_worker(cq={"POLL_INTERVAL": 30}).ready()
    (row,) = every_second(every=timedelta(hours=1))
    until(lambda: len(ticks(row)) == 1)

    row.every = SECOND
    row.save()

    until(lambda: len(ticks(row)) >= 3)
    row.pause()
    number = len(ticks(row))
    assert ticks(row) == [row.starts_at, *ticks(row)[1:]]
    worker.stop_in_order()
    assert len(ticks(row)) == number


@pytest.mark.slow
def test_a_worker_may_leave_ticks_to_others(run_worker):
    (row,) = every_second()
    worker = run_worker("--no-scheduler").ready()
    task = make.row(Status.SCHEDULED, name="fault.dry", run_after=schedules.clock() + 2 * SECOND)

    until(lambda: make.status(task) == Status.SUCCESS)

    assert ticks(row) == []
    worker.stop_in_order()


@pytest.mark.slow
def test_a_drain_does_not_wait_for_ticks_that_are_left_to_others(run_worker, due):
    row = due(task="fault.dry")

    assert run_worker("--drain", "--no-scheduler").exit() == 0

    assert ticks(row) == []


@pytest.mark.slow
def test_a_drain_sees_to_the_ticks_that_are_due(run_worker, due):
    row = due(task="fault.dry")

    assert run_worker("--drain").exit() == 0

    assert [run.status for run in row.runs] == [Status.SUCCESS]


@pytest.mark.parametrize("task", ["fault.process_id", "fault.leaf"])
def test_a_tick_that_waited_comes_as_soon_as_the_run_has_ended(rounds, due, task):
    """Also behind one that writes its own end."""
    row = due(task=task, args=(0.5,), overlap="buffer_one")
    rounds("default")
    until(lambda: row.runs.filter(status=Status.RUNNING).exists())
    RepeatingTask.objects.update(next_run=schedules.clock())
    schedules.fire()
    row.refresh_from_db()
    assert row.buffered

    until(lambda: len(ticks(row)) == 2, 5)

    first, second = row.runs.order_by("scheduled_for")
    assert second.created_at - first.finished_at < timedelta(seconds=0.3)


def test_runs_that_fail_pause_it_at_once(rounds, due):
    row = due(task="tests.tasks.raises", args=(), max_failures=1)

    rounds("default")

    until(lambda: not RepeatingTask.objects.get(pk=row.pk).enabled, 5)
    assert len(ticks(row)) == 1


def test_an_engine_thread_is_awake_for_the_next_tick(rounds, due):
    row = due(timedelta(seconds=-0.7))

    rounds("default")

    until(lambda: row.runs.filter(status=Status.SUCCESS).exists(), 5)
    (run,) = row.runs
    assert run.created_at - run.scheduled_for < timedelta(seconds=0.3)


def test_a_process_for_suspects_fires_nothing(rounds, due):
    row = due()
    suspect = make.row(Status.QUEUED, crashes=1, name="fault.process_id", args=(0.3,))

    worker = rounds("default", suspects=True)

    assert worker.is_done.wait(10)
    assert make.status(suspect) == Status.SUCCESS
    assert ticks(row) == []


def test_a_process_that_is_stopping_fires_nothing(rounds, due):
    running = fault_tasks.process_id.delay(1.0)
    worker = rounds("default")
    until(lambda: make.status(running) == Status.RUNNING)
    worker.stop(5.0)
    row = due()
    worker.wake()

    assert worker.is_done.wait(10)
    assert ticks(row) == []


@pytest.mark.django_db(transaction=True)
def test_workers_hear_of_what_was_fired(due, monkeypatch):
    due(queue="bulk")
    said = []
    monkeypatch.setattr(notifier, "wake", said.append)

    schedules.fire()

    assert said == [{"bulk"}]


def murder(run_worker, *, workers: int, number: int, seconds: float, pause: float, **fields: object) -> None:
    """Kill one supervisor after the other, and start another in its place, for so long; then prove the ticks."""
    alive = [run_worker("--processes", "1", "--threads", "2") for _ in range(workers)]
    for one in alive:
        one.ready()
    rows = every_second(number, **{"every": 2 * SECOND, "catch_up": "all", **fields})
    begun = time.monotonic()
    kills = 0
    while time.monotonic() - begun < seconds:
        victim = random.randrange(workers)
        alive[victim].send(signal.SIGKILL)
        kills += 1
        alive[victim].popen.wait()
        alive[victim] = run_worker("--processes", "1", "--threads", "2")
        time.sleep(pause)  # the pace of the killing
    last = schedules.clock()
    until(lambda: not RepeatingTask.objects.filter(next_run__lte=last).exists(), 60, what="all ticks decided")
    for row in RepeatingTask.objects.all():
        row.pause()
    wrong = _after(rows, last)
    assert wrong == [], (kills, wrong[:5])
    all_done(120)
    for one in alive:
        one.ready()
        one.stop_in_order()
    check_invariants(left=False)
    print(f"{kills} supervisors killed, {Task.objects.count()} ticks")


def _after(rows: list[RepeatingTask], last: object) -> list[str]:
    """Say where the ticks in the database are not the series of the timetable, from its start to the last that was due."""
    wrong = []
    for row in rows:
        row.refresh_from_db()
        found = ticks(row)
        series = list(row.timetable.ticks(row.starts_at, max(row.last_run, last)))
        if found != series or row.skipped:
            wrong.append(f"{row.name}: {len(found)} of {len(series)} ticks, skipped {row.skipped}")
    return wrong


@pytest.mark.chaos
@pytest.mark.slow
def test_each_tick_comes_once_however_many_supervisors_are_killed(run_worker):
    murder(run_worker, workers=3, number=100, seconds=10, pause=0.3)
