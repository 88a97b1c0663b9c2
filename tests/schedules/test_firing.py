"""Each tick is decided once: fired, or skipped with the reason counted, whoever looks and whenever."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models import F

from cq import engine, schedules
from cq.failpoints import FailpointReached
from cq.models import RepeatingTask, Task
from cq.serial import drain
from cq.states import Status
from cq.testing import failpoint
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.schedules import tasks  # noqa: F401
from tests.schedules.conftest import MINUTE, ticks

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


def fire(row: RepeatingTask) -> RepeatingTask:
    schedules.fire_all(60)
    row.refresh_from_db()
    return row


def test_a_tick_that_is_due_becomes_a_task(due):
    row = due(args=(2,), kwargs={"b": 3}, queue="bulk", priority=7, result_ttl=60)
    tick = row.next_run

    fired = schedules.fire()

    row.refresh_from_db()
    (task,) = row.runs
    assert fired.tasks == [task.id]
    assert (task.name, task.args, task.kwargs, task.status) == (row.task, (2,), {"b": 3}, Status.QUEUED)
    assert (task.queue, task.priority, task.result_ttl, task.scheduled_for) == ("bulk", 7, 60, tick)
    assert (row.last_run, row.next_run, row.skipped) == (tick, tick + MINUTE, {})


def test_the_next_tick_comes_from_the_tick_and_not_from_now(due):
    row = due(timedelta(seconds=3))
    tick = row.next_run

    assert fire(row).next_run == tick + MINUTE


def test_the_body_knows_its_tick_in_every_attempt(due):
    row = due(task="schedules.tells", args=())
    tick = row.next_run
    fire(row)

    drain()
    (task,) = row.runs
    assert task.result == [tick.isoformat(), 1]


def test_nothing_is_due_before_its_time(due):
    row = due(timedelta(seconds=-60))

    assert 0 < schedules.next_tick() <= 60
    assert schedules.fire().decided == 0
    assert ticks(row) == []


@pytest.mark.parametrize(("fields", "is_fired"), [({"enabled": False}, 0), ({"task": "nobody.knows"}, 0), ({}, 1)])
def test_what_is_paused_or_unknown_here_leaves_its_ticks_due(due, fields, is_fired):
    row = due()
    tick = row.next_run
    RepeatingTask.objects.filter(pk=row.pk).update(**fields, next_run=tick, planned=True)
    RepeatingTask.objects.filter(pk=row.pk).update(planned=True)

    assert (schedules.next_tick() is not None) == is_fired
    fire(row)

    assert len(ticks(row)) == is_fired
    assert (row.next_run == tick) == (not is_fired)


@pytest.mark.parametrize(
    ("catch_up", "minutes", "fired"),
    [("skip", [], 0), ("last", [60], 1), ("all", range(61), 61)],
)
def test_after_an_outage_catch_up_decides(due, catch_up, minutes, fired):
    row = due(timedelta(hours=1), catch_up=catch_up, overlap="allow")
    first = row.next_run

    fire(row)

    assert ticks(row) == [first + minute * MINUTE for minute in minutes]
    assert row.skipped.get("missed", 0) == 61 - fired
    assert row.next_run == first + 61 * MINUTE


def test_at_most_a_hundred_are_caught_up_with_the_last_ones(due):
    row = due(timedelta(minutes=300), catch_up="all", overlap="allow")
    first = row.next_run

    fire(row)

    assert ticks(row) == [first + n * MINUTE for n in range(201, 301)]
    assert row.skipped == {"missed": 201}


@pytest.mark.parametrize("every", [True, False])
def test_a_long_outage_is_counted_in_pieces_and_to_the_tick(due, every):
    given = {} if every else {"every": None, "crontab": "* * * * *", "timezone": "Europe/Berlin"}
    row = due(timedelta(minutes=4500), catch_up="last", **given)
    first = row.next_run.replace(second=0, microsecond=0) if not every else row.next_run
    RepeatingTask.objects.update(next_run=first)

    fire(row)

    (tick,) = ticks(row)
    decided = (tick - first) // MINUTE + 1
    assert decided in (4500, 4501)
    assert row.skipped == {"missed": decided - 1}
    assert row.next_run == tick + MINUTE


def test_no_tick_older_than_the_window_is_caught_up_with(due):
    row = due(timedelta(hours=1), catch_up="all", overlap="allow", catch_up_window=timedelta(minutes=10.5))
    first = row.next_run

    fire(row)

    assert ticks(row) == [first + n * MINUTE for n in range(50, 61)]
    assert row.skipped == {"missed": 50}


def test_ticks_of_a_moment_ago_were_not_missed(due):
    """A poll or a busy second is no outage."""
    row = due(timedelta(seconds=25), every=SECOND, catch_up="skip", overlap="allow")
    first = row.next_run

    fire(row)

    assert ticks(row)[:26] == [first + n * SECOND for n in range(26)]
    assert row.skipped == {}


def test_the_end_is_the_end(due):
    row = due(timedelta(minutes=2), catch_up="all", overlap="allow", ends_at=schedules.clock() - MINUTE / 2)

    fire(row)

    assert len(ticks(row)) == 2
    assert row.next_run is None
    assert schedules.next_tick() is None


@pytest.mark.parametrize("status", sorted(make.states.UNFINISHED))
def test_a_run_that_has_not_ended_makes_the_tick_skip(due, status):
    row = due()
    make.row(status, schedule_id=row.pk)

    fire(row)

    assert ticks(row) == [None]
    assert row.skipped == {"overlap": 1}
    assert row.next_run > schedules.clock()


@pytest.mark.parametrize("status", sorted(make.states.TERMINAL))
def test_one_that_has_ended_however_does_not(due, status):
    row = due()
    make.row(status, schedule_id=row.pk)

    fire(row)

    assert len(ticks(row)) == 2
    assert row.skipped == {}


def test_runs_of_others_do_not_count(due):
    row = due()
    make.row(Status.RUNNING, name=row.task, schedule_id=row.pk + 1)

    assert len(ticks(fire(row))) == 1


def test_runs_may_overlap_if_they_may(due):
    row = due(coalesce=False)
    make.row(Status.RUNNING, schedule_id=row.pk)

    fire(row)

    assert len(ticks(row)) == 2


def test_one_tick_waits_and_further_ones_are_skipped(due):
    row = due(overlap="buffer_one")
    running = make.row(Status.QUEUED, schedule_id=row.pk)
    first = row.next_run

    fire(row)
    assert (row.buffered, row.skipped, ticks(row)) == (first, {}, [None])
    assert schedules.next_tick() > 0
    RepeatingTask.objects.update(next_run=F("next_run") - MINUTE)
    RepeatingTask.objects.update(next_run=schedules.clock())
    fire(row)
    assert (row.buffered, row.skipped, ticks(row)) == (first, {"overlap": 1}, [None])
    running.revoke()
    assert schedules.next_tick() == 0
    fire(row)

    assert (row.buffered, row.skipped) == (None, {"overlap": 1})
    assert first in ticks(row)
    assert row.runs.first().scheduled_for == first


def test_a_run_gives_way_to_the_next_tick(due):
    row = due(overlap="cancel_running")
    waiting, running = make.row(Status.QUEUED, schedule_id=row.pk), make.row(Status.RUNNING, schedule_id=row.pk)

    fired = schedules.fire()

    assert make.statuses(waiting, running) == [Status.REVOKED] * 2
    assert set(fired.revoked) == {waiting.pk, running.pk}
    assert row.runs.unfinished().count() == 1
    waiting.refresh_from_db()
    assert waiting.reason == "A later tick of its repeating task took its place."
    assert waiting.terminate


@pytest.mark.django_db(transaction=True)
def test_a_run_that_somebody_holds_is_not_waited_for(due):
    """It may just be committing its end. The tick stays due, and nobody waits for a task's row with others locked."""
    row = due(overlap="cancel_running")
    tick = row.next_run
    run = make.row(Status.RUNNING, schedule_id=row.pk)
    with elsewhere() as there:
        there.open()
        there(lambda: Task.objects.select_for_update(no_key=True).get(pk=run.pk))
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")

        fired = schedules.fire()

        row.refresh_from_db()
        assert (fired.decided, row.next_run, row.skipped) == (0, tick, {})
        there.rollback()
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")
    assert len(schedules.fire().tasks) == 1


