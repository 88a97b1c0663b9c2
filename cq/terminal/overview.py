"""What goes on now: queues, workers, and what is to be settled. A few statements, of which only unfinished rows are counted.

The database's clock decides what is due and who is alive. Finished tasks are not counted: no index does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, DurationField, ExpressionWrapper, F, Min, Q, Value
from django.db.models.functions import Now

from cq import database, states
from cq.conf import conf
from cq.models import Process, Queue, SettleRequest, Worker
from cq.moments import duration
from cq.states import Status
from cq.terminal.record import iso
from cq.terminal.selection import tasks

UNFINISHED = [status.value for status in Status if status in states.UNFINISHED]
_DELAYED = [status.value for status in Status if status in states.DELAYED]
_STATUS = F("status")
_NEVER = Value(None, output_field=DurationField())


@dataclass(slots=True)
class QueueState:
    """One queue: its unfinished tasks by status, and for how long the oldest of those that are due has been."""

    name: str
    numbers: dict[str, int] = field(default_factory=dict)
    ready: int = 0
    oldest_due: timedelta | None = None
    workers: list[str] = field(default_factory=list)
    is_paused: bool = False
    paused_since: datetime | None = None
    paused_for: timedelta | None = None

    @property
    def is_served(self) -> bool:
        """Say whether a living worker takes tasks from it, as soon as it is not paused."""
        return bool(self.workers)

    @property
    def problem(self) -> str | None:
        """Say what keeps its ready tasks from running."""
        if not self.ready:
            return None
        waits = f"{self.ready:,} ready {'task waits' if self.ready == 1 else 'tasks wait'} in it."
        if self.is_paused:
            since = f" for {duration(self.paused_for)}" if self.paused_for is not None else " by CQ['QUEUES']"
            return f"The queue {self.name} is paused{since}; {waits} To let it go on: manage.py cq_queue resume {self.name}"
        if not self.is_served:
            return (
                f"No living worker serves the queue {self.name}; {waits} Start one: manage.py cq_runworker {self.name}"
            )
        return None

    def add(self, status: str, number: int, ready: int, oldest_due: timedelta | None) -> None:
        """Take in what one group of rows came to."""
        self.numbers[status] = self.numbers.get(status, 0) + number
        self.ready += ready
        if oldest_due is not None:
            self.oldest_due = max(oldest_due, self.oldest_due or oldest_due)

    def as_json(self) -> dict[str, Any]:
        """Give it for programs; ages in seconds."""
        return {
            "name": self.name,
            "statuses": {status: self.numbers.get(status, 0) for status in UNFINISHED},
            "ready": self.ready,
            "oldest_due_seconds": self.oldest_due and self.oldest_due.total_seconds(),
            "is_served": self.is_served,
            "workers": self.workers,
            "is_paused": self.is_paused,
            "paused_since": iso(self.paused_since),
        }


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker on the register; its lease is over when `lease_left` is not positive. `queues` None: it serves all."""

    worker: Worker
    age: timedelta
    lease_left: timedelta
    processes: int
    running: int

    @property
    def is_alive(self) -> bool:
        """Say whether its lease lasts."""
        return self.lease_left > timedelta(0)

    def serves(self, queue: str) -> bool:
        """Say whether it takes tasks from this queue."""
        return self.is_alive and (self.worker.queues is None or queue in self.worker.queues)

    def as_json(self) -> dict[str, Any]:
        """Give it for programs; times in seconds."""
        return {
            "id": str(self.worker.id),
            "host": self.worker.host,
            "pid": self.worker.pid,
            "version": self.worker.version,
            "queues": self.worker.queues,
            "processes": self.processes,
            "running": self.running,
            "slots": self.worker.slots,
            "started_at": iso(self.worker.started_at),
            "age_seconds": self.age.total_seconds(),
            "lease_left_seconds": self.lease_left.total_seconds(),
            "is_alive": self.is_alive,
        }


