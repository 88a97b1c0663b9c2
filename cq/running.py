"""The running task, as its body sees it: `cqt`.

What a body makes (subtasks, siblings, chains on them) is kept here, in memory, and is inserted by the transaction that ends the
body. A body that raises, dies or is revoked leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from cq import codec, engine, unique
from cq.call import Arguments, Callee, call_of
from cq.conf import conf
from cq.exceptions import NotAllowedHere, ReturnedForeignTask, TaskFinished, TooLarge
from cq.interruption import Interruption
from cq.models import Task
from cq.models.task import conflict, refuse_conflicts
from cq.new import NewTask
from cq.outcome import Claimed, given_back


class RunningTask:
    """The task whose body is running: its verbs, and the attributes of its row.

    What is not listed here (`cqt.created_at`, `cqt.created_by` …) is read from the row at first use.
    """

    def __init__(self, claimed: Claimed, interruption: Interruption | None = None, *, is_direct: bool = False) -> None:
        self._claimed = claimed
        self._interruption = interruption
        self._is_direct = is_direct
        self._is_open = True
        self.id = claimed.id
        self.name = claimed.name
        self.queue = claimed.queue
        self.priority = claimed.priority
        self.attempt = claimed.attempt
        self.depth = claimed.depth
        self.parent_id = claimed.parent_id
        self.previous_id = claimed.previous_id
        self.scheduled_for: datetime | None = claimed.scheduled_for
        self.made: list[NewTask] = []
        self.enqueued: dict[UUID, UUID | None] = {}
        self._unique: dict[unique.Unique, Task] = {}

    def __repr__(self) -> str:
        return f"<running {self.name} {self.id} attempt {self.attempt}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.row, name)

    @cached_property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments it was called with; model instances are `ModelRef`s."""
        return tuple(codec.loads(self._claimed.args, strict=False))

    @cached_property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments it was called with."""
        kwargs: dict[str, Any] = codec.loads(self._claimed.kwargs, strict=False)
        return kwargs

    @cached_property
    def row(self) -> Task:
        """The model instance, read from the database."""
        if self._is_direct:
            raise NotAllowedHere("A direct call has no row. Use delay() to get one.")
        return Task.objects.get(pk=self.id)

    @cached_property
    def parent(self) -> Parent | None:
        """The task that this one is a subtask of, or None."""
        return None if self.parent_id is None else Parent(self, self.parent_id)

    @cached_property
    def previous(self) -> Task | None:
        """The task that this one follows, or None."""
        return None if self.previous_id is None else Task.objects.filter(pk=self.previous_id).first()

    @cached_property
    def root(self) -> Any:
        """The first task of the chain at the top of the tree; this one, if nothing is before or above it."""
        workflow_id = self._claimed.workflow_id
        return self if workflow_id is None else Task.objects.get(pk=workflow_id)

    @property
    def idempotency_key(self) -> str:
        """The same text in every attempt: for services that do a thing once per key."""
        return str(self.id)

    def subtask(
        self, func: Callee, args: Arguments = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Task:
        """Make a subtask. It starts when this body has returned; this task ends when all its subtasks have.

        `UniqueConflict` if a task that has not ended has its unique key; a coroutine may fail with it at its end instead.
        """
        return self._add(call_of(func, args, kwargs, options).subtask(), self.id, self.depth + 1)

    def subtask_many(self, func: Callee, many: Iterable[Arguments], **options: Any) -> list[Task]:
        """Make a subtask for each of these arguments."""
        made = [call_of(func, args, None, options).subtask() for args in many]
        return self._add_all(made, self.id, self.depth + 1)

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
        """Run another task after this one and its subtasks have ended."""
        new = call_of(func, args, kwargs, options).successor(self.id, force_chain=force_chain, pass_result=pass_result)
        return self._add(new, self.parent_id, self.depth)

    def add_successor(self, new: NewTask, before: Task) -> Task:
        """Put a task behind one that was made here; it has the same parent."""
        return self._add(new, before.parent_id, self.depth + (before.parent_id == self.id))

    def add_sibling(
        self, func: Callee, args: Arguments, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Task:
        """Make another subtask of this task's parent."""
        return self._add(call_of(func, args, kwargs, options).subtask(), self.parent_id, self.depth)

    def _add(self, new: NewTask, parent_id: UUID | None, depth: int) -> Task:
        return self._add_all([new], parent_id, depth)[0]

    def _add_all(self, made: Sequence[NewTask], parent_id: UUID | None, depth: int) -> list[Task]:
        self._refuse_conflicts([new for new in made if new.unique_key is not None])
        return [self._keep(new, parent_id, depth) for new in made]

    def _refuse_conflicts(self, made: Sequence[NewTask]) -> None:
        """Refuse unique keys of what this body has made, or of stored tasks, where a query is possible: not on an event loop.

        Somebody may take one until this body ends all the same. Then it fails.
        """
        keys = Counter(unique.of(new) for new in made)
        for new in made:
            if (key := unique.of(new)) in self._unique or keys[key] > 1:
                raise conflict(new.name, new.unique_key, self._unique.get(key))
        if made and not self._is_direct and not _is_on_a_loop():
            refuse_conflicts(made)

    def _keep(self, new: NewTask, parent_id: UUID | None, depth: int) -> Task:
        if not self._is_open:
            raise TaskFinished(f"The body of task {self.id} has ended; nothing can be added to it any more.")
        if self._interruption is not None:
            self._interruption.check()
        limits = conf()
        if depth > limits.MAX_DEPTH:
            raise TooLarge(
                f"A subtask of task {self.id} would be {depth} levels deep; CQ['MAX_DEPTH'] allows {limits.MAX_DEPTH}."
            )
        if len(self.made) >= limits.MAX_FANOUT:
            raise TooLarge(
                f"Task {self.id} has made {len(self.made)} tasks already, as many as CQ['MAX_FANOUT'] allows. "
                "Make subtasks that make the rest."
            )
        new.parent_id = parent_id
        new.maker_id = self.id
        new.maker_claims = self._claimed.claims
        self.made.append(new)
        task = Task.made(new, None, self)
        if new.unique_key is not None:
            self._unique[unique.of(new)] = task
        return task

    def note_enqueued(self, new: NewTask | Task) -> None:
        """Remember a task that this body enqueued for itself: it may return it."""
        self.enqueued[new.id] = new.previous_id

    def enqueued_behind(self, first: UUID) -> list[UUID]:
        """Return a task that this body enqueued for itself, and all that it enqueued behind it, in order of making."""
        found = {first}
        for task_id, previous_id in self.enqueued.items():
            if previous_id in found:
                found.add(task_id)
        return [task_id for task_id in self.enqueued if task_id in found]

    def will_contain(self, task: Task) -> bool:
        """Say whether this body would wait for something that starts only after it."""
        return task.maker is self or self.id in (task.parent_id, task.pk)

    def checkpoint(self) -> None:
        """Raise if this body is to end: `TaskTimeout` when its time is over, `Fenced` when its task was revoked or taken over.

        In a worker it costs nothing to ask often: the worker is told of a revoke, at the latest after `POLL_INTERVAL`.
        """
        stop = self._interruption
        if stop is None:
            return
        stop.check()
        if not stop.is_watched and stop.loop_task is None and not engine.still_mine([given_back(self._claimed)]):
            stop.tell()
            stop.check()

    @property
    def is_open(self) -> bool:
        """Say whether its body may still add to it: what it has made is in memory only."""
        return self._is_open

    def close(self) -> None:
        """Take nothing more: the body has ended."""
        self._is_open = False

    def chain_returned(self, task: Task) -> list[UUID]:
        """Return the chain, last one first, whose result a body hands on by returning its last task.

        Empty for a subtask; `ReturnedForeignTask` for a task that this body has not made.
        """
        if task.maker is self and task.parent_id == self.id:
            return []
        chain: list[UUID] = []
        task_id: UUID | None = task.id
        while task_id in self.enqueued:
            chain.append(task_id)
            task_id = self.enqueued[task_id]
        if task_id is not None or not chain:
            raise ReturnedForeignTask(
                f"The body of {self.name} returned task {task.id}, which is not a subtask of it: return cqt.subtask(…) instead. "
                "(A function that is atomic may also return what it made with delay() itself.)"
            )
        return chain


def _is_on_a_loop() -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


class Parent:
    """The parent of a running task: its row's attributes, and the verb to make a sibling."""

    def __init__(self, child: RunningTask, parent_id: UUID) -> None:
        self._child = child
        self.id = parent_id

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.row, name)

    @cached_property
    def row(self) -> Task:
        """The model instance, read from the database."""
        return Task.objects.get(pk=self.id)

    def subtask(
        self, func: Callee, args: Arguments = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Task:
        """Make a sibling of the running task. It starts when that one's body has returned."""
        return self._child.add_sibling(func, args, kwargs, options)