def test_what_is_caught_up_with_gives_way_too(due):
    row = due(timedelta(minutes=3), overlap="cancel_running", catch_up="all")

    fire(row)

    assert len(ticks(row)) == 1
    assert row.skipped == {"overlap": 3}


def test_jitter_shifts_the_start_and_not_the_tick(due):
    row = due(jitter=timedelta(hours=1))
    tick = row.next_run

    fire(row)

    (task,) = row.runs
    assert task.scheduled_for == tick
    assert task.status == Status.SCHEDULED
    assert tick < task.run_after <= tick + timedelta(hours=1)


def test_a_unique_task_that_is_there_skips_the_tick(due):
    row = due(task="schedules.unique")
    Task.objects.create(
        name=row.task, status=Status.QUEUED, args=(1,), unique_key=schedules.task_for(row.task, (1,), {}).unique_key
    )

    fire(row)

    assert ticks(row) == []
    assert row.skipped == {"unique": 1}


@pytest.mark.parametrize(
    ("name", "said"), [("schedules.breaks", "division by zero"), ("schedules.writes", "no key for that")]
)
def test_what_a_users_function_breaks_is_its_own_tick_only(due, name, said):
    other = due()
    broken = due(name="broken", task=name)

    fire(broken)

    assert broken.skipped == {"refused": 1}
    assert said in broken.reason
    assert broken.next_run > schedules.clock()
    assert len(ticks(other)) == 1
    assert not Group.objects.exists()


