"""`cq_schedule`: list, run, pause, resume."""

from datetime import timedelta

import pytest
from django.core.management.base import CommandError

from cq import schedules
from cq.models import RepeatingTask, Task
from cq.states import Status
from tests.commands.conftest import read_json, terminal
from tests.rows import make

__all__ = ["read_json", "terminal"]

pytestmark = pytest.mark.django_db


@pytest.fixture
def nightly():
    return RepeatingTask.objects.create(
        name="nightly", task="tests.tasks.adds", args=(1,), crontab="0 3 * * *", timezone="Europe/Berlin"
    )


def test_it_lists_them_in_words(terminal, nightly):
    make.row(Status.FAILURE, schedule_id=nightly.pk)
    RepeatingTask.objects.update(skipped={"overlap": 2, "missed": 1000})

    said = terminal("cq_schedule", "list")

    assert "nightly" in said
    assert "at 03:00" in said
    assert "FAILURE" in said
    assert "1,000 missed" in said


def test_it_says_what_is_noteworthy(terminal, nightly):
    RepeatingTask.objects.update(crontab="59/15 * * * *", reason="Paused: the last 3 runs in a row went wrong.\x1b[31m")

    said = terminal("cq_schedule", "list")

    assert "Paused: the last 3 runs in a row went wrong." in said
    assert "59/15 in the minute means 59 alone" in said


def test_it_lists_for_programs(read_json, nightly):
    (row,) = read_json("cq_schedule", "list")

    assert row["name"] == "nightly"
    assert (row["crontab"], row["every_seconds"], row["enabled"], row["last_status"]) == ("0 3 * * *", None, True, None)
    assert row["next_run"] == nightly.next_run.isoformat()


def test_without_any_it_says_so(terminal):
    assert terminal("cq_schedule", "list") == "There are no repeating tasks.\n"


def test_it_runs_one_now(terminal, nightly):
    said = terminal("cq_schedule", "run", "nightly")

    (task,) = Task.objects.all()
    assert said == f"nightly: task {task.id}\n"
    assert (task.schedule_id, task.scheduled_for) == (nightly.pk, None)


def test_it_runs_one_for_programs(read_json, nightly):
    (shown,) = read_json("cq_schedule", "run", "nightly")

    assert shown["id"] == str(Task.objects.get().id)


def test_it_pauses_and_resumes(terminal, nightly):
    assert terminal("cq_schedule", "pause", "nightly") == "nightly: paused\n"
    nightly.refresh_from_db()
    assert (nightly.enabled, nightly.reason) == (False, "It was paused.")
    assert "paused" in terminal("cq_schedule", "list")

    assert terminal("cq_schedule", "resume", "nightly").startswith("nightly: goes on, next 2")
    nightly.refresh_from_db()
    assert nightly.enabled
    assert nightly.next_run > schedules.clock() + timedelta(seconds=-1)


@pytest.mark.parametrize("action", ["run", "pause", "resume"])
def test_all_are_never_meant(terminal, action):
    with pytest.raises(CommandError, match=r"which one\? Give a name"):
        terminal("cq_schedule", action)


def test_a_name_that_is_not_there_is_said_and_nothing_done(terminal, nightly):
    with pytest.raises(CommandError, match="There is no repeating task 'weekly'"):
        terminal("cq_schedule", "run", "nightly", "weekly")

    assert not Task.objects.exists()


def test_a_task_that_is_not_known_here_is_said(terminal, nightly):
    RepeatingTask.objects.update(task="nobody.knows")

    with pytest.raises(CommandError, match=r"nightly: Task 'nobody.knows' is not registered"):
        terminal("cq_schedule", "run", "nightly")
