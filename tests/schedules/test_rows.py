"""What people write: rows are checked when they are saved, edits take effect at once, and fire nothing of the past."""

from datetime import datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import override_settings

from cq import schedules
from cq.models import RepeatingTask, schedule_task
from cq.states import Status
from tests.processes import query, until
from tests.rows.elsewhere import elsewhere
from tests.rows.make import row as row_of
from tests.schedules import tasks
from tests.schedules.conftest import MINUTE, ticks

pytestmark = pytest.mark.django_db


def make(**fields):
    return RepeatingTask.objects.create(
        **{"name": "r", "task": "tests.tasks.adds", "args": (1,), "crontab": "0 3 * * *"} | fields
    )


def read(row):
    return RepeatingTask.objects.get(pk=row.pk)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"crontab": "99 * * * *"}, "crontab", "out of range"),
        ({"crontab": "0 0 30 2 *"}, "crontab", "can never occur"),
        ({"crontab": "x" * 10_000}, "crontab", "at most 200"),
        ({"crontab": ""}, "crontab", "either a crontab or an interval"),
        ({"every": MINUTE}, "crontab", "either a crontab or an interval"),
        ({"crontab": "", "every": 0.5}, "every", "from one second"),
        ({"crontab": "", "every": -5}, "every", "from one second"),
        ({"timezone": "Mars/Olympus"}, "timezone", "not a time zone"),
        ({"task": "os.system"}, "task", "not a registered task"),
        ({"task": ""}, "task", "cannot be blank"),
        ({"args": (1, 2, 3)}, "args", "too many positional arguments"),
        ({"args": (object(),)}, "args", "object"),
        ({"kwargs": {"c": 1}}, "args", "unexpected keyword"),
        ({"kwargs": [1]}, "kwargs", "a dict"),
        ({"queue": "no such queue"}, "queue", "expected 1 to 64"),
        ({"priority": 101}, "priority", "from -100 to 100"),
        ({"result_ttl": -1}, "result_ttl", "from 0"),
        ({"overlap": "never"}, "overlap", "not a valid choice"),
        ({"catch_up": "some"}, "catch_up", "not a valid choice"),
        ({"jitter": -1}, "jitter", "from zero"),
        ({"catch_up_window": -1}, "catch_up_window", "from zero"),
        ({"max_failures": 0}, "max_failures", "1 or more"),
        ({"starts_at": "tomorrow"}, "starts_at", "invalid"),
        (
            {"starts_at": datetime(2030, 1, 2).astimezone(), "ends_at": datetime(2030, 1, 1).astimezone()},
            "ends_at",
            "before it starts",
        ),
    ],
)
def test_what_could_never_run_is_refused_and_the_field_named(fields, field, said):
    with pytest.raises(ValidationError) as caught:
        make(**fields)

    assert field in caught.value.message_dict
    assert said in " ".join(caught.value.message_dict[field])
    assert not RepeatingTask.objects.exists()


def test_nothing_is_imported_for_a_name():
    import sys

    with pytest.raises(ValidationError):
        make(task="this.s")

    assert "this" not in sys.modules


def test_the_database_wants_one_of_the_two_as_well():
    row = make()

    with pytest.raises(IntegrityError, match="cq_repeatingtask_when"), transaction.atomic():
        RepeatingTask.objects.filter(pk=row.pk).update(every=MINUTE)


def test_the_project_names_the_zone():
    with override_settings(TIME_ZONE="Asia/Tokyo"):
        row = make()

    assert row.timezone == "Asia/Tokyo"
    assert row.upcoming(1)[0].local.hour == 3


def test_intervals_are_given_as_they_come():
    row = make(crontab="", every=90, jitter=2.5, catch_up_window=timedelta(hours=1))

    assert (read(row).every, read(row).jitter) == (timedelta(seconds=90), timedelta(seconds=2.5))


def test_coalesce_is_a_word_for_overlap():
    row = make(coalesce=False)

    assert (row.overlap, row.coalesce) == ("allow", False)
    row.coalesce = True
    assert row.overlap == "skip"


def test_a_new_one_is_planned_from_now():
    row = make(crontab="", every=MINUTE)

    assert row.next_run == row.created_at + MINUTE == read(row).next_run
    assert row.upcoming(2) == [row.created_at + MINUTE, row.created_at + 2 * MINUTE]


def test_one_that_starts_later_starts_then():
    start = schedules.clock() + timedelta(days=1)

    assert make(crontab="", every=MINUTE, starts_at=start).next_run == start


def test_one_that_has_started_long_ago_fires_nothing_of_the_past():
    start = schedules.clock() - timedelta(days=1)
    row = make(crontab="", every=MINUTE, starts_at=start)

    assert schedules.fire().decided == 0
    assert row.next_run > schedules.clock()
    assert (row.next_run - start) % MINUTE == timedelta(0)


def test_an_edit_of_the_timetable_plans_from_now(due):
    row = due(timedelta(minutes=5))

    row.every = timedelta(minutes=7)
    row.save()

    assert read(row).next_run > schedules.clock()
    assert read(row).planned
    assert schedules.fire().decided == 0


def test_any_other_edit_leaves_the_tick_due(due):
    row = due()
    tick = row.next_run

    row.args = (2,)
    row.queue = "bulk"
    row.save()

    assert read(row).next_run == tick
    schedules.fire()
    assert ticks(row) == [tick]
    assert (row.runs[0].args, row.runs[0].queue) == ((2,), "bulk")


