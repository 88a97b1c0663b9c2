"""A task as the commands read it: the columns as they are stored, so that no value in them can make the reading fail."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import TextField
from django.db.models.functions import Cast, Now

from cq import states
from cq.models import Task
from cq.models.task import TaskQuerySet
from cq.states import Status
from cq.terminal import masking

_KEEPS_ITS_RESULT = (Status.SUCCESS, Status.WAITING, Status.INCOMPLETE)
_GOES_ON = (Status.RUNNING, Status.WAITING, Status.SUSPENDED)


@dataclass(frozen=True, slots=True)
class Record:
    """One row; JSON columns as text, references as `"auth.user:7"`, and the database's time when it was read."""

    id: UUID
    name: str
    status: str
    queue: str
    priority: int
    args_text: str
    kwargs_text: str
    result_text: str | None
    options_text: str | None
    created_by: str | None
    subject: str | None
    error: str | None
    exception: str | None
    traceback: str | None
    reason: str | None
    attempt: int
    worker: str
    key: str | None
    unique_key: str | None
    pass_result: bool
    parent_id: UUID | None
    previous_id: UUID | None
    workflow_id: UUID | None
    created_at: datetime
    run_after: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    finished_at: datetime | None
    now: datetime

    @property
    def is_done(self) -> bool:
        """Say whether it has ended, well or not."""
        return self.status in states.TERMINAL

    @property
    def args(self) -> Any:
        """Its positional arguments as JSON, masked."""
        return masking.mask_positional(self.name, masking.read(self.args_text), pass_result=self.pass_result)

    @property
    def kwargs(self) -> Any:
        """Its keyword arguments as JSON, masked."""
        return masking.read(self.kwargs_text)

    @property
    def has_result(self) -> bool:
        """Say whether there is something that its body returned, and that still counts."""
        return self.status in _KEEPS_ITS_RESULT and self.result_text is not None

    @property
    def result(self) -> Any:
        """What its body returned as JSON, masked."""
        return masking.read(self.result_text) if self.has_result else None

    @property
    def options(self) -> Any:
        """What was given at its call and stays with it as JSON, masked."""
        return masking.read(self.options_text)

    @property
    def root_id(self) -> UUID:
        """The first task of the chain at the top of its tree."""
        return self.workflow_id or self.id

    @property
    def age(self) -> timedelta:
        """How long ago it was made."""
        return self.now - self.created_at

    @property
    def took(self) -> timedelta | None:
        """How long it ran, subtasks included; None if it has not started."""
        return took(self.status, self.started_at, self.ended_at, self.finished_at, self.now)

    @property
    def why(self) -> str:
        """What went wrong, in one sentence; empty if nothing did."""
        return fault(self.exception, self.error) or self.reason or ""

    def as_json(self) -> dict[str, Any]:
        """Name what is known of it as in the public contract: ids as text, instants as ISO 8601, masked values as JSON."""
        return {
            "id": str(self.id),
            "name": self.name,
            "status": self.status,
            "is_done": self.is_done,
            "queue": self.queue,
            "priority": self.priority,
            "args": self.args,
            "kwargs": self.kwargs,
            "created": Task.created,
            "created_by": self.created_by,
            "subject": self.subject,
            "result": self.result,
            "error": self.error,
            "exception": self.exception,
            "traceback": self.traceback,
            "reason": self.reason,
            "attempt": self.attempt,
            "parent": _text(self.parent_id),
            "previous": _text(self.previous_id),
            "root": _text(self.root_id),
            "created_at": iso(self.created_at),
            "run_after": iso(self.run_after),
            "started_at": iso(self.started_at),
            "finished_at": iso(self.finished_at),
        }


_AS_STORED: dict[str, Any] = {
    "args_text": Cast("args", TextField()),
    "kwargs_text": Cast("kwargs", TextField()),
    "result_text": Cast("result", TextField()),
    "options_text": Cast("options", TextField()),
    "now": Now(),
}
_COLUMNS = [field.name for field in fields(Record) if field.name not in _AS_STORED]


def records(tasks: TaskQuerySet) -> list[Record]:
    """Read these tasks, in their order."""
    return [Record(**row) for row in tasks.values(*_COLUMNS, **_AS_STORED)]


def took(
    status: str, started_at: datetime | None, ended_at: datetime | None, finished_at: datetime | None, now: datetime
) -> timedelta | None:
    """Tell how long a task ran: to its end, till now if it goes on, else as long as its last attempt."""
    if started_at is None:
        return None
    until = finished_at or (now if status in _GOES_ON else ended_at)
    return None if until is None else until - started_at


def fault(exception: str | None, error: str | None) -> str:
    """Write an exception as its traceback does: `ValueError: broken`."""
    name = (exception or "").rpartition(".")[2]
    if not error or not name or error == name:
        return error or name
    return f"{name}: {error}"


def iso(moment: datetime | None) -> str | None:
    """Write an instant for programs."""
    return None if moment is None else moment.isoformat()


def _text(task_id: UUID | None) -> str | None:
    return None if task_id is None else str(task_id)