def test_a_call_that_does_not_fit_any_more_is_refused_with_the_reason(due):
    row = due()
    RepeatingTask.objects.update(args=(1, 2, 3))

    fire(row)

    assert row.skipped == {"refused": 1}
    assert "too many positional arguments" in row.reason
    RepeatingTask.objects.update(args=(1,), next_run=schedules.clock())
    assert fire(row).reason is None


@pytest.mark.django_db(transaction=True)
def test_a_row_that_the_database_refuses_costs_no_other_its_tick(due):
    rows = [due(name=f"r{n}", args=(n,)) for n in range(3)]
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE cq_task ADD CONSTRAINT not_one CHECK (args <> '[1]')")
    try:
        schedules.fire_all()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE cq_task DROP CONSTRAINT not_one")

    assert [len(ticks(row)) for row in rows] == [1, 0, 1]
    rows[1].refresh_from_db()
    assert rows[1].skipped == {"refused": 1}
    assert "not_one" in rows[1].reason


@pytest.mark.parametrize("fields", [{"timezone": "Mars/Olympus"}, {"crontab": "nonsense"}])
def test_a_timetable_that_cannot_be_read_stands_still_and_says_why(due, fields):
    other = due()
    row = due(name="broken", every=None, crontab="* * * * *")
    RepeatingTask.objects.filter(pk=row.pk).update(**fields)

    fire(row)

    assert row.next_run is None
    assert "is not a" in row.reason
    assert len(ticks(other)) == 1


def test_a_tick_that_has_its_task_is_not_fired_again(due):
    """The clock was put back, or the row restored from a backup."""
    row = due(overlap="allow")
    tick = row.next_run
    fire(row)
    RepeatingTask.objects.update(next_run=tick)

    fire(row)

    assert ticks(row) == [tick]
    assert (row.skipped, row.next_run) == ({}, tick + MINUTE)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("point", ["fire.locked", "fire.inserted", "fire.before_commit"])
def test_wherever_it_breaks_off_nothing_is_decided(due, point):
    row = due(overlap="cancel_running")
    tick = row.next_run
    run = make.row(Status.RUNNING, schedule_id=row.pk)

    with failpoint(f"{point}=raise"), pytest.raises(FailpointReached):
        schedules.fire()

    row.refresh_from_db()
    assert (row.next_run, row.last_run, ticks(row), make.status(run)) == (tick, None, [None], Status.RUNNING)


@pytest.mark.django_db(transaction=True)
def test_whoever_comes_second_does_not_wait(due):
    row, other = due(), due(name="other")
    with elsewhere() as there:
        there.open()
        there(lambda: RepeatingTask.objects.select_for_update(no_key=True).get(pk=row.pk))
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")

        assert schedules.fire().decided == 1

        assert (len(ticks(row)), len(ticks(other))) == (0, 1)
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")


