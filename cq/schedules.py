"""Fire what is due: each tick of a repeating task is decided once, fired or skipped with a reason, by whoever locks its row first.

Any worker may, and none has to. Lock the rows, then look what still runs, then decide; tasks, counts and the next tick commit
together, so a crash leaves everything to the next one. The unique index over schedule and tick stands behind that, for clocks that
are put back and rows that are restored. What a user wrote (`key=`, `unique=`) runs here: so this is for children, never for the keeper.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DataError, IntegrityError

from cq import codec, database, engine, notifier, registry, sql
from cq.call import Call
from cq.cron import BadCrontab, BadZone
from cq.failpoints import failpoint
from cq.failure import describe, fit
from cq.new import NewTask
from cq.options import check_call_options
from cq.timetable import Timetable

logger = logging.getLogger("cq.schedules")

# Rows that are decided in one transaction, and for how long it goes on to take more.
_BATCH = 50
_BUDGET = 0.2
# Ticks that `catch_up="all"` fires at most, and that are counted as missed in one go.
_MOST_CAUGHT_UP = 100
_MOST_COUNTED = 2000
# A tick that is noticed within this time was not missed: workers may have died, or been busy, and others have taken their place.
_ON_TIME = timedelta(seconds=30)


class Due(NamedTuple):
    """A repeating task as its row was when it was locked. In the order of `sql.TICKS`."""

    id: int
    name: str
    task: str
    args: str
    kwargs: str
    crontab: str
    every: timedelta | None
    timezone: str
    anchor: datetime
    starts_at: datetime | None
    ends_at: datetime | None
    queue: str | None
    priority: int | None
    result_ttl: int | None
    overlap: str
    catch_up: str
    catch_up_window: timedelta | None
    jitter: timedelta | None
    next_run: datetime | None
    planned: bool
    buffered: datetime | None
    skipped: str
    reason: str | None
    now: datetime

    @property
    def timetable(self) -> Timetable:
        """When it is due."""
        return Timetable(self.crontab, self.every, self.timezone, self.anchor, self.starts_at, self.ends_at)


@dataclass(slots=True)
class Decision:
    """What becomes of the ticks of one repeating task."""

    due: Due
    next_run: datetime | None
    fires: Sequence[datetime] = ()
    skips: Counter[str] = field(default_factory=Counter)
    buffered: datetime | None = None
    fired: list[datetime] = field(default_factory=list)
    reason: str | None = None

    @property
    def skipped(self) -> str:
        """What was skipped up to now by reason, as the row keeps it."""
        return json.dumps(Counter(json.loads(self.due.skipped)) + self.skips)

    @property
    def last_run(self) -> datetime | None:
        """The last tick that was fired now."""
        return max(self.fired, default=None)


class Run(NamedTuple):
    """A task that is to be made for a repeating task; no tick: somebody runs it by hand."""

    schedule_id: int
    new: NewTask
    scheduled_for: datetime | None = None


@dataclass(slots=True)
class Fired:
    """What deciding came to."""

    decided: int = 0
    tasks: list[UUID] = field(default_factory=list)
    queues: set[str] = field(default_factory=set)
    revoked: list[UUID] = field(default_factory=list)


def next_tick(names: Sequence[str] | None = None) -> float | None:
    """Say in how many seconds something is to be decided for the repeating tasks of these task functions; None: never."""
    known = registry.names() if names is None else list(names)
    ((seconds,),) = database.execute(sql.NEXT_TICK, known, known)
    return None if seconds is None else float(seconds)


def fire_all(budget: float = 1.0) -> Fired:
    """Decide all that is due here and is locked by nobody else, batch by batch, for so many seconds."""
    until = time.monotonic() + budget
    total = Fired()
    while (this := fire()).decided:
        total.decided += this.decided
        total.tasks += this.tasks
        total.queues |= this.queues
        total.revoked += this.revoked
        if time.monotonic() > until:
            break
    return total


def pause_failing() -> None:
    """Pause the repeating tasks whose last runs all went wrong."""
    for (name,) in database.execute(sql.PAUSE_FAILING):
        logger.error("repeating task paused, its last runs went wrong name=%r", name)


def fire() -> Fired:
    """Decide the ticks that are due of some repeating tasks: tasks, counts and next ticks are true together."""
    fired = Fired()
    pause_failing()
    with database.read_committed():
        locked = [Due(*row) for row in database.execute(sql.TICKS, registry.names(), _BATCH)]
        if not locked:
            return fired
        failpoint("fire.locked")
        decisions = _decide(locked, _with_runs([due.id for due in locked]), fired)
        runs = [run for decision in decisions for run in _runs(decision)]
        made = _note(decisions, runs, *_insert_all(runs))
        failpoint("fire.inserted")
        _write(decisions)
        fired.decided = len(decisions)
        fired.tasks = [run.new.id for run in made]
        fired.queues = {run.new.queue for run in made}
        failpoint("fire.before_commit")
    failpoint("fire.after_commit")
    if fired.queues:
        notifier.wake(fired.queues)
    return fired


def _with_runs(ids: Sequence[int]) -> set[int]:
    return {schedule_id for (schedule_id,) in database.execute(sql.RUNNING_TICKS, list(ids))}


def _decide(locked: Sequence[Due], running: set[int], fired: Fired) -> list[Decision]:
    """Decide as many as there is time for; and stop what has to give way. What cannot be stopped now, is left due."""
    until = time.monotonic() + _BUDGET
    decisions: list[Decision] = []
    for due in locked:
        if decisions and time.monotonic() > until:
            break
        decisions.append(decide(due, is_running=due.id in running))
    replaced = [
        one.due.id for one in decisions if one.fires and one.due.overlap == "cancel_running" and one.due.id in running
    ]
    if replaced:
        # Locked already, or left: nobody waits for a task's row here.
        ids = [task_id for (task_id,) in database.execute(sql.LOCK_RUNS, replaced)]
        fired.revoked = engine.revoke(ids, reason="A later tick of its repeating task took its place.", terminate=True)
        still = _with_runs(replaced)
        decisions = [one for one in decisions if one.due.id not in still]
    return decisions


def decide(due: Due, *, is_running: bool) -> Decision:
    """Decide the ticks of one repeating task that are due; a timetable that cannot be read stands still, saying why."""
    try:
        if not due.planned:
            return Decision(due, due.timetable.first(due.now), reason=due.reason)
        return _decide_ticks(due, is_running=is_running)
    except (BadCrontab, BadZone) as error:
        return Decision(due, None, reason=str(error))


def _decide_ticks(due: Due, *, is_running: bool) -> Decision:
    decision = Decision(due, due.next_run, buffered=due.buffered, reason=due.reason)
    ticks = _caught_up(decision)
    if due.overlap == "buffer_one":
        waiting = ([due.buffered] if due.buffered else []) + ticks
        free = 0 if is_running else 1
        decision.fires = waiting[:free]
        decision.buffered = next(iter(waiting[free:]), None)
        decision.skips["overlap"] += len(waiting[free + 1 :])
        return decision
    decision.buffered = None
    decision.skips["overlap"] += due.buffered is not None
    if due.overlap == "allow":
        decision.fires = ticks
    elif due.overlap == "cancel_running":
        decision.fires = ticks[-1:]
    else:
        decision.fires = [] if is_running else ticks[:1]
    decision.skips["overlap"] += len(ticks) - len(decision.fires)
    return decision


def _caught_up(decision: Decision) -> list[datetime]:
    """Return the ticks that are not too late, count the others, and move on to the next one.

    What was due a moment ago was not missed, however many ticks that are. Else `catch_up` decides on all that have passed.
    """
    due = decision.due
    first, table = due.next_run, due.timetable
    if first is None or first > due.now:
        return []
    if due.now - first <= _ON_TIME:
        ticks = list(table.ticks(first, due.now))
        decision.next_run = table.first(ticks[-1])
        return ticks
    number = {"last": 1, "all": _MOST_CAUGHT_UP}.get(due.catch_up, 0)
    kept = table.last(number, first, due.now) if number else []
    if due.catch_up_window is not None:
        kept = [tick for tick in kept if tick >= due.now - due.catch_up_window]
    before = kept[0] if kept else due.now + timedelta(microseconds=1)
    missed, reached = table.count(first, before, _MOST_COUNTED) if first < before else (0, first)
    decision.skips["missed"] += missed
    if reached is not None and reached < before:  # too many to be counted in one go
        decision.next_run = reached
        return []
    decision.next_run = table.first(kept[-1]) if kept else reached
    return kept


def _runs(decision: Decision) -> list[Run]:
    """Make the tasks of the ticks that fire; what the user's code refuses is skipped, with the reason."""
    runs = []
    due = decision.due
    for tick in decision.fires:
        try:
            runs.append(Run(due.id, _task_of(due, tick), tick))
        except Exception as error:  # the user's own functions of the arguments may raise anything
            _refuse(decision, error)
    return runs


