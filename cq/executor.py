"""Run one claimed task: arguments, body, what it returned, and an `Outcome` as a value.

Completion commits with the work. An atomic body that has used the database writes its own outcome as the last statement of its
transaction, fenced by the claim; any other outcome is handed back, to be written together with others.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper

from cq import codec, current, database, engine, members, outcome, registry, states, unique
from cq.conf import conf
from cq.definition import Definition
from cq.engine import Finished
from cq.exceptions import Fenced, NotAllowedHere, ReturnedForeignTask, TaskNotRegistered, TaskTimeout, TransactionBroken
from cq.failpoints import failpoint
from cq.failure import describe
from cq.interruption import Interruption, Stopped
from cq.journal import is_suspension
from cq.models import Task
from cq.models.task import conflict_at_the_end
from cq.outcome import Claimed, Outcome
from cq.retry import decide
from cq.running import RunningTask
from cq.transactions import ENDED, OUTSIDE, Block, Watch, depth

logger = logging.getLogger("cq.task")

# How often a task is run again because of a conflict in the database, and because its connection was lost.
_MOST_RERUNS = {"error": 5, "interrupted": 20}
# 26000: a plan of ours is gone, because the body has dropped it or a pooler has given us another session.
_CONFLICTS = {"40001", "40P01", "26000"}
_LOST = {"57P01", "57P02", "57P03"}
_MARK_IS_GONE = {"3B001", "25P01"}


@dataclass(frozen=True, slots=True)
class Executed:
    """What came of one claim: an outcome that is still to be written, or (with `finished`) one that has been committed.

    Neither: the task was somebody else's by then, and nothing of it is kept.
    """

    outcome: Outcome | None = None
    finished: Finished | None = None


class NotStarted(BaseException):
    """The body must not start: its claim was given back at the last moment."""


# Called right before a body, with the way to stop it.
Started = Callable[[Interruption], object]


def execute(task: Claimed, started: Started = lambda _: None, block: Block | None = None) -> Executed:
    """Run a function's body in this thread; never raises. `started` is called right before the body, and may refuse it.

    `block` is the thread's own, which may stay open for the next body.
    """
    definition = registry.find(task.name)
    if definition is None:
        return Executed(failed(task, None, TaskNotRegistered(f"Task {task.name!r} is not registered in this worker.")))
    attempt = _Attempt(task, definition, started, block or Block())
    try:
        return attempt.in_transaction() if definition.atomic else attempt.plain()
    except NotStarted:
        return Executed(outcome.given_back(task))
    except Stopped:
        return Executed(outcome.interrupted(task))
    except Fenced as fenced:
        return attempt.overtaken(fenced)
    except BaseException as error:  # around the user's function: whatever it raises is its outcome
        return attempt.raised(error)
    finally:
        attempt.clean_up()


async def aexecute(task: Claimed, started: Started = lambda _: None) -> Executed:
    """Run a coroutine's body on this loop; never raises, but for the cancellation of the worker itself."""
    definition = registry.find(task.name)
    if definition is None:
        return Executed(failed(task, None, TaskNotRegistered(f"Task {task.name!r} is not registered in this worker.")))
    attempt = _Attempt(task, definition, started, Block())
    try:
        return await attempt.in_loop()
    except NotStarted:
        return Executed(outcome.given_back(task))
    except Fenced as fenced:
        return await sync_to_async(attempt.overtaken)(fenced)
    except asyncio.CancelledError as error:
        if (here := asyncio.current_task()) is not None and here.cancelling():
            raise
        return attempt.raised(error)
    except BaseException as error:  # as above
        return attempt.raised(error)


