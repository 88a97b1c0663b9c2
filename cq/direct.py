"""A direct call: the body runs here and now, without a row; what it made runs afterwards, in order.

Works with any database. No retries, no timeout; the body's own exception comes out as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync, sync_to_async

from cq import codec, current, database, registry
from cq.definition import Definition
from cq.exceptions import TaskFailed
from cq.ids import uuid7
from cq.models import Task
from cq.new import NewTask
from cq.outcome import Claimed
from cq.running import RunningTask
from cq.states import UNSUCCESSFUL, Status

logger = logging.getLogger("cq.task")


def call(definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a body here and return its result; for a coroutine function, return the coroutine."""
    run = _Run(definition, args, kwargs)
    return run.in_loop() if definition.is_coroutine else run.here()


class _Run:
    """One direct call, or one of the tasks that it made."""

    def __init__(
        self, definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any], new: NewTask | None = None
    ) -> None:
        self.definition = definition
        self.running = RunningTask(_claimed(definition, new), is_direct=True)
        self.args = (self.running, *args) if definition.takes_task else args
        self.kwargs = kwargs

    def here(self) -> Any:
        token = current.enter(self.running)
        try:
            with self._transaction():
                result = self.definition.func(*self.args, **self.kwargs)
        finally:
            current.leave(token)
            self.running.close()
        return _Made(self.running, self.definition).run_after(result)

    async def in_loop(self) -> Any:
        token = current.enter(self.running)
        try:
            result = await self.definition.func(*self.args, **self.kwargs)
        finally:
            current.leave(token)
            self.running.close()
        return (
            await sync_to_async(_Made(self.running, self.definition).run_after)(result) if self.running.made else result
        )

    def _transaction(self) -> AbstractContextManager[object]:
        return database.atomic() if self.definition.atomic else nullcontext()