def _refuse(decision: Decision, error: Exception) -> None:
    decision.skips["refused"] += 1
    decision.reason = fit(f"A tick could not be fired: {describe(error)[0]}")
    logger.error("tick refused name=%r error=%s", decision.due.name, decision.reason)


def _task_of(due: Due, tick: datetime) -> NewTask:
    args, kwargs = codec.loads(due.args, strict=False), codec.loads(due.kwargs, strict=False)
    new = task_for(due.task, args, kwargs, queue=due.queue, priority=due.priority, result_ttl=due.result_ttl)
    if due.jitter:
        new.run_after = tick + random.random() * due.jitter
    return new


def task_for(name: str, args: Any, kwargs: Mapping[str, Any], **options: Any) -> NewTask:
    """Make the task of one run; options that are None are the task function's own."""
    given = check_call_options({option: value for option, value in options.items() if value is not None})
    definition = registry.get(name)
    asks_the_user = definition.key is not None or callable(definition.unique)
    # What it does to the database is undone if it raises, and not what was done here.
    with database.atomic() if asks_the_user else nullcontext():
        return Call(definition, tuple(args), kwargs, given).root()


def insert(runs: Sequence[Run]) -> set[UUID]:
    """Insert the tasks of runs in the open transaction; return those that are new. The others were there, or are not unique."""
    if not runs:
        return set()
    new = [run.new for run in runs]
    rows = database.execute(
        sql.FIRE,
        f"[{','.join(task.as_json() for task in new)}]",
        [task.id for task in new],
        [task.result_ttl for task in new],
        [run.schedule_id for run in runs],
        [run.scheduled_for for run in runs],
    )
    return {task_id for (task_id,) in rows}