class _Attempt:
    """One attempt at one body."""

    def __init__(self, task: Claimed, definition: Definition, started: Started, block: Block) -> None:
        self.task = task
        self.definition = definition
        self.started = started
        self.interruption = Interruption(definition.timeout_of(engine.decode_options(task.options)))
        self.running = RunningTask(task, self.interruption)
        self.finished: Finished | None = None
        self.has_committed = False
        self.connection = database.connection()
        self.interruption.cancel = partial(database.cancel, self.connection)
        self.block = block
        self.depth = OUTSIDE if block.is_open else depth(self.connection)
        self.watch: Watch | None = None

    def in_transaction(self) -> Executed:
        """Body, result and completion are true together."""
        connection = self.connection
        self.block.renew()
        self.block.enter()
        try:
            watch = self.watch = Watch(connection)
            with connection.execute_wrapper(watch):
                ended = self._conclude(self._call())
                failpoint("body.returned")
            watch.check()
            if not watch.has_used:
                self.block.leave_unused()
                return Executed(ended)
            if self.depth == OUTSIDE:
                connection.run_on_commit.insert(0, (set(), self._note_commit, False))  # type: ignore[arg-type]
            self.finished = self._write(ended)
        except BaseException as error:
            if self.interruption.is_torn:
                self.block.drop()
                database.discard()
            else:
                self.block.leave(error)
            raise
        self.block.leave()
        failpoint("body.committed")
        return Executed(finished=self.finished)

    def plain(self) -> Executed:
        """The body commits as it goes."""
        self.block.renew()
        self.block.leave()
        connection = self.connection
        self.watch = Watch(connection, forbids=False)
        with connection.execute_wrapper(self.watch):
            result = self._call()
        if depth(connection) != self.depth:
            raise TransactionBroken(
                "The body left a transaction open; it was rolled back. Use transaction.atomic() as a context."
            )
        ended = self._conclude(result)
        failpoint("body.returned")
        return Executed(ended)

    async def in_loop(self) -> Executed:
        """The body runs on the event loop and commits as it goes."""
        args, kwargs = await sync_to_async(lambda: self._arguments(database.connection()))()
        await sync_to_async(lambda: self.running.previous)()  # for the body, which cannot read it itself
        token = current.enter(self.running)
        try:
            self._start()
            result = await self.interruption.arun(self.definition.func, args, kwargs)
        finally:
            current.leave(token)
            self.running.close()
        failpoint("body.returned")
        return Executed(self._conclude(result))

    def _call(self) -> Any:
        args, kwargs = self._arguments(self.connection)
        token = current.enter(self.running)
        try:
            failpoint("body.starting")
            self._start()
            return self.interruption.run(self.definition.func, args, kwargs)
        finally:
            current.leave(token)
            self.running.close()

    def _start(self) -> None:
        self.interruption.start()
        self.started(self.interruption)

    def _arguments(self, connection: BaseDatabaseWrapper) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        task = self.task
        self.running.journal.open(connection)
        first = [self.running] if self.definition.takes_task else []
        if not task.pass_result:
            args, kwargs = codec.recall(task.args, task.kwargs)
            return (*first, *args), kwargs
        result = task.previous_result
        if result == members.ELSEWHERE and task.previous_id is not None:
            result = members.read(task.previous_id)
        before, args, kwargs = codec.recall(result or "null", task.args, task.kwargs)
        return (*first, before, *args), kwargs

    def _conclude(self, result: Any) -> Outcome:
        """Turn what the body returned into an outcome."""
        self.running.journal.refuse_to_go_on()
        made = tuple(self.running.made)
        if isinstance(result, Task):
            chain = self.running.chain_returned(result)
            if chain and not self.definition.atomic:
                raise ReturnedForeignTask(
                    f"The body of {self.task.name} returned a task that it made with delay(); it may have started already. "
                    "Return cqt.subtask(…) instead."
                )
            return outcome.returned(self.task, None, made, result_of=result.id, waits=True)
        stored = None if result is None else codec.dumps(result, limit=conf().MAX_RESULT_SIZE, what="result")
        waits = any(task.parent_id == self.task.id for task in made)
        return outcome.returned(self.task, stored, made, waits=waits)

    def _write(self, ended: Outcome) -> Finished:
        is_marked = self.watch is not None and self.watch.has_marked
        adopts = ended.result_of is not None and ended.result_of in self.running.enqueued
        try:
            finished = engine.finish_own(ended, is_marked=is_marked, commits=self.depth == OUTSIDE and not adopts)
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlstate", None) in _MARK_IS_GONE:
                raise TransactionBroken(ENDED) from error
            if unique.is_conflict(error):
                raise conflict_at_the_end(ended.made) from error
            raise
        if adopts:
            self._adopt(self.running.chain_returned(Task(id=ended.result_of)))
        return finished

    def _adopt(self, chain: list[UUID]) -> None:
        """Make a returned chain, and whatever else was enqueued behind its first task, subtasks of this one."""
        adopted = engine.adopt(self.task.id, self.running.enqueued_behind(chain[-1]))
        if not adopted.issuperset(chain):
            raise ReturnedForeignTask("The body returned a task whose row it has rolled back itself.")

    def _note_commit(self) -> None:
        self.has_committed = True

    def overtaken(self, fenced: Fenced) -> Executed:
        """Keep nothing: the task is somebody else's by now. If it is not, the body has moved its own row, which it may not."""
        try:
            is_mine = bool(engine.still_mine([outcome.given_back(self.task)]))
        except DatabaseError as error:
            return self.raised(error)
        if is_mine:
            return Executed(
                failed(self.task, None, NotAllowedHere("A body cannot revoke its own task. Raise an exception."))
            )
        logger.warning("fenced task=%s name=%s attempt=%s: %s", self.task.id, self.task.name, self.task.attempt, fenced)
        return Executed()

    def raised(self, error: BaseException) -> Executed:
        """Turn what the body raised into an outcome; an `on_commit` hook that raised changes nothing any more."""
        if self.has_committed:
            logger.error("an on_commit hook raised task=%s name=%s", self.task.id, self.task.name, exc_info=error)
            return Executed(finished=self.finished)
        if (wait := self.running.journal.wait) is not None and is_suspension(error):
            return Executed(outcome.suspended(self.task, wait))
        is_over = self.interruption.was_interrupted and isinstance(error, TaskTimeout)
        return Executed(failed(self.task, self.definition, error, kind="timeout" if is_over else "error"))

    def clean_up(self) -> None:
        """Leave the thread's connections as the next body should find them: CQ's own open, others as `CONN_MAX_AGE` says."""
        if settings.DEBUG:
            reset_queries()
        own = self.connection
        if self.interruption.is_torn and self.depth == OUTSIDE:
            self.block.drop()
            database.discard()
            return
        is_changed = self.watch is not None and self.watch.changes_session
        if (
            self.depth == OUTSIDE
            and not self.block.is_open
            and (is_changed or own.errors_occurred or depth(own) != OUTSIDE)
        ):
            database.mend()
        if len(connections.settings) > 1:
            for connection in connections.all(initialized_only=True):
                if connection.alias != own.alias:
                    connection.close_if_unusable_or_obsolete()