class _Made:
    """The tasks that a body made, and how they ended."""

    def __init__(self, running: RunningTask, definition: Definition) -> None:
        self.running = running
        self.definition = definition
        self.made = {new.id: new for new in running.made if new.errorback_of is None}
        self.errorbacks = [new for new in running.made if new.errorback_of is not None]
        self.results: dict[UUID, Any] = {}
        self.statuses: dict[UUID, Status] = {}
        self.errors: dict[UUID, str] = {}
        self.tasks: dict[UUID, Task] = {}
        self.first_failure: tuple[NewTask, BaseException] | None = None

    def run_after(self, result: Any) -> Any:
        """Run them in order, what follows the call itself last; return the body's result, or that of the subtask it returned."""
        itself = self.running.id
        returned = isinstance(result, Task) and result.maker is self.running
        below = self._of_the_call()
        for new in below:
            self._run_and_note(new)
        self._end_groups(below)
        if returned:
            result = self.results.get(result.id)
        self.results[itself] = result
        self.statuses[itself] = self._judge(itself, ignores=self.definition.ignore_failures)
        self.tasks[itself] = _stand_in(Task(id=itself, name=self.running.name), self.statuses[itself], result)
        self._answer(itself)
        behind = [new for new in self.made.values() if new not in below]
        for new in behind:
            self._run_and_note(new)
        self._end_groups(behind)
        if self.first_failure is not None:
            new, error = self.first_failure
            raise TaskFailed(
                f"{new.name}, made by {self.running.name}, failed: {error}", status=Status.FAILURE, error=str(error)
            ) from error
        return result

    def _of_the_call(self) -> list[NewTask]:
        """Return what belongs to the call: not what it put behind itself."""
        behind = {self.running.id}
        for new in self.made.values():
            if new.previous_id in behind or new.parent_id in behind - {self.running.id}:
                behind.add(new.id)
        return [new for new in self.made.values() if new.id not in behind]

    def _run_and_note(self, new: NewTask) -> None:
        if new.previous_id in self.made:
            self._end_groups([self.made[new.previous_id]])
        self._note(new, self._run(new))

    def _note(self, new: NewTask, status: Status) -> None:
        self.statuses[new.id] = status
        self.tasks[new.id] = _stand_in(Task.made(new, None), status, self.results.get(new.id))
        self._answer(new.id)

    def _run(self, new: NewTask) -> Status:
        before = self.statuses.get(new.previous_id, Status.SUCCESS) if new.previous_id else Status.SUCCESS
        if before != Status.SUCCESS and not new.force_chain:
            return Status.SKIPPED
        if self._is_fail_fast(new.parent_id) and self._has_failed_below(new.parent_id):
            return Status.REVOKED
        if new.is_group:
            return Status.WAITING
        args = codec.resolve(codec.loads(new.args))
        if new.pass_result:
            args = [self.results.get(new.previous_id) if new.previous_id else None, *args]
        definition = registry.get(new.name)
        run = _Run(definition, tuple(args), codec.resolve(codec.loads(new.kwargs)), new)
        run.running.previous = self.tasks.get(new.previous_id) if new.previous_id else None
        try:
            self.results[new.id] = async_to_sync(run.in_loop)() if definition.is_coroutine else run.here()
        except Exception as error:
            self.errors[new.id] = str(error)
            if not self._is_ignored(new):
                self.first_failure = self.first_failure or (new, error)
            return Status.FAILURE
        return Status.SUCCESS

    def _end_groups(self, rows: Sequence[NewTask]) -> None:
        """End those groups among these that wait, inner ones first: they come after the outer ones."""
        for new in reversed(rows):
            if self.statuses.get(new.id) == Status.WAITING:
                members = self._below(new.id)
                self._end_groups(members)
                counted = sorted((row for row in members if row.member is not None), key=lambda row: row.member or 0)
                self.results[new.id] = [self._end_of(row) for row in counted]
                self._note(new, self._judge(new.id, ignores=new.ignore_failures))

    def _end_of(self, new: NewTask) -> Any:
        status = self.statuses[new.id]
        if status == Status.SUCCESS:
            return self.results.get(new.id)
        return codec.FailedMember(new.id, status.value, self.errors.get(new.id))

    def _below(self, parent_id: UUID | None) -> list[NewTask]:
        return [new for new in self.made.values() if new.parent_id == parent_id and parent_id is not None]

    def _judge(self, parent_id: UUID, *, ignores: bool) -> Status:
        return Status.INCOMPLETE if self._has_failed_below(parent_id) and not ignores else Status.SUCCESS

    def _has_failed_below(self, parent_id: UUID | None) -> bool:
        return any(self.statuses.get(new.id) in UNSUCCESSFUL for new in self._below(parent_id))

    def _is_fail_fast(self, parent_id: UUID | None) -> bool:
        return self.definition.fail_fast if parent_id == self.running.id else self._group(parent_id).fail_fast

    def _is_ignored(self, new: NewTask) -> bool:
        if new.parent_id == self.running.id:
            return self.definition.ignore_failures
        return new.parent_id in self.made and (
            self._group(new.parent_id).ignore_failures or self._is_ignored(self._group(new.parent_id))
        )

    def _group(self, task_id: UUID | None) -> NewTask:
        return self.made.get(task_id, _NONE) if task_id else _NONE

    def _answer(self, task_id: UUID) -> None:
        """Do what follows from a failure: errorbacks, and to undo what had succeeded below."""
        if self.statuses[task_id] not in (Status.FAILURE, Status.INCOMPLETE):
            return
        for new in self.errorbacks:
            if new.errorback_of == task_id:
                self._call(new.name, task_id, self.errors.get(task_id, _NOT_ALL), *codec.loads(new.args), new=new)
        succeeded = [new for new in self._below(task_id) if self.statuses.get(new.id) == Status.SUCCESS]
        for new in reversed([new for new in succeeded if new.compensate is not None]):
            if not self._call(new.compensate["name"], new.id, self.results.get(new.id)):  # type: ignore[index]
                return

    def _call(self, name: str, *args: Any, new: NewTask | None = None) -> bool:
        """Run what answers a failure; say whether it went well. Its own failure changes nothing else."""
        definition = registry.get(name)
        run = _Run(definition, args, codec.resolve(codec.loads(new.kwargs)) if new else {}, new)
        run.running.previous = self.tasks.get(args[0])
        try:
            async_to_sync(run.in_loop)() if definition.is_coroutine else run.here()
        except Exception:
            logger.exception("what answers a failure has failed itself task=%s name=%s", run.running.id, name)
            return False
        return True


_NONE = NewTask("")
_NOT_ALL = "Not all of its subtasks succeeded."


def _stand_in(task: Task, status: Status, result: Any) -> Task:
    """Let an unsaved task show how its direct run ended: what comes after it may look at its predecessor."""
    task.__dict__.update(status=status, result=result)
    return task


def _claimed(definition: Definition, new: NewTask | None) -> Claimed:
    return Claimed(
        id=new.id if new else uuid7(),
        name=definition.name,
        queue=new.queue if new else definition.queue,
        priority=new.priority if new else definition.priority,
        args=new.args if new else "[]",
        kwargs=new.kwargs if new else "{}",
        options=None,
        claims=0,
        attempt=1,
        retries=0,
        transients=0,
        parent_id=new.parent_id if new else None,
        previous_id=new.previous_id if new else None,
        workflow_id=None,
        depth=0,
        due_at=None,
        scheduled_for=None,
        pass_result=False,
        previous_result=None,
        key=None,
        waited=0.0,
    )
