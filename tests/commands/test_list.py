"""`cq_list`: a table of tasks."""

import json
from datetime import timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F

from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.commands.test_text import HOSTILE

pytestmark = pytest.mark.django_db

FIELDS = """
    id name status is_done queue priority args kwargs created created_by subject result error exception traceback reason
    attempt parent previous root created_at run_after started_at finished_at
"""


@pytest.fixture
def listed(read_json):
    """Give the ids that `cq_list` lists."""
    return lambda *arguments: [UUID(task["id"]) for task in read_json("cq_list", *arguments)]


def test_an_empty_database_has_no_tasks(terminal, read_json):
    assert terminal("cq_list") == "There are no tasks.\n"
    assert read_json("cq_list") == []


def test_the_newest_task_comes_first(terminal, listed):
    first, second = tasks.adds.delay(1), tasks.adds.delay(2)

    lines = terminal("cq_list").splitlines()

    assert lines[0].split() == ["ID", "STATUS", "NAME", "QUEUE", "#", "AGE"]
    assert [line.split()[:4] for line in lines[1:]] == [
        [str(task.id)[-12:], "QUEUED", "tests.tasks.adds", "default"] for task in (second, first)
    ]
    assert listed() == [second.id, first.id]


def test_a_failed_task_shows_its_error_on_one_line(terminal):
    tasks.raises.delay("line one\nline two " + "and on " * 100)
    drain()

    row, error = terminal("cq_list").splitlines()[1:]

    assert "FAILURE" in row
    assert error.startswith("  ValueError: line one line two and on")
    assert error.endswith("…")


def test_a_task_that_never_ran_shows_the_reason(terminal):
    tasks.raises.delay().chain(tasks.adds, (1, 2))
    drain()

    assert "Its predecessor did not succeed." in terminal("cq_list", "--status", "SKIPPED")


def test_conditions_of_a_kind_add_up_and_kinds_combine(listed):
    failed, fine = tasks.raises.delay(), tasks.adds.delay(1)
    drain()
    mail, doubled = tasks.sums.using(queue="mail").delay(1, 2), tasks.doubles.delay(2)

    assert listed("--status", "failure", "--status", "SUCCESS") == [fine.id, failed.id]
    assert listed("--name", "tests.tasks.adds", "--name", "*.d[aeo]ubles") == [doubled.id, fine.id]
    assert listed("--queue", "mail") == [mail.id]
    assert listed("--queue", "mail", "--status", "SUCCESS") == []
    assert listed(fine.id, mail.id, "--queue", "default") == [fine.id]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", True),
        ("tests.*", True),
        ("tests?tasks.adds", True),
        ("tests.tasks.[a-c]dds", True),
        ("tests.tasks.[!a]dds", False),
        ("tests.tasks.[]a]dds", True),
        ("tests.tasks.adds[", False),
        ("testsXtasks.*", False),
        ("tests.tasks", False),
        ("TESTS.*", False),
        ("*.+adds", False),
        ("*[\\]", False),
    ],
)
def test_names_are_fnmatch_patterns(listed, pattern, fits):
    tasks.adds.delay(1)

    assert bool(listed("--name", pattern)) is fits


@pytest.mark.parametrize(
    ("age", "fits"), [("90m", True), ("1.5h", True), ("7000S", True), ("3h", False), ("1d", False)]
)
def test_older_than_takes_seconds_minutes_hours_and_days(listed, age, fits):
    tasks.adds.delay(1)
    Task.objects.update(created_at=F("created_at") - timedelta(hours=2))
    young = tasks.adds.delay(2)

    found = listed("--older-than", age)

    assert young.id not in found
    assert bool(found) is fits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "BROKEN"], "--status 'BROKEN' is no status. There are PENDING, SCHEDULED, QUEUED"),
        (["--older-than", "2 weeks"], "--older-than '2 weeks' is no age. Expected a number and one of s, m, h, d"),
        (["--older-than", "999999999d"], "is no age. Expected a number and one of s, m, h, d"),
        (["--limit", "0"], "--limit '0' is no limit. Expected a whole number from 1"),
        (["--limit", "many"], "--limit 'many' is no limit"),
        (["--name", "a[z-a]"], "'a[z-a]' is no pattern: a range in it goes downwards"),
        (["xyz"], "'xyz' is no id. Expected a UUID, or at least 8 of the hexadecimal digits"),
        (["0199aa"], "'0199aa' is no id"),
        (["deadbeef"], "No task 'deadbeef' is stored."),
        (["01990000-0000-7000-8000-000000000000"], "is stored. It was removed after its time, or never committed."),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_is_allowed(arguments, message):
    with pytest.raises(CommandError) as error:
        call_command("cq_list", *arguments)

    assert message in str(error.value)


def test_a_limit_shows_the_newest_and_says_that_there_are_more(terminal, listed):
    made = tasks.adds.delay_many([(i,) for i in range(60)])

    assert listed() == [task.id for task in made[::-1]][:50]
    assert listed("--limit", "2") == [made[-1].id, made[-2].id]
    assert "These are the newest 50; there are more (--limit)." in terminal("cq_list")
    assert "there are more" not in terminal("cq_list", "--limit", "60")
    assert len(listed(*(task.id for task in made))) == 60


