"""`@repeat`: the code owns the rows; each migrate makes them what it says."""

import pytest
from django.core import checks
from django.core.management import call_command
from django.db import connection

from cq import repeat, schedules
from cq.declared import _DECLARED, declared, sync
from cq.exceptions import InvalidOption
from cq.models import RepeatingTask
from tests import tasks
from tests.schedules.conftest import MINUTE

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    """Begin and end with what the code of the project declares."""
    before = dict(_DECLARED)
    _DECLARED.clear()
    yield
    _DECLARED.clear()
    _DECLARED.update(before)


def only() -> RepeatingTask:
    return RepeatingTask.objects.get()


def test_it_gives_the_function_back_and_stores_nothing_yet():
    assert repeat(crontab="*/5 * * * *", args=(1,))(tasks.adds) is tasks.adds
    assert declared() == {"tests.tasks.adds": "*/5 * * * *"}
    assert not RepeatingTask.objects.exists()


def test_a_migrate_stores_it():
    repeat("*/5 * * * *", args=(1,), timezone="Europe/Berlin", overlap="allow", jitter=3)(tasks.adds)

    call_command("migrate", verbosity=0)

    row = only()
    assert (row.name, row.task, row.crontab, row.args) == ("tests.tasks.adds", "tests.tasks.adds", "*/5 * * * *", (1,))
    assert (row.source, row.enabled, row.timezone, row.overlap) == ("code", True, "Europe/Berlin", "allow")
    assert row.next_run > schedules.clock()


def test_a_change_in_the_code_is_one_of_the_row():
    repeat("*/5 * * * *", args=(1,))(tasks.adds)
    sync("default")
    _DECLARED.clear()
    repeat(every=MINUTE, args=(2,))(tasks.adds)

    sync("default")

    assert (only().crontab, only().every, only().args) == ("", MINUTE, (2,))


def test_what_was_paused_by_hand_stays_paused():
    repeat("*/5 * * * *", args=(1,))(tasks.adds)
    sync("default")
    only().pause()

    sync("default")

    assert not only().enabled


def test_what_the_code_no_longer_declares_is_disabled_and_says_so():
    repeat("*/5 * * * *", args=(1,))(tasks.adds)
    sync("default")
    _DECLARED.clear()

    sync("default")

    assert (only().enabled, only().source, only().next_run) == (False, "removed", None)
    assert only().reason == "The code no longer declares it: there is no @repeat of this name."
    repeat("*/5 * * * *", args=(1,))(tasks.adds)
    sync("default")
    assert (only().enabled, only().source, only().reason) == (True, "code", None)
    assert only().next_run > schedules.clock()


def test_rows_of_people_are_left_alone():
    row = RepeatingTask.objects.create(name="mine", task="tests.tasks.adds", args=(1,), every=MINUTE)

    sync("default")

    row.refresh_from_db()
    assert (row.enabled, row.source) == (True, "")


def test_one_function_may_repeat_under_several_names():
    repeat("0 3 * * *", name="early", args=(1,))(repeat("0 15 * * *", name="late", args=(2,))(tasks.adds))

    sync("default")

    assert set(RepeatingTask.objects.values_list("name", "crontab")) == {("early", "0 3 * * *"), ("late", "0 15 * * *")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crontab": "99 * * * *"}, "crontab: .*out of range"),
        ({}, "either a crontab or an interval"),
        ({"every": 0.1}, "every: .*from one second"),
        ({"crontab": "* * * * *", "timezone": "Mars"}, "timezone: .*not a time zone"),
        ({"crontab": "* * * * *", "args": (1, 2, 3)}, "args: .*too many"),
        ({"crontab": "* * * * *", "overlap": "never"}, "not a valid choice"),
        ({"crontab": "* * * * *", "minutes": 5}, "minutes= is not an option of @repeat; there are args, "),
        ({"crontab": "* * * * *", "enabled": False}, "enabled= is not an option"),
        ({"crontab": "* * * * *", "queue": "a b"}, "queue: "),
    ],
)
def test_what_is_wrong_is_said_at_import(options, said):
    with pytest.raises(InvalidOption, match=said):
        repeat(**{"args": (1,), **options})(tasks.adds)

    assert declared() == {}


def test_a_name_is_given_once():
    repeat("0 3 * * *", args=(1,))(tasks.adds)
    repeat("0 3 * * *", args=(1,))(tasks.adds)  # its module is loaded anew

    with pytest.raises(InvalidOption, match="Give one of them another name"):
        repeat("0 4 * * *", args=(1,))(tasks.adds)


def test_it_stands_above_task():
    def plain(cqt):
        pass

    with pytest.raises(InvalidOption, match="Write @repeat"):
        repeat("* * * * *")(plain)


def test_other_databases_and_missing_tables_are_left_alone():
    repeat("0 3 * * *", args=(1,))(tasks.adds)

    sync("other")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE cq_repeatingtask RENAME TO gone")
    sync("default")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE gone RENAME TO cq_repeatingtask")

    assert not RepeatingTask.objects.exists()


def test_modules_that_only_workers_import_are_declared_too(settings, tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text(
        "from cq import repeat, task\n@repeat('0 3 * * *')\n@task('late.one')\ndef one(cqt): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.CQ = {"TASK_MODULES": ["late_module"]}

    call_command("migrate", verbosity=0)

    assert only().name == "late.one"


def test_a_crontab_that_may_not_mean_what_it_seems_to_is_warned_about():
    RepeatingTask.objects.create(name="row", task="tests.tasks.adds", args=(1,), crontab="0 0 * * 6/1")
    repeat("59/15 * * * *", name="code", args=(1,))(tasks.adds)
    sync("default")

    declared_only = [message.msg for message in checks.run_checks(tags=["cq"]) if message.id == "cq.W010"]
    stored = [
        message.msg
        for message in checks.run_checks(tags=["database"], databases=["default"])
        if message.id == "cq.W010"
    ]

    assert [msg.partition(":")[0] for msg in declared_only] == [
        "The crontab of the repeating task 'code' is '59/15 * * * *'"
    ]
    assert [msg.partition(":")[0] for msg in stored] == ["The crontab of the repeating task 'row' is '0 0 * * 6/1'"]


def test_stored_crontabs_are_read_only_where_there_may_be_some():
    assert [message for message in checks.run_checks(tags=["database"], databases=[]) if message.id == "cq.W010"] == []
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE cq_repeatingtask RENAME TO gone")
    assert [
        message for message in checks.run_checks(tags=["database"], databases=["default"]) if message.id == "cq.W010"
    ] == []
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE gone RENAME TO cq_repeatingtask")
