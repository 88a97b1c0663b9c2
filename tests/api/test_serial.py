"""`CQ["SERIAL"]`: tasks run at `delay()`, on the same rows."""

import pytest

from cq.models import Task
from tests import tasks

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def serial(settings):
    settings.CQ = {"SERIAL": True}


def test_a_task_has_ended_when_delay_returns():
    task = tasks.adds.delay(1, b=2)

    assert (task.status, task.result) == (Task.Status.SUCCESS, 3)


def test_subtasks_and_chains_have_run_too():
    task = tasks.hands_on.delay(5)

    assert (task.status, task.result) == (Task.Status.SUCCESS, 16)
    assert set(Task.objects.values_list("status", flat=True)) == {Task.Status.SUCCESS}


def test_what_a_body_delays_runs_after_it():
    task = tasks.returns_delayed_chain.delay(3)

    assert (task.status, task.result) == (Task.Status.SUCCESS, 7)


def test_a_failing_task_is_a_row_not_an_exception():
    task = tasks.raises.delay("no luck")

    assert (task.status, task.error) == (Task.Status.FAILURE, "no luck")
