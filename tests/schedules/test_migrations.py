"""Repeating tasks from migrations: applied, taken back, applied again, squashed; nothing of the tasks is imported."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter

from cq import schedules
from cq.models import RepeatingTask, schedule_task
from cq.operations import RepeatTask
from tests.schedules.conftest import MINUTE

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = """
from datetime import timedelta
from django.db import migrations
from cq.operations import RepeatTask

class Migration(migrations.Migration):
    dependencies = [("cq", "0001_initial")]
    operations = [
        RepeatTask("nightly", "shop.tasks.nightly", crontab="0 3 * * *", timezone="Europe/Berlin", kwargs={"full": True}),
        RepeatTask("often", "shop.tasks.often", every=timedelta(seconds=90), args=(1, "a"), overlap="allow"),
    ]
"""
SECOND = """
from django.db import migrations
from cq.operations import RepeatTask
from cq.models import schedule_task

def forwards(apps, schema_editor):
    schedule_task(apps.get_model("cq", "RepeatingTask"), "0 4 * * *", "shop.tasks.weekly", name="weekly", timezone="UTC")

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_first")]
    operations = [
        RepeatTask("nightly", "shop.tasks.nightly", crontab="0 5 * * *", timezone="Europe/Berlin"),
        migrations.RunPython(forwards, migrations.RunPython.noop, elidable=True),
    ]
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, settings):
    """An app with two such migrations, and task code that must not be imported."""
    folder = tmp_path / "shop"
    (folder / "migrations").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "migrations/__init__.py").touch()
    (folder / "migrations/0001_first.py").write_text(FIRST)
    (folder / "migrations/0002_second.py").write_text(SECOND)
    monkeypatch.syspath_prepend(tmp_path)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "shop"]
    (folder / "tasks.py").write_text("raise RuntimeError('imported')")  # since start-up: it is only named
    yield folder
    call_command("migrate", "shop", "zero", verbosity=0)
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        del sys.modules[name]


def rows():
    return {row.name: (row.crontab, row.every, row.args, row.kwargs) for row in RepeatingTask.objects.all()}


NIGHTLY = ("0 3 * * *", None, (), {"full": True})
LATER = ("0 5 * * *", None, (), {})
OFTEN = ("", timedelta(seconds=90), (1, "a"), {})


def test_they_apply_reverse_and_apply_again(shop):
    for _ in range(2):
        call_command("migrate", "shop", "0001", verbosity=0)
        assert rows() == {"nightly": NIGHTLY, "often": OFTEN}
        call_command("migrate", "shop", verbosity=0)
        assert rows() == {"nightly": LATER, "often": OFTEN, "weekly": ("0 4 * * *", None, (), {})}
        RepeatingTask.objects.filter(name="weekly").delete()
        call_command("migrate", "shop", "0001", verbosity=0)
        assert rows() == {"nightly": NIGHTLY, "often": OFTEN}
        call_command("migrate", "shop", "zero", verbosity=0)
        assert rows() == {}

    assert "shop.tasks" not in sys.modules


def test_applied_ones_are_planned_and_wait_for_a_worker_that_knows_them(shop):
    call_command("migrate", "shop", "0001", verbosity=0)

    row = RepeatingTask.objects.get(name="nightly")

    assert row.planned
    assert row.next_run.astimezone(row.timetable.zone).hour == 3
    RepeatingTask.objects.update(next_run=schedules.clock())
    assert schedules.fire().decided == 0


def test_squashed_they_are_the_same(shop):
    call_command("squashmigrations", "shop", "0002", "--noinput", verbosity=0)
    squashed = next(Path(shop, "migrations").glob("0001_*squashed*.py"))
    assert "from_state" not in squashed.read_text()
    for name in ("0001_first.py", "0002_second.py"):
        Path(shop, "migrations", name).unlink()
    text = "\n".join(line for line in squashed.read_text().splitlines() if "replaces" not in line)
    squashed.write_text(text)
    for name in [name for name in sys.modules if name.startswith("shop.migrations")]:
        del sys.modules[name]

    call_command("migrate", "shop", verbosity=0)

    assert rows() == {"nightly": LATER, "often": OFTEN}


def test_an_operation_can_be_written():
    operation = RepeatTask(
        "often", "shop.tasks.often", every=MINUTE, jitter=timedelta(seconds=3), args=(1,), coalesce=False
    )
    migration = type("Migration", (Migration,), {"operations": [operation]})("written", "shop")

    text = MigrationWriter(migration, include_header=False).as_string()
    read = {}
    exec(text, read)

    (again,) = read["Migration"].operations
    assert (again.name, again.values) == (operation.name, operation.values)
    assert operation.describe() == "Repeat shop.tasks.often as 'often'"
    assert operation.migration_name_fragment == "repeat_often"


def test_without_the_dependency_it_says_what_is_missing():
    with connection.schema_editor() as editor, pytest.raises(ValueError, match=r"add \('cq', '0001_initial'\)"):
        RepeatTask("x", "a.b", "* * * * *").database_forwards("shop", editor, ProjectState(), ProjectState())


def test_what_a_person_had_made_comes_back():
    mine = RepeatingTask.objects.create(name="x", task="tests.tasks.adds", args=(1,), crontab="0 3 * * *", priority=7)
    state = MigrationExecutor(connection).loader.project_state([("cq", "0001_initial")])
    operation = RepeatTask("x", "a.b", crontab="0 4 * * *")

    with connection.schema_editor() as editor:
        operation.database_forwards("shop", editor, state, state)
        changed = RepeatingTask.objects.get()
        operation.database_backwards("shop", editor, state, state)

    back = RepeatingTask.objects.get()
    assert (changed.pk, changed.task, changed.priority) == (mine.pk, "a.b", None)
    assert (back.pk, back.task, back.args, back.priority, back.crontab) == (mine.pk, mine.task, (1,), 7, "0 3 * * *")
    assert (back.next_run, back.replaced) == (mine.next_run, [])


def test_the_historical_model_is_enough():
    state = MigrationExecutor(connection).loader.project_state([("cq", "0001_initial")])
    model = state.apps.get_model("cq", "RepeatingTask")

    schedule_task(model, "0 3 * * *", "a.b", name="one")
    model.objects.create(name="two", task="tests.tasks.adds", args=(1,), crontab="0 3 * * *")

    assert RepeatingTask.objects.get(name="one").next_run is not None
    schedules.fire()
    assert RepeatingTask.objects.get(name="two").next_run is not None
