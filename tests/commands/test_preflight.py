"""`cq_preflight`: does what is stored fit the code of today?"""

import enum
import json
from io import StringIO

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.models import F, Func, Value

from cq import preflight
from cq.models import Errorback, RepeatingTask, Task
from cq.preflight import stored_calls
from cq.states import Status
from tests import tasks
from tests.rows import make
from tests.rows.make import row, rows

pytestmark = pytest.mark.django_db

YET_TO_RUN = {Status.PENDING, Status.SCHEDULED, Status.QUEUED, Status.SUSPENDED, Status.RETRY}


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def fails(monkeypatch):
    """Run it; it exits with 1. Return what it says on its way, and why."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        out = StringIO()
        with pytest.raises(CommandError) as error:
            call_command("cq_preflight", *arguments, stdout=out)
        return out.getvalue(), str(error.value)

    return run


def only_problem():
    (problem,) = preflight.preflight().problems
    return problem.what


def test_what_fits_is_fine(terminal, read_json):
    assert terminal("cq_preflight") == "There are no stored calls whose bodies have yet to run.\n"
    first = tasks.adds.delay(1)
    assert terminal("cq_preflight") == "The one stored call fits today's code.\n"
    first.chain(tasks.sums, (1,))
    tasks.echoes.delay(Colour.RED, group=Group.objects.create(name="g"))

    assert terminal("cq_preflight") == "All 3 stored calls fit today's code.\n"
    assert read_json("cq_preflight") == {"calls": 3, "failed": 0, "problems": []}


@pytest.mark.parametrize("status", Status)
def test_bodies_that_have_yet_to_run_are_looked_at(status):
    row(status, name="gone")

    assert preflight.preflight().failed == (status in YET_TO_RUN)


def test_a_name_that_is_gone_is_said_with_how_many_and_which(fails):
    made = rows(5, name="shop.tasks.gone")
    row(name="shop.tasks.other")

    said, why = fails()

    first, note = said.splitlines()[1:3]
    assert first.split()[:2] == ["shop.tasks.gone", "5"]
    assert str(sorted(task.id for task in made)[0])[-12:] in first
    assert note.startswith("  No task function of this name is registered.")
    assert why == "6 of 6 stored calls do not fit today's code."


def test_json_names_every_problem(fails):
    (made,) = rows(1, name="shop.tasks.gone")
    row()

    said, why = fails("--json")

    (problem,) = json.loads(said)["problems"]
    assert (problem["name"], problem["count"], problem["examples"]) == ("shop.tasks.gone", 1, [str(made.id)])
    assert why == "1 of 2 stored calls does not fit today's code."


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"args": (1, 2, 3)}, r"tests.tasks.adds(a, b=0): too many positional arguments"),
        ({"args": ()}, "missing a required argument: 'a'"),
        ({"kwargs": {"c": 1}}, "unexpected keyword argument 'c'"),
        ({"args": (1, 2), "pass_result": True}, "too many positional arguments"),
    ],
)
def test_a_changed_signature_is_shown(columns, what):
    row(**columns)

    assert what in only_problem()


def test_the_result_of_a_predecessor_counts_as_an_argument():
    row(args=(1,), pass_result=True)
    row(args=(), pass_result=True)

    assert preflight.preflight().problems == []


def test_what_is_held_back_may_still_be_given_arguments():
    tasks.sums.using(submit=False).delay(1)

    assert preflight.preflight().problems == []


def test_a_queue_that_is_gone_is_said(settings):
    tasks.adds.using(queue="old").delay(1)
    settings.CQ = {"QUEUES": {"default": {}, "mail": {}}}

    assert only_problem() == "CQ['QUEUES'] has no queue 'old'; it has default, mail."


def test_a_model_that_is_gone_is_said_however_deep_it_lies():
    tasks.echoes.delay([{"a": (Group.objects.create(name="g"),)}])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE cq_task SET args = replace(args::text, 'auth.group', 'auth.gone')::jsonb")

    assert only_problem() == "There is no model 'auth.gone' any more. Was it removed or renamed?"


def test_an_enum_that_is_gone_is_said():
    tasks.echoes.delay(x=Colour.RED)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE cq_task SET kwargs = replace(kwargs::text, 'Colour', 'Color')::jsonb")

    assert "Color is not among the imported modules. Was it moved?" in only_problem()


def test_arguments_that_are_no_list_are_a_problem_and_no_end():
    make.many(1, Status.QUEUED)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE cq_task SET args = '5'")

    assert preflight.preflight().failed == 1


def test_errorbacks_of_what_may_still_fail_are_looked_at_with_the_arguments_that_come_in_front():
    watched = tasks.adds.delay(1)
    watched.errorback(tasks.sums)  # the id of the task and the text of its error
    watched.errorback(tasks.adds)
    over = row(Status.SUCCESS)
    over.errorback(tasks.adds)
    Errorback.objects.filter(spec__name=tasks.adds.name).update(
        spec=Func(
            F("spec"),
            Value("{args}"),
            Value("[1, 2]"),
            function="jsonb_set",
            template="%(function)s(%(expressions)s::jsonb)",
        )
    )

    found = preflight.preflight()

    (problem,) = found.problems
    assert (found.calls, found.failed, problem.name, problem.examples) == (3, 1, tasks.adds.name, [watched.id])
    assert problem.what.startswith("As an errorback: tests.tasks.adds(a, b=0): too many positional arguments")


def test_an_errorback_whose_function_is_gone_is_said(fails):
    tasks.adds.delay(1).errorback(tasks.echoes)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE cq_errorback SET spec = jsonb_set(spec, '{name}', '\"gone\"')")

    said, why = fails()

    assert "gone" in said
    assert "As an errorback: No task function of this name is registered." in " ".join(said.split())
    assert why == "1 of 2 stored calls does not fit today's code."


def test_compensations_of_what_may_still_be_undone_are_looked_at():
    above = row(Status.WAITING, name="tests.tasks.adds")
    done = row(Status.SUCCESS, parent=above, compensate={"name": "tests.tasks.doubles", "queue": "default"})
    running = row(Status.RUNNING, parent=above, compensate={"name": "tests.tasks.adds", "queue": "default"})
    undone = row(Status.INCOMPLETE, compensated=True)
    failed = row(Status.FAILURE, parent=above, compensate={"name": "gone"})
    kept = row(Status.SUCCESS, parent=row(Status.SUCCESS), compensate={"name": "gone"})
    row(Status.SUCCESS, parent=undone, compensate={"name": "gone"})

    found = preflight.preflight()

    (problem,) = found.problems
    assert (found.calls, problem.name, problem.examples) == (2, "tests.tasks.doubles", [done.id])
    assert problem.what.startswith("As a compensation: tests.tasks.doubles(n): too many positional arguments")
    assert {running.id, failed.id, kept.id}.isdisjoint(problem.examples)


def test_it_goes_page_by_page(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(preflight, "_PAGE", 10)
    make.many(25, Status.QUEUED)

    with django_assert_num_queries(4):
        ids = [call.id for call in stored_calls()]

    assert ids == [*Task.objects.order_by("id").values_list("id", flat=True)]
    assert preflight.preflight().calls == 25


def test_errorbacks_and_compensations_go_page_by_page_too(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(preflight, "_PAGE", 10)
    above = row(Status.WAITING)
    make.many(25, Status.RETRY, parent_id=above.id)
    ids = []
    for one in above.subtasks.order_by("id"):
        ids.append(one.errorback(tasks.echoes).id)
    Task.objects.filter(parent=above).update(compensate={"name": tasks.adds.name, "queue": "default"})

    for calls in (preflight.errorbacks, preflight.compensations):
        with django_assert_num_queries(4):
            assert [call.id for call in calls()] == ids
    assert preflight.preflight().calls == 75


def test_more_kinds_of_problems_than_anybody_reads_are_one(monkeypatch):
    monkeypatch.setattr(preflight, "_MOST_KINDS", 3)
    for number in range(5):
        row(name=f"gone.{number}")

    problems = preflight.preflight().problems

    assert [(problem.name, problem.count) for problem in problems] == [
        ("…", 2),
        ("gone.0", 1),
        ("gone.1", 1),
        ("gone.2", 1),
    ]


def test_what_repeating_tasks_call_is_looked_at_too():
    for name in ("fits", "misfits", "paused"):
        RepeatingTask.objects.create(name=name, task="tests.tasks.adds", args=(1,), crontab="0 3 * * *")
    RepeatingTask.objects.filter(name="paused").update(task="nobody.knows", enabled=False)
    RepeatingTask.objects.filter(name="misfits").update(args=(1, 2, 3))

    found = preflight.preflight()

    (problem,) = found.problems
    assert (found.calls, found.failed, problem.name) == (2, 1, "tests.tasks.adds")
    assert problem.what.startswith("Repeating task 'misfits': tests.tasks.adds(a, b=0): too many positional arguments")


def test_a_queue_that_is_gone_is_missed_by_repeating_tasks_too(settings):
    RepeatingTask.objects.create(name="bulk", task="tests.tasks.adds", args=(1,), crontab="0 3 * * *", queue="bulk")
    RepeatingTask.objects.create(name="own", task="tests.tasks.adds", args=(1,), crontab="0 3 * * *")
    settings.CQ = {"QUEUES": {"default": {}}}

    assert [problem.what for problem in preflight.preflight().problems] == [
        "Repeating task 'bulk': CQ['QUEUES'] has no queue 'bulk'; it has default."
    ]
