"""`@repeat`: repeating tasks that the code owns. After each migrate their rows are made what the code says.

A row that the code no longer declares is disabled, and says so; its history stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, transaction

from cq import database
from cq.exceptions import InvalidOption
from cq.function import TaskFunction
from cq.models import RepeatingTask
from cq.models.repeating import SPECIFIED, tidy, upsert, wrong_call, wrong_timetable

logger = logging.getLogger("cq.schedules")

CODE, REMOVED = "code", "removed"
_REMOVED = "The code no longer declares it: there is no @repeat of this name."
_DECLARED: dict[str, tuple[str, Mapping[str, Any]]] = {}


def repeat(
    crontab: str | None = None,
    *,
    name: str | None = None,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[TaskFunction], TaskFunction]:
    """Repeat a task function: `@repeat(crontab="*/5 * * * *")` above `@task`.

    `name` defaults to the task's; the options are the fields of `RepeatingTask` (`every`, `timezone`, `overlap` …). The row is stored
    by the next `migrate`, and is changed in the code only. `InvalidOption` names what is wrong.
    """

    def declare(func: TaskFunction) -> TaskFunction:
        if not isinstance(func, TaskFunction):
            raise InvalidOption(f"{func!r} is not a task function. Write @repeat(…) above @task.")
        called = name or func.name
        values = {"crontab": crontab or "", "task": func.name, "args": args, "kwargs": dict(kwargs or {}), **options}
        _check(called, func.name, values)
        _DECLARED[called] = (func.name, values)
        return func

    return declare


def _check(name: str, task: str, values: Mapping[str, Any]) -> None:
    if unknown := values.keys() - SPECIFIED - {"coalesce"} | (values.keys() & {"enabled"}):
        known = ", ".join(sorted((SPECIFIED - {"enabled", "task"}) | {"name"}))
        raise InvalidOption(f"{sorted(unknown)[0]}= is not an option of @repeat; there are {known}.")
    if name in _DECLARED and _DECLARED[name] != (task, values):
        raise InvalidOption(f"Two @repeat are named {name!r}. Give one of them another name: @repeat(…, name=…).")
    row = RepeatingTask(name=name, **values)
    try:
        tidy(row)
    except ValidationError as error:
        raise InvalidOption(f"@repeat of {task}: {error}") from None
    for field, wrong in {**wrong_timetable(row), **wrong_call(row, must_know=False)}.items():
        raise InvalidOption(f"@repeat of {task}: {field}: {wrong}")


def declared() -> Mapping[str, str]:
    """Return the crontabs that the code declares, by name; empty for an interval."""
    return {name: str(values["crontab"]) for name, (_, values) in _DECLARED.items()}


def sync(using: str) -> None:
    """Make the rows what the code says: all of them or none."""
    if using != database.alias() or RepeatingTask._meta.db_table not in connections[using].introspection.table_names():
        return
    with transaction.atomic(using=using):
        for name, (_, values) in _DECLARED.items():
            _sync_one(name, values, using)
        gone = RepeatingTask.objects.using(using).filter(source=CODE).exclude(name__in=_DECLARED)
        for name in gone.values_list("name", flat=True):
            logger.warning("repeating task disabled, the code no longer declares it name=%r", name)
        gone.update(enabled=False, next_run=None, buffered=None, source=REMOVED, reason=_REMOVED)


def _sync_one(name: str, values: Mapping[str, Any], using: str) -> None:
    """Store one; it stays paused if somebody has paused it, and not if only its declaration was away."""
    known = RepeatingTask.objects.using(using).filter(name=name).first()
    enabled = known is None or known.enabled or known.source == REMOVED
    row = upsert(RepeatingTask, name, {**values, "enabled": enabled, "source": CODE}, using=using)
    if known is not None and known.source == REMOVED:
        RepeatingTask.objects.using(using).filter(pk=row.pk).update(reason=None)


__all__ = ["declared", "repeat", "sync"]
