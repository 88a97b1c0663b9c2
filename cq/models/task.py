"""The task: one row for one run of a task function, from its call to its end.

Status is never assigned and a task is never saved: the verbs here hand their work to the engine. A method that is longer than a
few lines is in the wrong file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import IntegrityError, models
from django.db.models import NOT_PROVIDED, Case, F, Q, When
from django.db.models.base import ModelState
from django.db.models.functions import Now

from cq import codec, current, database, engine, events, lingering, members, notifier, settle, states, unique, waiter
from cq.call import Arguments, call_of
from cq.definition import encode
from cq.engine import Inserted
from cq.exceptions import (
    DuplicateSubmitError,
    InvalidArguments,
    NotAllowedHere,
    TaskFailed,
    TaskFinished,
    TaskGone,
    UniqueConflict,
)
from cq.explain import explain
from cq.fields import ArgumentsField, Encoded, EncodedField, InstanceField, ResultField
from cq.ids import uuid7
from cq.models.conditions import Among, Words
from cq.models.manager import StoredManager
from cq.new import GROUP, NewTask
from cq.registry import find as find_definition
from cq.registry import get as get_definition
from cq.states import Status

if TYPE_CHECKING:
    from cq.call import Callee
    from cq.running import RunningTask

_UNFINISHED = [status.value for status in Status if status in states.UNFINISHED]
_TERMINAL = [status.value for status in Status if status in states.TERMINAL]
_DELAYED = [status.value for status in Status if status in states.DELAYED]


@cache
def _as_inserted() -> dict[str, Any]:
    """Give the values that every new row has in its columns; those that the call decides are left at None."""
    defaults = {field.attname: field.default for field in Task._meta.concrete_fields}
    return {
        name: None if default is NOT_PROVIDED or callable(default) else default for name, default in defaults.items()
    }


class TaskQuerySet(models.QuerySet["Task"]):
    """Named selections of tasks."""

    def unfinished(self) -> TaskQuerySet:
        """Those that have not ended."""
        return self.filter(status__in=_UNFINISHED)

    def finished(self) -> TaskQuerySet:
        """Those that have ended, well or not."""
        return self.filter(status__in=_TERMINAL)


TaskManager = StoredManager.from_queryset(TaskQuerySet)


class Task(models.Model):
    """One run of a task function."""

    Status = Status
    STATUS_PENDING = Status.PENDING
    STATUS_SCHEDULED = Status.SCHEDULED
    STATUS_QUEUED = Status.QUEUED
    STATUS_RUNNING = Status.RUNNING
    STATUS_SUSPENDED = Status.SUSPENDED
    STATUS_WAITING = Status.WAITING
    STATUS_RETRY = Status.RETRY
    STATUS_SUCCESS = STATUS_COMPLETE = Status.SUCCESS
    STATUS_FAILURE = Status.FAILURE
    STATUS_INCOMPLETE = Status.INCOMPLETE
    STATUS_REVOKED = Status.REVOKED
    STATUS_SKIPPED = Status.SKIPPED
    STATUS_LOST = Status.LOST
    STATUS_EXPIRED = Status.EXPIRED

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200)
    queue = models.CharField(max_length=64, default="default", db_default="default")
    priority = models.SmallIntegerField(default=0, db_default=0)
    status = models.CharField(max_length=12, choices=Status)
    args = ArgumentsField(default=tuple)
    kwargs = EncodedField(default=dict)
    # What was given at the call and has no column of its own.
    options = models.JSONField(null=True)
    created_by = InstanceField(max_length=200, null=True)
    subject = InstanceField(max_length=200, null=True)

    parent = models.ForeignKey("self", models.DO_NOTHING, null=True, related_name="subtasks", db_index=False)
    previous = models.ForeignKey("self", models.DO_NOTHING, null=True, related_name="next", db_index=False)
    # The root of the tree and the chain; None for a root itself.
    workflow = models.ForeignKey(
        "self", models.DO_NOTHING, null=True, related_name="members", db_index=False, db_constraint=False
    )
    depth = models.SmallIntegerField(default=0, db_default=0)
    member = models.IntegerField(null=True)
    force_chain = models.BooleanField(default=False, db_default=False)
    pass_result = models.BooleanField(default=False, db_default=False)
    # The subtask whose result becomes this task's.
    result_of = models.ForeignKey(
        "self", models.DO_NOTHING, null=True, related_name="+", db_index=False, db_constraint=False
    )

    # While one of this name with the same key is unfinished, there is no other.
    unique_key = models.CharField(max_length=200, null=True)  # None: there may be any number
    # What is counted together for `limit` and `rate`, over all task functions; a QUEUED task with a key waits to be admitted.
    key = models.CharField(max_length=200, null=True)  # None: it has none
    key_limit = models.IntegerField(null=True)
    rate_starts = models.IntegerField(null=True)
    rate_seconds = models.IntegerField(null=True)
    admitted = models.BooleanField(default=True, db_default=True)
    is_coroutine = models.BooleanField(default=False, db_default=False)
    # How it judges its subtasks; what undoes it if its parent fails; whether its own subtasks were undone.
    fail_fast = models.BooleanField(default=False, db_default=False)
    ignore_failures = models.BooleanField(default=False, db_default=False)
    compensate = models.JSONField(null=True)  # None: nothing does
    compensated = models.BooleanField(default=False, db_default=False)
    # `on_lost="fail"`: an attempt whose worker died or was stopped is not repeated.
    at_most_once = models.BooleanField(default=False, db_default=False)
    schedule_id = models.BigIntegerField(null=True)
    scheduled_for = models.DateTimeField(null=True)

    # The fence: + 1 at every claim, never lowered, carried by every write of the worker that has the task.
    claims = models.IntegerField(default=0, db_default=0)
    attempt = models.IntegerField(default=0, db_default=0)
    # The last claim whose run was suspended: the claim after it continues the attempt.
    suspended_claim = models.IntegerField(null=True)
    # The event that a SUSPENDED task waits for.
    awaits = models.CharField(max_length=200, null=True)
    retries = models.SmallIntegerField(default=0, db_default=0)
    crashes = models.SmallIntegerField(default=0, db_default=0)
    transients = models.SmallIntegerField(default=0, db_default=0)
    process = models.ForeignKey(
        "cq.Process", models.DO_NOTHING, null=True, related_name="tasks", db_index=False, db_constraint=False
    )
    worker = models.CharField(max_length=300, default="", db_default="")
    terminate = models.BooleanField(default=False, db_default=False)

    result = ResultField(null=True)
    # How the last attempt ended; "success" says that the body has returned.
    outcome = models.CharField(max_length=12, null=True)  # None: it has not ended
    error = models.TextField(null=True)
    exception = models.CharField(max_length=200, null=True)
    traceback = models.TextField(null=True)
    reason = models.TextField(null=True)

    created_at = models.DateTimeField(db_default=Now())
    run_after = models.DateTimeField(null=True, db_default=Now())  # None: suspended for an event that has no deadline
    # For a successor: how long after its release it is due.
    delay = models.DurationField(null=True)
    # So many seconds after it became due, at `start_by`, it is too late for a first start.
    expires = models.FloatField(null=True)
    start_by = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    # So many seconds after the last end in its workflow a root is pruned with all its members; None: never.
    result_ttl = models.IntegerField(null=True)
    prune_after = models.DateTimeField(null=True)

    objects = TaskManager()

    # False for a task that was found instead of made, by its unique key.
    created: bool = True
    # The running body that made it, while it is only in that body's memory.
    maker: RunningTask | None = None

    class Meta:
        base_manager_name = "objects"
        ordering: ClassVar[list[str]] = ["id"]
        permissions: ClassVar[list[tuple[str, Any]]] = [
            ("retry_task", "Can retry task"),
            ("revoke_task", "Can revoke task"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # Which statuses a row may have, by its other columns.
            models.CheckConstraint(
                name="cq_task_status",
                condition=Among(
                    "status",
                    Case(
                        When(
                            finished_at__isnull=True,
                            process__isnull=False,
                            run_after__isnull=False,
                            then=Words(words=Status.RUNNING.value),
                        ),
                        When(process__isnull=False, then=Words(words="")),
                        When(finished_at__isnull=False, then=Words(words=",".join(_TERMINAL))),
                        When(run_after__isnull=True, then=Words(words=Status.SUSPENDED.value)),
                        default=Words(words=",".join(word for word in _UNFINISHED if word != Status.RUNNING.value)),
                    ),
                ),
            ),
            models.UniqueConstraint(
                fields=["name", "unique_key"],
                name="cq_task_unique",
                condition=Q(unique_key__isnull=False, status__in=_UNFINISHED),
            ),
            models.UniqueConstraint(
                fields=["schedule_id", "scheduled_for"], name="cq_task_tick", condition=Q(schedule_id__isnull=False)
            ),
        ]
        # A lone task enters only the primary, ready and running indexes; every other index is partial.
        indexes: ClassVar[list[models.Index]] = [
            models.Index(
                "queue",
                F("priority").desc(),
                "run_after",
                "id",
                name="cq_task_ready",
                condition=Q(status=Status.QUEUED, admitted=True),
            ),
            models.Index(
                "queue",
                F("priority").desc(),
                "run_after",
                "id",
                name="cq_task_suspects",
                condition=Q(status=Status.QUEUED, admitted=True, crashes__gt=0),
            ),
            # For people who look at what stands still.
            models.Index(
                fields=["queue", "status"],
                name="cq_task_blocked",
                condition=Q(status__in=[Status.PENDING, Status.WAITING]) | Q(status=Status.QUEUED, admitted=False),
            ),
            # What is counted for a key, and who is admitted next.
            models.Index(
                "key",
                "status",
                "admitted",
                F("priority").desc(),
                "run_after",
                "id",
                name="cq_task_key",
                condition=Q(key__isnull=False, status__in=[Status.QUEUED, Status.RUNNING]),
            ),
            # What a rate counts: those that have none themselves, too.
            models.Index(
                fields=["key", "started_at"],
                name="cq_task_starts",
                condition=Q(key__isnull=False, started_at__isnull=False),
            ),
            models.Index(
                fields=["start_by"],
                name="cq_task_start_by",
                condition=Q(status=Status.QUEUED, attempt=0, start_by__isnull=False),
            ),
            models.Index(fields=["prune_after"], name="cq_task_prune", condition=Q(prune_after__isnull=False)),
            models.Index(fields=["process"], name="cq_task_held", condition=Q(status=Status.RUNNING)),
            models.Index(fields=["run_after"], name="cq_task_due", condition=Q(status__in=_DELAYED)),
            # Whether there is one in some status, and all in the order of their making.
            models.Index(fields=["parent", "status"], name="cq_task_below", condition=Q(parent__isnull=False)),
            models.Index(fields=["parent", "id"], name="cq_task_subtasks", condition=Q(parent__isnull=False)),
            models.Index(fields=["parent", "member"], name="cq_task_members", condition=Q(member__isnull=False)),
            models.Index(
                fields=["parent"],
                name="cq_task_undo",
                condition=Q(parent__isnull=False, compensate__isnull=False, status=Status.SUCCESS),
            ),
            models.Index(fields=["previous"], name="cq_task_next", condition=Q(previous__isnull=False)),
            models.Index(fields=["schedule_id", "id"], name="cq_task_runs", condition=Q(schedule_id__isnull=False)),
            models.Index(
                fields=["schedule_id"],
                name="cq_task_live_runs",
                condition=Q(schedule_id__isnull=False, status__in=_UNFINISHED),
            ),
            models.Index(fields=["workflow", "id"], name="cq_task_workflow", condition=Q(workflow__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.id} {self.status}"

    @classmethod
    def made(cls, new: NewTask, inserted: Inserted | None, maker: RunningTask | None = None) -> Task:
        """Return the task of a new row without reading it again; with a maker, of a row that is still to be.

        Not by way of `__init__`, which costs as much as the insert.
        """
        task = cls.__new__(cls)
        task._state = ModelState()
        task._state.adding = inserted is None
        task._state.db = database.alias()
        values = task.__dict__
        values.update(_as_inserted())
        values.update(
            id=new.id,
            name=new.name,
            queue=new.queue,
            priority=new.priority,
            args=Encoded(new.args),
            kwargs=Encoded(new.kwargs),
            options=new.options,
            created_by_ref=new.created_by,
            subject_ref=new.subject,
            previous_id=new.previous_id,
            force_chain=new.force_chain,
            pass_result=new.pass_result,
            result_ttl=new.result_ttl,
        )
        if new.has_rules:
            values.update(
                expires=new.expires,
                at_most_once=new.at_most_once,
                unique_key=new.unique_key,
                key=new.key,
                key_limit=new.key_limit,
                rate_starts=new.rate and new.rate.starts,
                rate_seconds=new.rate and new.rate.seconds,
                admitted=new.key is None,
                is_coroutine=new.is_coroutine,
                fail_fast=new.fail_fast,
                ignore_failures=new.ignore_failures,
                compensate=new.compensate,
            )
        if new.is_composed:
            values.update(member=new.member, depth=new.depth or 0, workflow_id=new.workflow_id)
        if inserted is None:
            values.update(status=Status.PENDING, parent_id=new.parent_id, run_after=new.run_after, created_at=None)
        else:
            values.update(inserted._asdict())
            if new.expires is not None:
                values["start_by"] = inserted.run_after + timedelta(seconds=new.expires)
            if new.held and new.result_ttl is not None:
                values["prune_after"] = inserted.created_at + timedelta(seconds=new.result_ttl)
        if maker is not None:
            task.maker = maker
        return task

    @classmethod
    def made_alike(cls, like: NewTask, rows: Sequence[tuple[UUID, str, str | None]], inserted: Inserted) -> list[Task]:
        """Return the tasks of new rows that differ only in id, positional arguments and key."""
        first = cls.made(like, inserted)
        common = first.__dict__
        tasks = []
        for task_id, args, key in rows:
            task = cls.__new__(cls)
            state = ModelState()
            state.adding, state.db = False, first._state.db
            task.__dict__ = values = common.copy()
            values["_state"], values["id"], values["args"] = state, task_id, Encoded(args)
            if key is not None:
                values["key"], values["admitted"] = key, False
            tasks.append(task)
        return tasks

    def update(self, state: Mapping[str, Any]) -> None:
        """Take over what `engine.state` has read."""
        result = state["result"]
        self._state.adding = False
        self._state.fields_cache.clear()
        self.__dict__.update(state, result=None if result is None else Encoded(result))

    @property
    def is_done(self) -> bool:
        """Say whether it has ended, well or not."""
        return self.status in states.TERMINAL

    def result_from_below(self) -> Any:
        """Read what the row itself does not hold: a group's result is its members'."""
        if self.name != GROUP and self.result_of_id is None:
            return None
        value = codec.loads(members.read(self.pk), strict=False)
        if self.is_done:
            self.__dict__["result"] = value
        return value

    @property
    def root(self) -> Task:
        """The first task of the chain at the top of the tree."""
        return self.workflow or self

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """Read the row again; `TaskGone` if it is no longer stored."""
        try:
            super().refresh_from_db(*args, **kwargs)
        except type(self).DoesNotExist:
            raise TaskGone(f"Task {self.pk} is no longer stored.") from None

    def wait(self, timeout: float | None = None) -> Task:
        """Return this task once it has ended, however; `WaitTimeout` after so many seconds."""
        waiter.wait(self, timeout)
        return self

    async def await_done(self, timeout: float | None = None) -> Task:
        """Do what `wait` does, in a coroutine."""
        await waiter.await_done(self, timeout)
        return self

    def get(self, timeout: float | None = None) -> Any:
        """Wait, and return the result; `TaskFailed` if it did not end in SUCCESS."""
        return self.wait(timeout)._result_or_raise()

    async def aget(self, timeout: float | None = None) -> Any:
        """Do what `get` does, in a coroutine."""
        return (await self.await_done(timeout))._result_or_raise()

    def _result_or_raise(self) -> Any:
        if self.status == Status.SUCCESS:
            return self.result
        why = self.error or self.reason or "no reason is known"
        raise TaskFailed(
            f"Task {self.name} ({self.id}) ended in {self.status}: {why}",
            task=self,
            status=self.status,
            error=self.error,
            traceback=self.traceback,
        )

    def chain(
        self,
        func: Callee,
        args: Arguments = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        force_chain: bool = False,
        pass_result: bool | None = None,
        **options: Any,
    ) -> Task:
        """Run another task after this one, and pass it this one's result if it needs it; return that task.

        It starts when this one ends in SUCCESS, with `force_chain` after any end but a revoke; else it is SKIPPED. `UniqueConflict`
        if an unfinished task has its unique key.
        """
        new = call_of(func, args, kwargs, options).successor(self.id, force_chain=force_chain, pass_result=pass_result)
        if self.maker is not None:
            return self.maker.add_successor(new, self)
        inserted = engine.enqueue_next([new])[0] if new.unique_key is None else _placed_behind(new)
        running = current.task()
        if running is not None:
            running.note_enqueued(new)
        return Task.made(new, inserted)

    def errorback(self, func: Callee, args: Arguments = (), kwargs: Mapping[str, Any] | None = None) -> Task:
        """Call this once when the task ends in FAILURE, INCOMPLETE, LOST or EXPIRED, at once if it has; return the task itself.

        It is a task of its own, and is passed the id of the task that failed and the text of its error, before its arguments.
        """
        new = call_of(func, args, kwargs, {}).errorback(self.id)
        if self.maker is not None:
            self.maker.add_errorback(new)
        else:
            engine.keep_errorback(new)
        return self

    async def aerrorback(self, *args: Any, **kwargs: Any) -> Task:
        """Do what `errorback` does, in a coroutine."""
        return await sync_to_async(self.errorback)(*args, **kwargs)

    async def achain(self, *args: Any, **kwargs: Any) -> Task:
        """Do what `chain` does, in a coroutine."""
        return await sync_to_async(self.chain)(*args, **kwargs)

    def subtask(self, *_args: Any, **_kwargs: Any) -> Task:
        """Refuse: subtasks are made by the running body, through the task that it is passed."""
        raise NotAllowedHere(
            "Subtasks are made in the body of the task: cqt.subtask(…), or cqt.parent.subtask(…) for a sibling. "
            "From outside, use chain(), or delay() a task of its own."
        )

    def submit(self, *first_args: Any) -> None:
        """Let a task go that was made with `submit=False`, with these arguments before its own.

        `DuplicateSubmitError` if it went already; `TaskFinished` if it ended, as after a revoke; `UniqueConflict` if an unfinished
        task has the unique key that it has with these arguments: then it stays held back.
        """
        self.refresh_from_db()
        if self.is_done:
            raise TaskFinished(f"Task {self.id} is {self.status}; it cannot be submitted any more.")
        if self.status != Status.PENDING or self.previous_id is not None:
            raise DuplicateSubmitError(f"Task {self.id} is {self.status}, not held back until it is submitted.")
        arguments = (*first_args, *self.args)
        definition = get_definition(self.name)
        definition.bind(arguments, self.kwargs)
        text = encode(arguments, self.kwargs)[0]
        unique_key, key = definition.keys_at_submit(arguments, self.kwargs, unique_key=self.unique_key, key=self.key)
        try:
            engine.submit(self.id, text, unique_key=unique_key, key=key, is_coroutine=definition.is_coroutine)
        except IntegrityError as error:
            if not unique.is_conflict(error):
                raise
            raise conflict(self.name, unique_key, _holder(self.name, unique_key)) from None
        self.refresh_from_db()

    async def asubmit(self, *first_args: Any) -> None:
        """Do what `submit` does, in a coroutine."""
        await sync_to_async(self.submit)(*first_args)

    def revoke(self, terminate: bool = False) -> bool:
        """Stop everything unfinished at, below and after this task; True if a task was stopped."""
        return revoke([self], terminate=terminate)

    async def arevoke(self, terminate: bool = False) -> bool:
        """Do what `revoke` does, in a coroutine."""
        return await sync_to_async(self.revoke)(terminate)

    def retry(self) -> bool:
        """Reopen all at and below this task that ended otherwise than in SUCCESS; True if anything was.

        Bodies that had returned do not run again, the others do, with fresh budgets. What is above waits again, and so do skipped
        tasks behind. `NotAllowedHere` says why it cannot be, `UniqueConflict` that one of them has a unique key that an unfinished
        task has meanwhile; then nothing is changed.
        """
        self._refuse_what_was_never_submitted()
        try:
            reopened = engine.reopen(self.id)
        except IntegrityError as error:
            if not unique.is_conflict(error):
                raise
            raise _conflict_of_reopening(self.id) from None
        self.refresh_from_db()
        return bool(reopened)

    async def aretry(self) -> bool:
        """Do what `retry` does, in a coroutine."""
        return await sync_to_async(self.retry)()

    def send_event(self, name: str, payload: Any = None, by: models.Model | None = None, *, comment: str = "") -> bool:
        """Send an event that this task's body waits for, or will; True if it counts, for the first of its name does.

        `by` is who sends it: a wait may ask for a permission of theirs. Refused events are kept, too.
        """
        if self.maker is not None and self._state.adding:
            raise NotAllowedHere(f"Task {self.id} is not stored before the body that makes it has ended.")
        is_accepted = events.send(self.id, name, payload, by=by, comment=comment)
        if is_accepted:
            database.on_commit(lambda: notifier.wake(settle.settle([self.id]).queues))
        return is_accepted

    async def asend_event(self, *args: Any, **kwargs: Any) -> bool:
        """Do what `send_event` does, in a coroutine."""
        return await sync_to_async(self.send_event)(*args, **kwargs)

    def explain(self) -> list[str]:
        """Say in plain sentences why it is not running; nothing if it runs or has ended."""
        return explain(self.id)

    async def aexplain(self) -> list[str]:
        """Do what `explain` does, in a coroutine."""
        return await sync_to_async(self.explain)()

    def _refuse_what_was_never_submitted(self) -> None:
        self.refresh_from_db()
        definition = find_definition(self.name)
        if self.status != Status.REVOKED or self.claims or self.previous_id or definition is None:
            return
        try:
            definition.bind(self.args, self.kwargs)
        except InvalidArguments as error:
            raise NotAllowedHere(f"Task {self.id} was revoked before it was submitted: {error}") from None


# A key whose holder ends as often as this, each time just before it can be read, is given up.
_MOST_TRIES = 100


def place(new: Sequence[NewTask]) -> list[Task]:
    """Return a task for each of these calls with unique keys: made, or the unfinished one that has its key.

    All or none. Waits for whoever is just making, or replacing, a task with one of the keys.
    """
    tasks: dict[UUID, Task] = {}
    left = list(new)
    with database.read_committed():
        for _ in range(_MOST_TRIES):
            placed = unique.enqueue(left) if left else {}
            found = _unfinished([task_id for task_id in placed.values() if isinstance(task_id, UUID)])
            for call in left:
                match placed.get(call.id):
                    case Inserted() as inserted:
                        tasks[call.id] = Task.made(call, inserted)
                    case UUID() as holder if holder in found:
                        tasks[call.id] = found[holder]
            left = [call for call in left if call.id not in tasks]
            if not left:
                return [tasks[call.id] for call in new]
    raise UniqueConflict(
        f"A task {left[0].name} with the unique key {left[0].unique_key!r} ends and begins so often that it cannot be found."
    )


def _unfinished(ids: Sequence[UUID]) -> dict[UUID, Task]:
    found = Task.objects.unfinished().in_bulk(ids) if ids else {}
    for task in found.values():
        task.created = False
    return found


def _placed_behind(new: NewTask) -> Inserted:
    """Insert a successor with a unique key; `UniqueConflict` if an unfinished task has it."""
    with database.read_committed():
        for _ in range(_MOST_TRIES):
            placed = unique.enqueue_next(new)
            if isinstance(placed, Inserted):
                return placed
            if placed is not None and (found := _unfinished([placed])):
                raise conflict(new.name, new.unique_key, found[placed])
    raise conflict(new.name, new.unique_key, None)


def _holder(name: str, unique_key: str | None) -> Task | None:
    held_by = unique.holders([NewTask(name, unique_key=unique_key)]).values()
    return next(iter(_unfinished(list(held_by)).values()), None)


def refuse_conflicts(new: Sequence[NewTask]) -> None:
    """Refuse what an unfinished task has the unique key of."""
    having = unique.holders(new)
    found = _unfinished(list(having.values()))
    for call in new:
        if (holder := having.get(unique.of(call))) in found:
            raise conflict(call.name, call.unique_key, found[holder])


def conflict(name: str, unique_key: str | None, holder: Task | None) -> UniqueConflict:
    """Return the error that a unique key is taken, and by whom."""
    by = f"task {holder.id}" if holder else "another task"
    return UniqueConflict(
        f"The unique key {unique_key!r} of {name} is taken by {by}, which has not ended. Use that one, or try again when it has.",
        task=holder,
    )


def conflict_at_the_end(made: Sequence[NewTask]) -> UniqueConflict:
    """Return the error that one of the tasks that a body made cannot be, because its unique key was taken meanwhile."""
    keys = ", ".join(f"{new.unique_key!r} of {new.name}" for new in made if new.unique_key is not None)
    return UniqueConflict(
        f"What the body made is not kept: of its unique keys {keys}, one was taken by a task that has not ended, before the body had."
    )


def _conflict_of_reopening(task_id: UUID) -> UniqueConflict:
    for holder in _unfinished(engine.held_against(task_id)).values():
        return conflict(holder.name, holder.unique_key, holder)
    return UniqueConflict(
        f"Task {task_id} cannot be reopened: two of the tasks at, below or above it have the same unique key, or another task had "
        "it just now. Look at them, or try again."
    )


def revoke(tasks: Sequence[Task], *, terminate: bool = False) -> bool:
    """Stop these tasks and what is below and after them; True if any was stopped.

    What is below and after is stopped level by level as the tasks are settled, here after the commit, else by any worker.
    """
    for task in tasks:
        if task.maker is not None and task.maker.is_open:
            raise NotAllowedHere(
                f"Task {task.id} is in the memory of the body that has made it, and is stored when that ends: it cannot be "
                "revoked before. Make it only if it shall run."
            )
    ids = [task.id for task in tasks]
    revoked = engine.revoke(ids, reason="It was revoked.", terminate=terminate)
    if terminate:
        lingering.terminate(ids)
    later = engine.unfinished_after([task_id for task_id in ids if task_id not in revoked])
    for task_id in later:  # one by one: nobody shall wait for a task while holding another
        revoked += engine.revoke([task_id], reason="A task before it was revoked.", terminate=terminate)
    if revoked:
        database.on_commit(lambda: _carry_on(revoked))
        for task in tasks:
            task.refresh_from_db()
    return bool(revoked)


def _carry_on(ids: list[UUID]) -> None:
    ended = settle.settle_from(ids).ended
    notifier.announce([*ids, *ended])
    notifier.wake([])