def test_an_edit_of_what_was_read_before_a_tick_does_not_bring_it_back(due):
    """Somebody has the form open while it fires."""
    row = due()
    stale = read(row)
    schedules.fire()
    fired = read(row)

    stale.args = (5,)
    stale.save()

    now = read(row)
    assert (now.next_run, now.last_run, now.skipped) == (fired.next_run, fired.last_run, fired.skipped)
    assert now.args == (5,)


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.django_db(transaction=True)
def test_an_edit_is_judged_by_what_it_finds_once_it_has_the_row():
    """Another edit is just being committed: what was planned from that one is planned anew."""
    row = make(crontab="* * * * *")
    with elsewhere() as there, elsewhere() as other:
        there.open()
        there(schedule_task, RepeatingTask, "0 0 1 1 *", row.task, (1,), name=row.name)
        saving = other.begin(row.save)
        until(lambda: query(WAITING) == [(1,)])
        there.commit()
        saving.result(20)

    now = read(row)
    assert (now.crontab, now.planned) == ("* * * * *", True)
    assert now.next_run <= schedules.clock() + MINUTE


def test_what_is_set_by_hand_is_written(due):
    row = due(timedelta(seconds=-60))
    row.next_run = schedules.clock()
    row.save()

    assert len(schedules.fire().tasks) == 1


@pytest.mark.parametrize(
    "change", [{"crontab": "* * * * *"}, {"timezone": "Asia/Tokyo"}, {"starts_at": "2020-01-01T00:00:00Z"}]
)
def test_an_edit_behind_our_back_is_planned_anew_too(change):
    row = make(crontab="0 0 1 1 *", timezone="UTC")
    before = row.next_run
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=before + timedelta(days=9))
    before = read(row).next_run

    RepeatingTask.objects.filter(pk=row.pk).update(**change)

    assert schedules.next_tick() == 0
    schedules.fire()
    after = read(row)
    assert (after.planned, after.next_run < before) == (True, True)
    assert ticks(row) == []


def test_failures_before_it_was_enabled_behind_our_back_do_not_count(due):
    row = due(max_failures=1)
    row_of(Status.FAILURE, schedule_id=row.pk, scheduled_for=row.starts_at - MINUTE)
    RepeatingTask.objects.update(enabled=False)

    RepeatingTask.objects.update(enabled=True)

    schedules.fire()
    assert read(row).enabled


def test_pausing_and_resuming_fires_nothing_of_the_past(due):
    row = due(timedelta(minutes=5), catch_up="all", overlap="allow")

    row.pause()
    assert (row.enabled, row.next_run, schedules.fire().decided) == (False, None, 0)
    row.resume()

    assert (row.enabled, row.reason) == (True, None)
    assert row.next_run > schedules.clock()
    assert schedules.fire().decided == 0


def test_to_resume_what_goes_on_changes_nothing(due):
    row = due()
    tick = row.next_run

    row.resume()

    assert row.next_run == tick


def test_enabling_it_by_an_edit_is_to_resume_it(due):
    row = due(timedelta(minutes=5))
    row.enabled = False
    row.save()
    assert (row.next_run, schedules.fire().decided) == (None, 0)

    row.enabled = True
    row.save()

    assert row.next_run > schedules.clock()


def test_a_tick_that_waits_does_not_survive_a_pause(due):
    row = due(overlap="buffer_one")
    row.run_now()
    schedules.fire()
    row.refresh_from_db()
    assert row.buffered

    row.pause()
    row.resume()

    assert read(row).buffered is None


def test_a_deleted_one_leaves_its_history(due):
    row = due()
    schedules.fire()
    key = row.pk

    row.delete()

    assert schedules.next_tick() is None
    assert len(ticks(RepeatingTask(pk=key))) == 1


async def test_every_verb_that_blocks_has_a_twin():
    assert all(callable(getattr(RepeatingTask, name)) for name in ("arun_now", "apause", "aresume"))


def test_schedule_task_stores_changes_and_names():
    row = schedule_task(
        RepeatingTask, "0 3 * * *", "nobody.knows", [1], {"b": 2}, name="nightly", timezone="Europe/Berlin"
    )
    same = schedule_task(
        RepeatingTask, None, "nobody.knows", name="nightly", every=timedelta(minutes=5), coalesce=False
    )

    assert row.pk == same.pk == RepeatingTask.objects.get().pk
    assert (row.args, row.kwargs, row.timezone) == ((1,), {"b": 2}, "Europe/Berlin")
    assert (same.crontab, same.every, same.args, same.overlap) == ("", 5 * MINUTE, (), "allow")
    assert row.next_run > schedules.clock()
    assert same.next_run > schedules.clock()


def test_schedule_task_takes_a_function_and_its_name():
    assert schedule_task(RepeatingTask, "0 3 * * *", tasks.unique, (1,)).name == "schedules.unique"


def test_schedule_task_again_without_a_change_keeps_the_tick(due):
    row = due()
    tick = row.next_run

    schedule_task(RepeatingTask, None, row.task, (1,), name=row.name, every=MINUTE, starts_at=row.starts_at)

    assert read(row).next_run == tick


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (("0 0 30 2 *", "a.b"), "crontab"),
        ((None, "a.b"), "crontab"),
        (("* * * * *", "tests.tasks.adds"), "args"),
    ],
)
def test_schedule_task_refuses_what_could_never_run(call, field):
    with pytest.raises(ValidationError) as caught:
        schedule_task(RepeatingTask, *call)

    assert set(caught.value.message_dict) == {field}


def test_schedule_task_knows_its_options():
    with pytest.raises(ValueError, match=r"minutes= is not a field of a repeating task; there are args, "):
        schedule_task(RepeatingTask, None, "a.b", minutes=5)