def test_a_task_is_found_by_the_beginning_or_the_end_of_its_id(listed):
    wanted, _ = tasks.adds.delay(1), tasks.adds.delay(2)
    text = str(wanted.id)

    assert listed(text) == listed(text.upper()) == listed(wanted.id.hex) == [wanted.id]
    assert listed(text[-12:]) == listed(text[-8:]) == listed(text[-17:]) == listed(wanted.id.hex[-20:]) == [wanted.id]
    assert listed(text[:35]) == [wanted.id]


def test_an_ambiguous_id_names_those_it_fits():
    made = tasks.adds.delay_many([(i,) for i in range(3)])

    with pytest.raises(CommandError) as error:
        call_command("cq_list", str(made[0].id)[:8])

    assert "fits more than one task" in str(error.value)
    assert all(f"{task.id}  QUEUED  tests.tasks.adds" in str(error.value) for task in made)


def test_json_has_the_fields_of_the_contract(read_json, django_user_model):
    user = django_user_model.objects.create(username="bob")
    parent = tasks.spawns.using(created_by=user, priority=5).delay(1)
    parent.chain(tasks.raises, ("broken",))
    drain()

    failed, subtask, top = (task for task in read_json("cq_list"))
    if failed["name"] != "tests.tasks.raises":
        failed, subtask = subtask, failed

    assert list(top) == FIELDS.split()
    assert (top["created_by"], top["priority"], top["args"], top["result"], top["is_done"]) == (
        f"auth.user:{user.id}",
        5,
        [1],
        1,
        True,
    )
    assert (subtask["parent"], subtask["root"], subtask["previous"]) == (str(parent.id), str(parent.id), None)
    assert (failed["previous"], failed["error"], failed["exception"]) == (
        str(parent.id),
        "broken",
        "builtins.ValueError",
    )
    assert top["created_at"] == Task.objects.get(id=parent.id).created_at.isoformat()


def test_hostile_text_does_not_write_to_the_terminal(terminal, read_json):
    task = tasks.raises.delay("x" + HOSTILE.replace("\0", ""))
    drain()
    Task.objects.filter(id=task.id).update(name=HOSTILE.replace("\0", ""), queue="\x1b[2J")

    assert "\\x1b[31mred" in terminal("cq_list")
    assert "\\x1b]0;title\\x07" in terminal("cq_show", task.id, fits=False)
    assert read_json("cq_list")[0]["queue"] == "\x1b[2J"


@pytest.mark.parametrize(
    "stored",
    [
        '[{"$cq": ["wat", 1]}]',
        '[{"$cq": ["decimal", "NoNumber"]}]',
        '{"no": "list"}',
        "7",
        f"[{'9' * 5000}]",
        '["\\u202e"]',
    ],
)
@pytest.mark.parametrize("column", ["args", "kwargs", "result"])
def test_a_row_that_cannot_be_decoded_is_shown(terminal, read_json, stored, column):
    task, other = tasks.adds.delay(1), tasks.adds.delay(2)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE cq_task SET {column} = %s::jsonb, created_by = 'no.model:x' WHERE id = %s", [stored, task.id]
        )

    assert str(other.id)[-12:] in terminal("cq_list")
    assert "tests.tasks.adds  QUEUED" in terminal("cq_show", task.id)
    assert {row["id"] for row in read_json("cq_list")} == {str(task.id), str(other.id)}
    assert read_json("cq_show", task.id)[0]["created_by"] == "no.model:x"


@pytest.mark.parametrize("argument", ["漢字" * 100, "e\u0301" * 300, "🙂" * 100])
def test_wide_letters_fit(terminal, argument):
    task = tasks.raises.delay(argument)
    drain()
    Task.objects.filter(id=task.id).update(name=argument[:200])

    terminal("cq_list")
    terminal("cq_show", task.id, fits=False)


def test_colours_come_only_when_forced_or_on_a_terminal(monkeypatch):
    class Screen(StringIO):
        def isatty(self):
            return True

    def run(out, **options):
        call_command("cq_list", stdout=out, **options)
        return "\x1b[" in out.getvalue()

    tasks.raises.delay()
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)

    assert run(Screen())
    assert not run(StringIO())
    assert run(StringIO(), force_color=True)
    assert not run(Screen(), no_color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not run(Screen())


def test_what_the_terminal_cannot_write_is_escaped():
    class Old(StringIO):
        encoding = "ascii"

    parent = tasks.spawns.delay(1)
    tasks.raises.delay("漢")
    drain()
    out = Old()

    call_command("cq_list", stdout=out)
    call_command("cq_show", str(parent.id), stdout=out)

    assert out.getvalue().isascii()
    assert "\\u6f22" in out.getvalue()


def test_a_wide_terminal_shows_whole_ids(terminal, monkeypatch):
    task = tasks.adds.delay(1)
    monkeypatch.setenv("COLUMNS", "160")

    assert str(task.id) in terminal("cq_list", fits=False)


def test_many_tasks_take_one_statement(django_assert_num_queries):
    tasks.adds.delay_many([(i,) for i in range(30)])

    with django_assert_num_queries(1):
        call_command("cq_list", "--json", stdout=(out := StringIO()))

    assert len(json.loads(out.getvalue())) == 30
