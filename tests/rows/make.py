"""Rows in any status, processes and claims, made behind the engine's back."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import connection, transaction
from django.db.models import Value
from django.db.models.functions import Now

from cq import engine, registry, states
from cq.engine import Wish
from cq.models import Task, Worker
from cq.new import NewTask
from cq.outcome import Claimed, Outcome, returned
from cq.states import Status

ADDS = "tests.tasks.adds"


def process(*, names: list[str] | None = None) -> UUID:
    """Register a living worker with one process; return the process's id."""
    worker_id, process_id = uuid4(), uuid4()
    engine.enter_worker(
        worker_id,
        host="test",
        pid=1,
        version="",
        queues=None,
        names=registry.names() if names is None else names,
        slots=1,
        coroutines=1,
    )
    engine.enter_process(process_id, worker_id, 1)
    return process_id


def let_lease_run_out(process_id: UUID) -> None:
    """Make the process's worker look as if nobody had heard of it for long."""
    Worker.objects.filter(processes=process_id).update(lease_until="2000-01-01T00:00:00Z")


def row(status: Status = Status.QUEUED, **columns: Any) -> Task:
    """Make a row in a status, with what the constraints want of it."""
    values: dict[str, Any] = {"name": ADDS, "args": (1,), "status": status}
    if status in states.TERMINAL:
        values["finished_at"] = Now()
    if status == Status.RUNNING:
        values |= {"worker": "test/1", "started_at": Now(), "claims": 3, "attempt": 2}
        if "process_id" not in columns:
            values["process_id"] = process()
    made = Task.objects.create(**values | columns)
    return Task.objects.get(pk=made.pk)


def rows(number: int, **columns: Any) -> list[Task]:
    """Make several rows at once."""
    values = {"name": ADDS, "args": (1,), "status": Status.QUEUED} | columns
    return Task.objects.bulk_create([Task(**values) for _ in range(number)])


def many(number: int, status: Status, **shared: Any) -> None:
    """Make thousands of rows in one statement."""
    columns = ["id", "name", "args", "kwargs", "status", *shared]
    values = ["gen_random_uuid()", *["%s"] * (len(columns) - 1)]
    statement = f"INSERT INTO cq_task ({', '.join(columns)}) SELECT {', '.join(values)} FROM generate_series(1, %s)"
    with connection.cursor() as cursor:
        cursor.execute(statement, [ADDS, "[1]", "{}", status.value, *shared.values(), number])


def held(task: Task, *, claims: int | None = None) -> Claimed:
    """Return the claim that a row in RUNNING would belong to."""
    coded = {"args": "[1]", "kwargs": "{}", "options": None, "previous_result": None, "waited": 0.0}
    columns = {name: getattr(task, name, None) for name in Claimed._fields}
    return Claimed(**columns | coded | ({} if claims is None else {"claims": claims}))


def take(process_id: UUID, room: int = 1, queue: str = "default", *, suspects: bool = False) -> list[Claimed]:
    """Claim for a process."""
    return engine.claim(Wish(process_id, {queue: room}, registry.names(), suspects))


def succeeded(claimed: Claimed, result: object = None, made: tuple[NewTask, ...] = ()) -> Outcome:
    """Return the outcome of a body that came back."""
    return returned(claimed, json.dumps(result), made, waits=any(new.parent_id == claimed.id for new in made))


def failed(claimed: Claimed) -> Outcome:
    """Return the outcome of a body that failed for the last time."""
    return Outcome(claimed, states.FAIL, "error", error="broken", exception="builtins.ValueError")


def finish_own(outcome: Outcome) -> engine.Finished:
    """Write an outcome as a body does at the end of its own transaction."""
    with transaction.atomic():
        return engine.finish_own(outcome)


def subtask_of(claimed: Claimed, **columns: Any) -> NewTask:
    """Return what a running body has made for itself."""
    values = {"parent_id": claimed.id, "maker_id": claimed.id, "maker_claims": claimed.claims}
    return NewTask(**{"name": ADDS, "args": "[1]"} | values | columns)


def image(task_id: UUID) -> tuple[Any, ...]:
    """Return all that PostgreSQL keeps of a row, and which transaction wrote it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT xmin::text, ctid::text, to_jsonb(t)::text FROM cq_task t WHERE id = %s", [task_id])
        found: tuple[Any, ...] = cursor.fetchone()
        return found


def status(task: Task | UUID) -> Status:
    """Read a row's status."""
    pk = task.pk if isinstance(task, Task) else task
    return Status(Task.objects.values_list("status", flat=True).get(pk=pk))


def statuses(*tasks: Task) -> list[Status]:
    """Read several rows' statuses."""
    return [status(task) for task in tasks]


def ago(seconds: float) -> Any:
    """Say when that was, by PostgreSQL's clock."""
    return Now() - Value(timedelta(seconds=seconds))
