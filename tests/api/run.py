"""What these tests do again and again."""

from typing import Any

from django.db.models.functions import Now

from cq.models import Task
from cq.testing import drain


def ended(task: Task) -> Task:
    """Run what is ready, here, and return the task as it is then."""
    drain()
    task.refresh_from_db()
    return task


def ended_in_time(task: Task) -> Task:
    """Run what is ready, and what is due later as if it were now; return the task as it is then."""
    while drain() or Task.objects.filter(status__in=["SCHEDULED", "RETRY"]).exists():
        Task.objects.filter(status__in=["SCHEDULED", "RETRY"]).update(run_after=Now())
    task.refresh_from_db()
    return task


def states(*tasks: Task) -> list[Any]:
    """Read several tasks' statuses."""
    found = dict(Task.objects.filter(pk__in=[task.pk for task in tasks]).values_list("pk", "status"))
    return [found.get(task.pk) for task in tasks]