@pytest.mark.django_db(transaction=True)
def test_many_at_once_decide_each_tick_once(due):
    rows = [due(timedelta(seconds=2), name=f"r{n}", every=SECOND, overlap="allow") for n in range(60)]

    together(*[schedules.fire_all] * 4)

    for row in rows:
        found = ticks(row)
        row.refresh_from_db()
        assert found == [row.starts_at + n * SECOND for n in range(len(found))]
        assert len(found) >= 3
        assert row.next_run == found[-1] + SECOND


@pytest.mark.django_db(transaction=True)
def test_a_run_that_began_before_the_look_is_seen_by_it(due, monkeypatch):
    """First the lock, then the look: else one that began in between runs beside the tick's."""
    row = due()
    with elsewhere() as there:
        monkeypatch.setattr(schedules, "failpoint", lambda name: name == "fire.locked" and there(row.run_now))

        assert schedules.fire().tasks == []

    row.refresh_from_db()
    assert (len(row.runs), row.skipped) == (1, {"overlap": 1})


def test_runs_that_keep_failing_pause_it(due):
    row = due(max_failures=3)
    for n in range(3):
        make.row(Status.FAILURE, schedule_id=row.pk, scheduled_for=row.starts_at - (n + 1) * MINUTE)

    fire(row)

    assert not row.enabled
    assert row.reason == "Paused: the last 3 runs in a row went wrong. Resume it when that is mended."
    assert len(ticks(row)) == 3
    row.resume()
    RepeatingTask.objects.update(next_run=schedules.clock())
    assert fire(row).enabled
    assert len(ticks(row)) == 4


@pytest.mark.parametrize("last", [Status.SUCCESS, Status.REVOKED, Status.RUNNING])
def test_failures_are_counted_in_a_row(due, last):
    """Success ends the row; a revoked run or one that still runs says nothing."""
    row = due(max_failures=3)
    for n in range(3):
        make.row(Status.FAILURE if n else last, schedule_id=row.pk, scheduled_for=row.starts_at - (n + 1) * MINUTE)

    assert fire(row).enabled


@pytest.mark.parametrize("status", [Status.FAILURE, Status.INCOMPLETE, Status.LOST, Status.EXPIRED])
def test_every_bad_end_is_a_failure(due, status):
    row = due(max_failures=1)
    make.row(status, schedule_id=row.pk, scheduled_for=row.starts_at - MINUTE)

    assert not fire(row).enabled


@pytest.mark.django_db(transaction=True)
def test_the_pause_waits_for_nobody(due):
    row = due(max_failures=1)
    make.row(Status.FAILURE, schedule_id=row.pk, scheduled_for=row.starts_at - MINUTE)
    with elsewhere() as there:
        there.open()
        there(lambda: RepeatingTask.objects.select_for_update(no_key=True).get(pk=row.pk))
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")

        schedules.pause_failing()

    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")
    schedules.pause_failing()
    row.refresh_from_db()
    assert not row.enabled


def test_a_key_is_counted_as_with_delay(due):
    row = due(task="schedules.keyed")

    fire(row)

    (task,) = row.runs
    assert (task.key, task.key_limit, task.admitted) == ("n1", 1, False)


def test_a_run_by_hand_is_no_tick_and_ignores_overlap(due):
    row = due(timedelta(seconds=-60))
    make.row(Status.RUNNING, schedule_id=row.pk)

    task = row.run_now()

    assert (task.schedule_id, task.scheduled_for, task.status, task.args) == (row.pk, None, Status.QUEUED, (1,))
    before = row.next_run
    row.refresh_from_db()
    assert (row.next_run, row.last_run) == (before, None)
    assert row.runs.first() == task


def test_a_run_by_hand_of_a_unique_task_is_the_one_that_is_there(due):
    row = due(task="schedules.unique")
    first = row.run_now()

    second = row.run_now()

    assert (first.created, second.created, first.id) == (True, False, second.id)


@pytest.mark.django_db(transaction=True)
def test_a_run_by_hand_belongs_to_the_callers_transaction(due):
    row = due(timedelta(seconds=-60))
    with transaction.atomic():
        row.run_now()
        transaction.set_rollback(True)

    assert not Task.objects.exists()


def test_the_keepers_look_sees_what_is_due(due):
    due()

    assert engine.look(None, ["tests.tasks.adds"]).fires
    assert not engine.look(None, ["tests.tasks.sums"]).fires
    assert not engine.look(None, ["tests.tasks.adds"], fires=False).fires