def conflicted(ended: Outcome, error: BaseException) -> Outcome | None:
    """Return the outcome of a body of which a task cannot be made, because somebody took its unique key; None: it is another error."""
    if not unique.is_conflict(error):
        return None
    return failed(ended.task, registry.find(ended.task.name), conflict_at_the_end(ended.made))


def failed(
    task: Claimed, definition: Definition | None, error: BaseException, *, kind: str = "error", trace: str | None = None
) -> Outcome:
    """Decide about another attempt after an exception: database conflicts and lost connections are nobody's fault, a few times."""
    if (again := _rerun(task, error)) is not None:
        return again
    policy = definition.policy(engine.decode_options(task.options)) if definition else None
    delay = decide(policy, error, retries_used=task.retries, attempt=task.attempt) if policy else None
    text, name, described = describe(error)
    trace = trace or described
    if delay is None:
        return Outcome(task, states.FAIL, kind, error=text, exception=name, traceback=trace)
    return Outcome(
        task, states.RETRY_LATER, kind, error=text, exception=name, traceback=trace, delay=delay, charge="retries"
    )


def _rerun(task: Claimed, error: BaseException) -> Outcome | None:
    kind = None if task.at_most_once else _database_trouble(error)
    if kind is None or task.transients >= _MOST_RERUNS[kind]:
        return None
    text, name, trace = describe(error)
    delay = min(5.0, 0.05 * 2**task.transients) * random.uniform(0.5, 1.5)
    return Outcome(
        task, states.RETRY_LATER, kind, error=text, exception=name, traceback=trace, delay=delay, charge="transients"
    )


def _database_trouble(error: BaseException) -> str | None:
    """Name the attempt's outcome if PostgreSQL broke it off, else None."""
    cause = error.__cause__
    if not isinstance(error, DatabaseError) or not isinstance(cause, psycopg.Error):
        return None
    state = cause.sqlstate
    if state in _CONFLICTS:
        return "error"
    if state is None:  # the client's own: it could not connect, or found the connection closed
        return "interrupted" if isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)) else None
    return "interrupted" if state in _LOST or state.startswith("08") else None
