"""Repeating tasks whose ticks are due when a test wants it."""

from datetime import timedelta
from typing import Any

import pytest

from cq import schedules
from cq.models import RepeatingTask, Task

__all__ = ["due"]

MINUTE = timedelta(minutes=1)


@pytest.fixture
def due():
    """Make a repeating task that has been due for so long; the rest as given."""

    def make(late: timedelta = timedelta(0), **fields: Any) -> RepeatingTask:
        given = {"name": "r", "task": "tests.tasks.adds", "args": (1,), "every": MINUTE, "starts_at": None} | fields
        if given["every"] is not None:
            given["starts_at"] = schedules.clock() - late
        row = RepeatingTask.objects.create(**given)
        RepeatingTask.objects.filter(pk=row.pk).update(next_run=row.starts_at or schedules.clock() - late)
        row.refresh_from_db()
        return row

    return make


def ticks(row: RepeatingTask) -> list[Any]:
    """The ticks that have a task, in order."""
    return list(
        Task.objects.filter(schedule_id=row.pk).order_by("scheduled_for").values_list("scheduled_for", flat=True)
    )
