"""A direct call: the body runs here and now, without a row; what it made runs afterwards, in order.

Works with any database. No retries, no timeout; the body's own exception comes out as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from cq.states import Status


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
        return _Made(self.running).run_after(result)

    async def in_loop(self) -> Any:
        token = current.enter(self.running)
        try:
            result = await self.definition.func(*self.args, **self.kwargs)
        finally:
            current.leave(token)
            self.running.close()
        return await sync_to_async(_Made(self.running).run_after)(result) if self.running.made else result

    def _transaction(self) -> AbstractContextManager[object]:
        return database.atomic() if self.definition.atomic else nullcontext()


class _Made:
    """The tasks that a body made, and how they ended."""

    def __init__(self, running: RunningTask) -> None:
        self.running = running
        self.results: dict[UUID, Any] = {}
        self.statuses: dict[UUID, Status] = {}
        self.tasks: dict[UUID, Task] = {}
        self.first_failure: tuple[NewTask, BaseException] | None = None

    def run_after(self, result: Any) -> Any:
        """Run them in order, what follows the call itself last; return the body's result, or that of the subtask it returned."""
        itself = self.running.id
        returned = isinstance(result, Task) and result.maker is self.running
        below = self._of_the_call()
        for new in below:
            self._run_and_note(new)
        if returned:
            result = self.results.get(result.id)
        self.results[itself] = result
        self.statuses[itself] = Status.INCOMPLETE if self.first_failure else Status.SUCCESS
        self.tasks[itself] = _stand_in(Task(id=itself, name=self.running.name), self.statuses[itself], result)
        for new in self.running.made:
            if new not in below:
                self._run_and_note(new)
        if self.first_failure is not None:
            new, error = self.first_failure
            raise TaskFailed(
                f"{new.name}, made by {self.running.name}, failed: {error}", status=Status.FAILURE, error=str(error)
            ) from error
        return result

    def _of_the_call(self) -> list[NewTask]:
        """Return what belongs to the call: not what it put behind itself."""
        behind = {self.running.id}
        for new in self.running.made:
            if new.previous_id in behind:
                behind.add(new.id)
        return [new for new in self.running.made if new.id not in behind]

    def _run_and_note(self, new: NewTask) -> None:
        self.statuses[new.id] = self._run(new)
        self.tasks[new.id] = _stand_in(Task.made(new, None), self.statuses[new.id], self.results.get(new.id))

    def _run(self, new: NewTask) -> Status:
        before = self.statuses.get(new.previous_id, Status.SUCCESS) if new.previous_id else Status.SUCCESS
        if before != Status.SUCCESS and not new.force_chain:
            return Status.SKIPPED
        args = codec.resolve(codec.loads(new.args))
        if new.pass_result:
            args = [self.results.get(new.previous_id) if new.previous_id else None, *args]
        definition = registry.get(new.name)
        run = _Run(definition, tuple(args), codec.resolve(codec.loads(new.kwargs)), new)
        run.running.previous = self.tasks.get(new.previous_id) if new.previous_id else None
        try:
            self.results[new.id] = async_to_sync(run.in_loop)() if definition.is_coroutine else run.here()
        except Exception as error:
            self.first_failure = self.first_failure or (new, error)
            return Status.FAILURE
        return Status.SUCCESS


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
        run_after=None,
        scheduled_for=None,
        pass_result=False,
        previous_result=None,
        key=None,
        waited=0.0,
    )
