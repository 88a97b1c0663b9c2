"""What PostgreSQL itself refuses, whoever writes it."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from cq import states
from cq.models import PastAttempt, Task
from cq.states import Status
from tests.rows.make import row

pytestmark = pytest.mark.django_db


def refused(task: Task, **columns: Any) -> str:
    """Write past the engine; return the name of the constraint that refused it."""
    with pytest.raises(IntegrityError) as error, transaction.atomic():
        Task.objects.filter(pk=task.pk).update(**columns)
    return str(error.value.__cause__.diag.constraint_name)  # type: ignore[union-attr]


@pytest.mark.parametrize("status", sorted(states.TERMINAL))
def test_what_has_ended_has_an_end(status: Status) -> None:
    assert refused(row(status), finished_at=None) == "cq_task_status"
    assert refused(row(Status.QUEUED), status=status) == "cq_task_status"


@pytest.mark.parametrize("status", sorted(states.UNFINISHED))
def test_what_has_not_ended_has_no_end(status: Status) -> None:
    assert refused(row(status), finished_at=Now()) == "cq_task_status"


def test_only_what_runs_has_a_process() -> None:
    assert refused(row(Status.QUEUED), process=uuid4()) == "cq_task_status"
    assert refused(row(Status.SUCCESS), process=uuid4()) == "cq_task_status"
    assert refused(row(Status.RUNNING), process=None) == "cq_task_status"
    assert refused(row(Status.RUNNING), status=Status.QUEUED) == "cq_task_status"


@pytest.mark.parametrize("status", sorted(states.UNFINISHED - {Status.SUSPENDED}))
def test_what_has_not_ended_runs_some_time_unless_it_waits_for_an_event(status: Status) -> None:
    assert refused(row(status), run_after=None) == "cq_task_status"
    Task.objects.filter(pk=row(Status.SUSPENDED).pk).update(run_after=None)


@pytest.mark.parametrize("status", ["queued", "DONE", ""])
def test_a_status_that_is_none_is_refused(status: str) -> None:
    assert refused(row(), status=status) == "cq_task_status"


def test_a_unique_key_belongs_to_one_unfinished_task() -> None:
    row(Status.WAITING, unique_key="k")
    row(Status.SUCCESS, unique_key="k")

    assert refused(row(), unique_key="k") == "cq_task_unique"


def test_a_tick_makes_one_task() -> None:
    tick = "2026-01-01T00:00:00Z"
    row(Status.SUCCESS, schedule_id=1, scheduled_for=tick)

    assert refused(row(), schedule_id=1, scheduled_for=tick) == "cq_task_tick"
    row(schedule_id=2, scheduled_for=tick)


def test_an_attempt_is_kept_once() -> None:
    task = row()
    PastAttempt.objects.create(task=task, number=1, outcome="error")

    with pytest.raises(IntegrityError, match="cq_pastattempt_once"), transaction.atomic():
        PastAttempt.objects.create(task=task, number=1, outcome="error")


@pytest.mark.parametrize("column", ["parent", "previous"])
def test_a_task_that_others_refer_to_cannot_be_deleted_alone(column: str) -> None:
    task = row(Status.SUCCESS)
    row(**{column: task})

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM cq_task WHERE id = %s", [task.pk])
        with pytest.raises(IntegrityError, match="foreign key"), transaction.atomic():
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    transaction.set_rollback(True)


@pytest.mark.parametrize("column", ["process", "workflow", "result_of"])
def test_other_references_are_not_enforced(column: str) -> None:
    status = Status.RUNNING if column == "process" else Status.QUEUED
    task = row(status)

    Task.objects.filter(pk=task.pk).update(**{column: uuid4()})

    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
