"""What a task has behind it as the commands show it: its steps, sleeps and waits, and the events that it was sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import TextField
from django.db.models.functions import Cast

from cq import database
from cq.models import Event, Step
from cq.moments import duration, instant
from cq.terminal import masking
from cq.terminal.table import Cell, Column, Row

STEP_COLUMNS = (
    Column("STEP", gives_way=True),
    Column("KIND"),
    Column("STARTED"),
    Column("TOOK", right=True),
)
EVENT_COLUMNS = (Column("EVENT", gives_way=True), Column("OUTCOME"), Column("SENT"), Column("BY", gives_way=True))


def steps_of(task_id: UUID) -> list[dict[str, Any]]:
    """Read a task's steps in order; results masked."""
    stored = Step.objects.using(database.alias()).filter(task=task_id).annotate(text=Cast("result", TextField()))
    columns = ("kind", "name", "attempt", "started_at", "ended_at", "until", "permission", "text")
    return [{**row, "result": masking.read(row.pop("text"))} for row in stored.values(*columns)]


def events_of(task_id: UUID) -> list[dict[str, Any]]:
    """Read a task's events in order; payloads masked."""
    stored = Event.objects.using(database.alias()).filter(task=task_id).annotate(text=Cast("payload", TextField()))
    columns = ("name", "outcome", "by", "comment", "permission", "reason", "created_at", "text")
    return [{**row, "payload": masking.read(row.pop("text"))} for row in stored.values(*columns)]


def step_rows(steps: Sequence[dict[str, Any]], now: datetime) -> list[Row]:
    """Make a line of each."""
    return [
        Row(
            (
                Cell(step["name"]),
                Cell(step["kind"]),
                Cell(instant(step["started_at"])),
                Cell(duration(ended - step["started_at"]) if (ended := _end(step, now)) else ""),
            ),
            [Cell(waits, "", "   ")] if (waits := _waits(step, now)) else [],
        )
        for step in steps
    ]


def event_rows(events: Sequence[dict[str, Any]]) -> list[Row]:
    """Make a line of each, and below it what was said about it."""
    return [
        Row(
            (
                Cell(event["name"]),
                Cell(event["outcome"]),
                Cell(instant(event["created_at"])),
                Cell(event["by"] or ""),
            ),
            [Cell(said, "", "   ") for said in (event["comment"], event["reason"]) if said],
        )
        for event in events
    ]


def _end(step: dict[str, Any], now: datetime) -> datetime | None:
    is_over = step["kind"] == "sleep" and step["until"] <= now
    ended: datetime | None = step["until"] if is_over else step["ended_at"]
    return ended


def _waits(step: dict[str, Any], now: datetime) -> str:
    """Say what it still waits for."""
    if _end(step, now) is not None:
        return ""
    sender = f", from somebody with {step['permission']}" if step["permission"] else ""
    return f"Waits until {instant(step['until'])}{sender}." if step["until"] else f"Waits{sender}."