def _insert_all(runs: Sequence[Run]) -> tuple[set[UUID], dict[UUID, Exception]]:
    """Insert all; where the database refuses one of them, the others all the same. Return those that are new, and the errors."""
    try:
        with database.atomic():
            return insert(runs), {}
    except (DataError, IntegrityError) as error:
        if len(runs) == 1:
            return set(), {runs[0].new.id: error}
    inserted: set[UUID] = set()
    errors: dict[UUID, Exception] = {}
    for run in runs:
        this, wrong = _insert_all([run])
        inserted |= this
        errors |= wrong
    return inserted, errors


def _note(
    decisions: Sequence[Decision], runs: Sequence[Run], inserted: set[UUID], errors: Mapping[UUID, Exception]
) -> list[Run]:
    """Note what became of each tick; return the runs that were made.

    A tick that has its task already was decided before: the clock was put back, or the row restored. It is not counted again.
    """
    decided = _have_tasks([run for run in runs if run.new.id not in inserted])
    by_id = {decision.due.id: decision for decision in decisions}
    for run in runs:
        decision = by_id[run.schedule_id]
        if run.new.id in errors:
            _refuse(decision, errors[run.new.id])
        elif run.new.id in inserted and run.scheduled_for is not None:
            decision.fired.append(run.scheduled_for)
            decision.reason = None
        elif (run.schedule_id, run.scheduled_for) not in decided:
            decision.skips["unique"] += 1
    return [run for run in runs if run.new.id in inserted]


def _have_tasks(runs: Sequence[Run]) -> set[tuple[Any, ...]]:
    if not runs:
        return set()
    return set(database.execute(sql.FIRED, [run.schedule_id for run in runs], [run.scheduled_for for run in runs]))


def _write(decisions: Sequence[Decision]) -> None:
    if decisions:
        rows = [(one.due.id, one.next_run, one.last_run, one.buffered, one.skipped, one.reason) for one in decisions]
        database.execute(sql.DECIDE, *map(list, zip(*rows, strict=True)))


def clock() -> datetime:
    """Return the database's time, the only one that counts."""
    ((now,),) = database.execute(sql.CLOCK)
    moment: datetime = now
    return moment


__all__ = ["Decision", "Due", "Fired", "Run", "clock", "decide", "fire", "fire_all", "insert", "next_tick", "task_for"]
