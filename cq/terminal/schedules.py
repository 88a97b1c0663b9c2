"""Repeating tasks as the commands and the admin show them: a row, its timetable in words, its last run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery

from cq import database
from cq.cron import BadCrontab, BadZone, doubts
from cq.definition import encode
from cq.models import RepeatingTask, Task
from cq.terminal import masking
from cq.terminal.record import iso


def repeating_tasks() -> QuerySet[RepeatingTask]:
    """Select all, each with the status of its last run."""
    runs = Task.objects.filter(schedule_id=OuterRef("pk")).order_by("-id")
    return RepeatingTask.objects.using(database.alias()).annotate(last_status=Subquery(runs.values("status")[:1]))


def call_of(row: RepeatingTask) -> str:
    """Write what it calls, sensitive values masked."""
    args, kwargs = encode(row.args, row.kwargs)
    return f"{row.task}({masking.as_call(masking.mask_positional(row.task, masking.read(args)), masking.read(kwargs))})"


def when(row: RepeatingTask) -> str:
    """Say when it is due."""
    try:
        words = row.timetable.words
    except (BadCrontab, BadZone, ValueError, LookupError) as error:
        return str(error)
    return words if row.every is not None else f"{words} ({row.timezone})"


def remarks(row: RepeatingTask) -> list[str]:
    """Say what is noteworthy about it: why it does not run, what its crontab may not mean."""
    return [*([row.reason] if row.reason else []), *(doubts(row.crontab) if row.crontab else [])]


def skipped(row: RepeatingTask) -> str:
    """List how many ticks were skipped, by reason."""
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(row.skipped.items()))


def as_json(rows: Sequence[RepeatingTask]) -> list[dict[str, Any]]:
    """Give rows for programs."""
    return [
        {
            "name": row.name,
            "task": row.task,
            "crontab": row.crontab,
            "every_seconds": row.every and row.every.total_seconds(),
            "timezone": row.timezone,
            "enabled": row.enabled,
            "overlap": row.overlap,
            "catch_up": row.catch_up,
            "last_run": iso(row.last_run),
            "last_status": getattr(row, "last_status", None),
            "next_run": iso(row.next_run),
            "skipped": row.skipped,
            "source": row.source,
            "remarks": remarks(row),
        }
        for row in rows
    ]
