"""Why a task is not running, in plain sentences: where a claim wants something of a task, there is a sentence for when it is not so.

What holds is asked of the database with the claim's own conditions (`sql.EXPLAIN`); here it is only put into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from cq import database, sql
from cq.conf import conf
from cq.exceptions import TaskGone
from cq.moments import duration, instant
from cq.new import GROUP
from cq.states import DELAYED, TERMINAL, Status

_SUBTASKS = 3
_HOLDERS = 3
_LONGEST_ERROR = 200
IS_NEXT = "It is next: a worker takes it in a moment."


class _Seen(NamedTuple):
    """What there is to see of a task. In the order of `sql.EXPLAIN`."""

    id: UUID
    name: str
    queue: str
    status: str
    attempt: int
    crashes: int
    exception: str | None
    error: str | None
    outcome: str | None
    force_chain: bool
    key: str | None
    key_limit: int | None
    rate_starts: int | None
    rate_seconds: int | None
    run_after: datetime | None
    awaits: str | None
    permission: str | None
    start_by: datetime | None
    prune_after: datetime | None
    now: datetime
    is_ready: bool
    is_in_time: bool
    is_paused: bool
    paused_at: datetime | None
    before_id: UUID | None
    before_name: str | None
    before_status: str | None
    lingers: bool
    serving: int
    fit: int  # serve its queue and know its name
    knowing: int
    slots: int
    running: int


def explain(task_id: UUID) -> list[str]:
    """Say why a task is not running; nothing of one that runs or has ended. `TaskGone` if it is not stored."""
    return list(_reasons(_look(task_id)))


def _look(task_id: UUID) -> _Seen:
    for row in database.execute(sql.EXPLAIN, conf().paused_queues, task_id):
        return _Seen(*row)
    raise TaskGone(f"Task {task_id} is no longer stored.")


def _reasons(seen: _Seen) -> Iterator[str]:
    status = Status(seen.status)
    if status in TERMINAL or status == Status.RUNNING:
        return
    if status == Status.PENDING:
        yield _before(seen)
    elif status == Status.WAITING:
        yield from _subtasks(seen)
    elif status in DELAYED:
        yield from _delayed(seen, status)
    else:
        yield from _queued(seen)


def _before(seen: _Seen) -> str:
    if seen.before_id is None:
        until = "" if seen.prune_after is None else f"; {_at(seen.prune_after, seen.now)} it is revoked"
        return f"It is held back until submit() is called{until}."
    what = f"{seen.before_name} {_short(seen.before_id)}"
    if seen.before_status in TERMINAL:
        return f"Its predecessor {what} has ended in {seen.before_status}: a worker looks in a moment at what follows."
    how = "has ended" if seen.force_chain else "has ended in SUCCESS"
    return f"It waits for its predecessor {what}, which is {seen.before_status}, and starts when that {how}."


def _subtasks(seen: _Seen) -> Iterator[str]:
    rows = database.execute(sql.EXPLAIN_SUBTASKS, seen.id, seen.id, _SUBTASKS)
    if not rows:
        yield "Its body has returned and all its subtasks have ended: a worker ends it in a moment."
        return
    number = rows[0][0]
    more = f", the first {len(rows)} are" if number > len(rows) else ""
    own = "It is a group" if seen.name == GROUP else "Its body has returned"
    yield f"{own}; it waits for {_so_many(number, 'subtask')}{more}:"
    for _, subtask_id, name, status in rows:
        yield f"{name} {_short(subtask_id)} is {status}{_first_reason(subtask_id)}"


def _first_reason(task_id: UUID) -> str:
    """Say what a subtask waits for, without what its own subtasks wait for."""
    try:
        first = next(_reasons(_look(task_id)), None)
    except TaskGone:
        first = None
    return "." if first is None else f": {first.rstrip(':.')}."


def _delayed(seen: _Seen, status: Status) -> Iterator[str]:
    if status == Status.RETRY:
        yield _failed(seen)
    if status == Status.SUSPENDED and seen.awaits is not None:
        sender = f", which takes the permission {seen.permission}" if seen.permission else ""
        yield f"It waits for the event {seen.awaits!r}{sender}."
    if seen.run_after is None:
        return
    if seen.run_after > seen.now:
        verb = {
            Status.SCHEDULED: "It is due",
            Status.RETRY: "It is tried again",
            Status.SUSPENDED: "It goes on without one" if seen.awaits else "It sleeps, and goes on",
        }[status]
        yield f"{verb} {_at(seen.run_after, seen.now)}."
        return
    yield f"It was due {_ago(seen.run_after, seen.now)}: a worker makes it ready in a moment."
    yield from _workers(seen)


def _failed(seen: _Seen) -> str:
    if seen.outcome == "crashed":
        return f"In attempt {seen.attempt} its worker process died."
    kind = (seen.exception or "").rpartition(".")[2] or "an error"
    text = " ".join((seen.error or "").split())
    shown = text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"
    return f"Attempt {seen.attempt} failed with {kind}{f': {shown}' if shown and shown != kind else ''}."


def _queued(seen: _Seen) -> Iterator[str]:
    reasons = [*_paused(seen), *_workers(seen), *_late(seen), *_lingering(seen)]
    if not seen.is_ready and seen.key is not None:
        reasons += _key(seen)
    if seen.crashes:
        times = "once" if seen.crashes == 1 else f"{seen.crashes} times"
        reasons.append(f"Its worker process died under it {times}: it runs alone in a process that is started for it.")
    if not reasons:
        reasons += _place(seen)
    if seen.start_by is not None and seen.is_in_time and not seen.attempt:
        reasons.append(f"If it has not started {_at(seen.start_by, seen.now)}, it expires.")
    yield from reasons


def _paused(seen: _Seen) -> Iterator[str]:
    if seen.is_paused:
        how = "is paused by CQ['QUEUES']" if seen.paused_at is None else f"was paused {_ago(seen.paused_at, seen.now)}"
        yield f"Its queue {seen.queue} {how}."


def _workers(seen: _Seen) -> Iterator[str]:
    if not seen.serving:
        yield f"No living worker serves its queue {seen.queue}."
    if seen.serving and not seen.fit and seen.knowing:
        yield f"No living worker of its queue {seen.queue} knows the name {seen.name}; one of other queues does."
    if not seen.knowing and seen.serving:
        left = (seen.run_after or seen.now) + timedelta(seconds=conf().UNKNOWN_TASK_TIMEOUT) - seen.now
        when = f"in {duration(left)}" if left > timedelta(0) else "soon"
        yield f"No living worker knows the name {seen.name}. If that stays so, it fails {when}."


def _late(seen: _Seen) -> Iterator[str]:
    if not seen.is_in_time and seen.start_by is not None:
        yield f"Its time to start was over {_ago(seen.start_by, seen.now)}: it expires in a moment."


def _lingering(seen: _Seen) -> Iterator[str]:
    if seen.lingers:
        yield "An earlier body of it still runs; it starts again when that is gone."


def _key(seen: _Seen) -> Iterator[str]:
    holders = [task_id for (task_id,) in database.execute(sql.EXPLAIN_KEY, seen.key, seen.key)]
    is_full = seen.key_limit is not None and len(holders) >= seen.key_limit
    if is_full:
        shown = ", ".join(_short(task_id) for task_id in holders[:_HOLDERS])
        more = ", …" if len(holders) > _HOLDERS else ""
        yield (
            f"{len(holders):,} of {_so_many(seen.key_limit or 0, 'place')} of its key {seen.key!r} "
            f"are taken, by {shown}{more}."
        )
    is_used_up = False
    if seen.rate_starts is not None and seen.rate_seconds is not None:
        started, again_at = _starts(seen)
        is_used_up = started >= seen.rate_starts
        if is_used_up:
            per = duration(timedelta(seconds=seen.rate_seconds))
            again = f"; the next one may start {_at(again_at, seen.now)}" if again_at and again_at > seen.now else ""
            yield f"The rate of its key {seen.key!r} is used up: {_so_many(started, 'start')} in the last {per}{again}."
    if not is_full and not is_used_up:
        yield f"It waits for its turn among the tasks of its key {seen.key!r}."


def _starts(seen: _Seen) -> tuple[int, datetime | None]:
    """Count the starts in the rate's window, those admitted for one included; say when the oldest leaves it."""
    ((started, again_at),) = database.execute(sql.EXPLAIN_STARTS, seen.key, seen.rate_seconds)
    return started, again_at


def _place(seen: _Seen) -> Sequence[str]:
    if seen.running >= seen.slots > 0:
        return [f"All slots of the workers that may run it are busy: {seen.running:,} of {seen.slots:,}."]
    for (place,) in database.execute(sql.EXPLAIN_PLACE, seen.id, seen.id):
        return [
            f"{_so_many(place, 'task')} of its queue {'is' if place == 1 else 'are'} before it." if place else IS_NEXT
        ]
    return ["More than 1,000 tasks of its queue are before it."]


def _at(moment: datetime, now: datetime) -> str:
    return f"at {instant(moment)}, in {duration(moment - now)}" if moment > now else "in a moment"


def _ago(moment: datetime, now: datetime) -> str:
    return f"at {instant(moment)}, {duration(now - moment)} ago"


def _so_many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(task_id: UUID) -> str:
    """Show the end of an id, where ids differ; the commands find a task by it."""
    return str(task_id)[-12:]
