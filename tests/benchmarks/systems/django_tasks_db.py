"""django-tasks-db: Django's own tasks in the database, polled every 20 ms."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from django_tasks_db.compat import TaskResultStatus
from django_tasks_db.models import DBTaskResult

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System

if find_spec("django.tasks"):
    from django.tasks import task
else:
    from django_tasks import task  # Django 5.2


@task
def noop(number: int) -> int:
    """Leave a record."""
    return bodies.noop(number)


@task
def row(number: int) -> int:
    """Write a row."""
    return bodies.row(number)


class DjangoTasksDB(System):
    """`db_worker`, one process after another."""

    stores_later = True
    tasks = {"noop": noop, "row": row}

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        options = ["--interval", "0.02", "--no-startup-delay", "--verbosity", "0"]
        return [[PYTHON, "-m", "django", "db_worker", *options]] * processes

    def enqueue(self, body: str, number: int) -> None:
        self.tasks[body].enqueue(number)

    def has_stored(self, count: int) -> bool:
        return int(DBTaskResult.objects.filter(status=TaskResultStatus.SUCCESSFUL).count()) >= count

    def submit_and_wait(self, number: int) -> Any:
        result = noop.enqueue(number)
        while not result.is_finished:
            time.sleep(0.005)
            result.refresh()
        return result.return_value


system = DjangoTasksDB()
