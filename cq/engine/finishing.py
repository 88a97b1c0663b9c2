"""The statements that write how tasks ended: a fenced swap, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from cq import database, sql, states
from cq.engine.lists import SLICE, array, texts
from cq.new import as_json
from cq.outcome import Claimed, Moved, Outcome
from cq.states import Status
from cq.suspension import Wait
from cq.wire import Reply, RoundTrip


@dataclass(slots=True)
class Finished:
    """What finishing a list came to."""

    moved: list[Moved] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)
    queues: set[str] = field(default_factory=set)
    # How many outcomes were written: the others' rows are locked by somebody, or no longer ours.
    written: int = 0

    def add(self, other: Finished) -> None:
        """Take in what another list came to."""
        self.written += other.written
        self.moved += other.moved
        self.asked += other.asked
        self.queues |= other.queues


class Finishing:
    """The statements that write outcomes: the fenced swap, what the bodies made, and what follows from it, in this order."""

    def __init__(self, trip: RoundTrip, outcomes: Sequence[Outcome], *, is_own: bool = False) -> None:
        waits = [(outcome.task, outcome.wait) for outcome in outcomes if outcome.wait is not None]
        self.suspended = [trip.send(sql.SUSPEND_OWN if is_own else sql.SUSPEND, *_waits(waits))] if waits else []
        trip.failpoint("finish.suspended")
        outcomes = [outcome for outcome in outcomes if outcome.wait is None]
        if not outcomes:
            self.swapped, self.made, self.followed = Reply([]), [], Reply([])
            return
        made = [task for outcome in outcomes for task in outcome.made]
        ids = array([str(outcome.task.id) for outcome in outcomes])
        is_lone = not made and all(map(_is_lone, outcomes))
        if is_lone and len(outcomes) > 1:
            self.swapped = trip.send(sql.FINISH_LONES, ids, _claims(outcomes), _results(outcomes))
        elif is_lone:
            statement = sql.FINISH_LONE_OWN if is_own else sql.FINISH_LONE
            self.swapped = trip.send(statement, outcomes[0].result, outcomes[0].task.id, outcomes[0].task.claims)
        else:
            self.swapped = trip.send(sql.FINISH_OWN if is_own else sql.FINISH, ids, *_columns(outcomes))
        trip.failpoint("finish.swapped")
        if not is_own and any(task.unique_key is not None for task in made):
            trip.send_unplanned(sql.SHORT_WAIT)
        self.made = [trip.send_unplanned(sql.ENQUEUE_MADE, as_json(part)) for part in database.slices(made, SLICE)]
        trip.failpoint("finish.made")
        for outcome in outcomes:
            if outcome.lingers_in is not None:
                trip.send_unplanned(sql.LINGER, outcome.lingers_in, [outcome.task.id], [outcome.task.claims])
        has_next = not is_lone or any(map(_is_link, outcomes))
        if is_lone and len(outcomes) == 1:
            one = outcomes[0].task.id
            self.followed = (
                trip.send(sql.FOLLOW_LONE, one, one, one) if has_next else trip.send(sql.ASK_NEXT_LONE, one, one)
            )
        else:
            self.followed = trip.send(sql.FOLLOW if has_next else sql.ASK_NEXT, ids, ids)
        trip.failpoint("finish.asked")

    def read(self) -> Finished:
        """Say what it came to, once the statements are through."""
        finished = Finished()
        written = [*self.suspended, self.swapped]
        for task_id, status, queue in (row for reply in [*written, self.followed] for row in reply.rows()):
            if status is None:
                finished.asked.append(task_id)
            else:
                finished.moved.append(Moved(task_id, Status(status), queue))
                if status == Status.FAILURE:  # the database may have called errorbacks: settling it finds their queues
                    finished.asked.append(task_id)
        finished.written = sum(status is not None for reply in written for _, status, _ in reply.rows())
        finished.queues.update(row.queue for row in finished.moved if row.status == Status.QUEUED)
        finished.queues.update(queue for reply in self.made for (queue,) in reply.rows())
        return finished


def _is_lone(outcome: Outcome) -> bool:
    return outcome.transition is states.SUCCEED and outcome.task.parent_id is None and outcome.result_of is None


def _is_link(outcome: Outcome) -> bool:
    """Say whether it has a predecessor: behind a link of a chain there is probably another one."""
    return outcome.task.previous_id is not None


def _columns(outcomes: Sequence[Outcome]) -> list[str | list[str | None] | None]:
    """Return the parameters of `sql.FINISH` after the ids: arrays written by hand where no value needs a quote, none where all are NULL."""
    return [
        _claims(outcomes),
        array([outcome.transition.target.value for outcome in outcomes]),
        array([outcome.kind or "NULL" for outcome in outcomes]),
        array([outcome.charge or '""' for outcome in outcomes]),
        array(["NULL" if outcome.delay is None else repr(float(outcome.delay)) for outcome in outcomes]),
        array(["NULL" if outcome.result_of is None else str(outcome.result_of) for outcome in outcomes]),
        texts([outcome.error for outcome in outcomes]),
        texts([outcome.exception for outcome in outcomes]),
        texts([outcome.traceback for outcome in outcomes]),
        texts([outcome.reason for outcome in outcomes]),
        _results(outcomes),
    ]


def _claims(outcomes: Sequence[Outcome]) -> str:
    return array([str(outcome.task.claims) for outcome in outcomes])


def _results(outcomes: Sequence[Outcome]) -> str:
    return f"[{','.join([outcome.result or 'null' for outcome in outcomes])}]"


def _waits(waits: Sequence[tuple[Claimed, Wait]]) -> tuple[list[Any], ...]:
    """Return the parameters of `sql.SUSPEND`."""
    return tuple(map(list, zip(*((task.id, task.claims, *wait) for task, wait in waits), strict=True)))
