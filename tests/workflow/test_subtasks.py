"""Parents and subtasks, run in this process."""

import pytest

from cq.models import Task
from cq.testing import drain
from tests import tasks

pytestmark = pytest.mark.django_db


def test_a_task_runs_and_its_result_is_kept():
    task = tasks.adds.delay(1, b=2)

    runs = drain()

    task.refresh_from_db()
    assert (runs, task.status, task.result) == (1, Task.Status.SUCCESS, 3)


def test_a_parent_ends_when_all_its_subtasks_have():
    task = tasks.spawns.delay(5)

    drain()

    task.refresh_from_db()
    assert task.status == Task.Status.SUCCESS
    assert [subtask.result for subtask in task.subtasks.all()] == [1, 2, 3, 4, 5]


def test_a_parent_with_a_failed_subtask_is_incomplete():
    task = tasks.spawns_failing.delay(3)

    drain()

    task.refresh_from_db()
    assert task.status == Task.Status.INCOMPLETE
    assert task.subtasks.filter(status=Task.Status.SUCCESS).count() == 3


def test_a_returned_subtask_chain_gives_the_parent_its_result():
    task = tasks.hands_on.delay(5)

    drain()

    task.refresh_from_db()
    assert (task.status, task.result) == (Task.Status.SUCCESS, 16)


def test_a_returned_delayed_chain_becomes_the_parents_own():
    task = tasks.returns_delayed_chain.delay(3)

    drain()

    task.refresh_from_db()
    assert task.error is None, task.error
    assert (task.status, task.result, task.error) == (Task.Status.SUCCESS, 7, None)
    assert task.subtasks.count() == 2