@dataclass(frozen=True, slots=True)
class Overview:
    """All that there is to see at one time."""

    queues: Sequence[QueueState]
    workers: Sequence[WorkerState]
    settle_requests: int
    oldest_request: timedelta | None

    @property
    def totals(self) -> dict[str, int]:
        """Count the unfinished tasks of all queues by status."""
        return {status: sum(queue.numbers.get(status, 0) for queue in self.queues) for status in UNFINISHED}

    @property
    def problems(self) -> list[str]:
        """Say what keeps tasks from running, in sentences."""
        if not any(worker.is_alive for worker in self.workers):
            ready = sum(queue.ready for queue in self.queues)
            waiting = f"{ready:,} ready {'task waits' if ready == 1 else 'tasks wait'}. " if ready else ""
            return [f"No worker is alive. {waiting}Start one: manage.py cq_runworker"]
        return [queue.problem for queue in self.queues if queue.problem]

    def as_json(self) -> dict[str, Any]:
        """Give it for programs."""
        return {
            "queues": [queue.as_json() for queue in self.queues],
            "workers": [worker.as_json() for worker in self.workers],
            "settle_requests": self.settle_requests,
            "oldest_settle_request_seconds": self.oldest_request and self.oldest_request.total_seconds(),
            "totals": self.totals,
            "problems": self.problems,
        }


def look() -> Overview:
    """Look at what there is now."""
    workers = _workers()
    queues = _queues()
    said = {queue.name: queue for queue in Queue.objects.annotate(age=_ago(F("changed_at")))}
    for name in {
        *(conf().QUEUES or ()),
        *said,
        *(name for worker in workers if worker.is_alive for name in worker.worker.queues or ()),
    }:
        queues.setdefault(name, QueueState(name))
    for queue in queues.values():
        queue.workers = [str(worker.worker) for worker in workers if worker.serves(queue.name)]
        queue.is_paused = queue.name in conf().paused_queues
        if found := said.get(queue.name):
            queue.is_paused = found.paused
            queue.paused_since, queue.paused_for = (found.changed_at, found.age) if found.paused else (None, None)
    requests = SettleRequest.objects.using(database.alias()).aggregate(
        number=Count("id"), oldest=_ago(Min("created_at"))
    )
    return Overview([queues[name] for name in sorted(queues)], workers, requests["number"], requests["oldest"])


def _queues() -> dict[str, QueueState]:
    """Count by queue and status: one statement, so one moment, each part of it by the index that holds just these rows."""
    ready = Q(status=Status.QUEUED, admitted=True)
    held_back = Q(status__in=[Status.PENDING.value, Status.WAITING.value]) | Q(status=Status.QUEUED, admitted=False)
    parts = (
        _counted(ready, at=Value(Status.QUEUED.value), is_ready=True, due_for=_ago(Min("run_after"))),
        _counted(Q(status=Status.RUNNING)),
        _counted(Q(status__in=_DELAYED), due_for=_ago(Min("run_after", filter=Q(run_after__lte=Now())))),
        _counted(held_back),
    )
    queues: dict[str, QueueState] = {}
    for name, status, number, is_ready, due_for in parts[0].union(*parts[1:], all=True).order_by():
        queues.setdefault(name, QueueState(name)).add(status, number, number if is_ready else 0, due_for)
    return queues


def _counted(rows: Q, *, at: Any = _STATUS, is_ready: bool = False, due_for: Any = _NEVER) -> Any:
    """Where the status is known beforehand (`at`), the index alone answers."""
    grouped = tasks().filter(rows).order_by().annotate(at=at).values_list("queue", "at")
    return grouped.annotate(number=Count("*"), is_ready=Value(is_ready), due_for=due_for)


def _workers() -> list[WorkerState]:
    alias = database.alias()
    alive = Process.objects.using(alias).filter(ended_at=None).order_by().values_list("worker_id").annotate(Count("id"))
    processes: dict[UUID, int] = dict(alive)
    held = tasks().filter(status=Status.RUNNING).order_by().values_list("process__worker_id").annotate(Count("id"))
    running: dict[UUID, int] = dict(held)
    seen = (
        Worker.objects.using(alias)
        .defer("names")
        .annotate(age=_ago(F("started_at")), lease_left=F("lease_until") - Now())
    )
    return [
        WorkerState(worker, worker.age, worker.lease_left, processes.get(worker.id, 0), running.get(worker.id, 0))
        for worker in seen.order_by("host", "pid")
    ]


def _ago(moment: Any) -> Any:
    return ExpressionWrapper(Now() - moment, output_field=DurationField())
