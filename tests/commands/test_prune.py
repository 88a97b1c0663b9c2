"""`cq_prune`: whole finished workflows go, and it says what became of each."""

import pytest
from django.core.management.base import CommandError

from cq.models import Task
from cq.states import Status
from cq.testing import drain
from tests import tasks
from tests.rows.make import row

pytestmark = pytest.mark.django_db


def workflow(status=Status.SUCCESS, **columns):
    """Make a root with one subtask."""
    root = row(Status.INCOMPLETE, **columns)
    return root, row(status, workflow=root, parent=root)


def test_the_workflow_of_a_task_is_removed(terminal):
    root, child = workflow()
    other = row(Status.SUCCESS)

    said = terminal("cq_prune", str(child.id)[-12:], "--yes")

    assert said == "Pruned 1 of 1 workflow, 2 tasks.\n"
    assert [task.pk for task in Task.objects.all()] == [other.pk]
    assert root.pk != other.pk


def test_two_tasks_of_one_workflow_mean_it_once(terminal):
    root, child = workflow()

    assert terminal("cq_prune", root.id, child.id, "--yes") == "Pruned 1 of 1 workflow, 2 tasks.\n"


def test_conditions_are_about_the_first_task(terminal):
    _, failed = workflow(Status.FAILURE)
    lone = row(Status.FAILURE)

    assert terminal("cq_prune", "--status", "FAILURE", "--yes") == "Pruned 1 of 1 workflow, 1 task.\n"

    assert Task.objects.filter(pk=failed.pk).exists()
    assert not Task.objects.filter(pk=lone.pk).exists()


def test_conditions_alone_mean_what_has_ended(terminal):
    every = [row(status, queue="mail") for status in Status]

    said = terminal("cq_prune", "--queue", "mail", "--yes")

    assert said == "Pruned 7 of 7 workflows, 7 tasks.\n"
    assert [task.is_done for task in Task.objects.all()] == [False] * 7
    assert len(every) == 14


def test_an_unfinished_workflow_is_refused_and_keeps_no_other(terminal):
    kept, _ = workflow(Status.RUNNING)
    gone, _ = workflow()

    with pytest.raises(CommandError, match=f"{str(kept.id)[-12:]}: 1 of 2 tasks of workflow .* have not ended"):
        terminal("cq_prune", kept.id, gone.id, "--yes")

    assert Task.objects.count() == 2
    assert Task.objects.filter(pk=kept.pk).exists()


def test_a_dry_run_only_shows(terminal, read_json):
    root, _ = workflow()

    assert str(root.id)[-12:] in terminal("cq_prune", root.id, "--dry-run")
    (shown,) = read_json("cq_prune", root.id, "--dry-run")

    assert shown["id"] == str(root.id)
    assert Task.objects.count() == 2


def test_without_a_terminal_it_has_to_be_said(terminal):
    root, _ = workflow()

    with pytest.raises(CommandError, match=r"1 workflow would be changed, and there is no terminal"):
        terminal("cq_prune", root.id)

    assert Task.objects.count() == 2


def test_json_shows_what_was_removed_as_it_was(read_json):
    task = tasks.adds.delay(1, b=2)
    drain()

    (removed,) = read_json("cq_prune", task.id, "--yes")

    assert (removed["id"], removed["result"]) == (str(task.id), 3)
    assert not Task.objects.exists()


def test_none_may_fit(terminal):
    assert terminal("cq_prune", "--queue", "nobody", "--yes") == "No workflows fit.\n"


def test_all_are_never_meant(terminal):
    with pytest.raises(CommandError, match=r"which workflows\? Give ids, or conditions"):
        terminal("cq_prune", "--yes")
