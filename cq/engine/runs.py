"""What a worker sends in each round: write what has ended, claim what fits, in one round trip and one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from django.db import DataError

from cq import database, notifier, sql
from cq.conf import conf
from cq.engine.finishing import Finished, Finishing
from cq.exceptions import Fenced
from cq.failpoints import failpoint
from cq.outcome import Claimed, Count, Outcome
from cq.states import TERMINAL
from cq.wire import Reply, RoundTrip


@dataclass(frozen=True, slots=True)
class Wish:
    """What a process would like to claim: so many tasks of each of these queues.

    `suspects` are tasks under which a process has died: they are claimed only by processes that run nothing else. `looks`: which
    queues have tasks left? `own_keys` are those that the process settles in any case: is any other to be settled?
    """

    process_id: UUID
    shares: Mapping[str, int]
    names: Sequence[str]
    suspects: bool = False
    looks: bool = False
    own_keys: Sequence[str] | None = None


def claim(wish: Wish) -> list[Claimed]:
    """Take ready tasks for a process, the best of each queue; none if the process was declared dead."""
    return exchange([], wish).claimed


def finish(outcomes: Sequence[Outcome]) -> Finished:
    """Write outcomes, what their bodies made, and the settle requests that follow: true together or not at all.

    Rows that are locked by somebody, or are no longer ours, are not among the moved; `still_mine` tells which is which.
    """
    return exchange(outcomes, None).finished


class Exchanged(NamedTuple):
    """What a round trip came to; `ready` names the queues that have tasks left, if that was asked, `keys_asked` says the same of keys."""

    finished: Finished
    claimed: list[Claimed]
    ready: list[str] | None
    keys_asked: bool = False


def exchange(outcomes: Sequence[Outcome], wish: Wish | None) -> Exchanged:
    """Finish what has ended and claim what fits: one round trip and one commit for both.

    One statement after the other, never one for both: the look for successors needs a newer snapshot than the swap.
    """
    _announce_early(outcomes)
    with database.round_trip() as trip:
        finishing = Finishing(trip, outcomes) if outcomes else None
        claims = _send_claims(trip, wish) if wish else []
        looked = trip.send(sql.READY_QUEUES, conf().paused_queues) if wish and wish.looks else None
        keys = trip.send(sql.KEYS_ASKED, list(wish.own_keys)) if wish and wish.own_keys is not None else None
        trip.failpoint("exchange.before_commit")
    failpoint("exchange.after_commit")
    claimed = [Claimed(*row) for reply in claims for row in reply.rows()]
    # UPDATE … RETURNING promises no order.
    claimed.sort(key=lambda task: (-task.priority, task.due_at, task.id))
    ready = None if looked is None else [queue for (queue,) in looked.rows()]
    keys_asked = keys is not None and bool(keys.rows()[0][0])
    return Exchanged(finishing.read() if finishing else Finished(), claimed, ready, keys_asked)


def _send_claims(trip: RoundTrip, wish: Wish) -> list[Reply]:
    statement = sql.CLAIM_SUSPECTS if wish.suspects else sql.CLAIM
    shares = [(queue, share) for queue, share in wish.shares.items() if share]
    paused = conf().paused_queues
    return [
        trip.send(statement, wish.process_id, queue, queue in paused, queue, list(wish.names), share)
        for queue, share in shares
    ]


def mark() -> None:
    """Begin this thread's transaction if it has not begun, and mark it, so that its end is known to end this one."""
    database.begin(sql.MARK)


def finish_own(outcome: Outcome, *, is_marked: bool = False, commits: bool = False) -> Finished:
    """Write the outcome of a body inside the transaction that holds its work; `Fenced` if the task is no longer ours.

    This is the last thing that happens in the transaction: the row is locked from here to the commit only, which is on the same
    round trip if the transaction is the body's alone. A database error if the mark is gone.
    """
    if commits:
        _announce_early([outcome])
    try:
        with database.round_trip(commits=commits) as trip:
            if is_marked:
                trip.send_unplanned(sql.UNMARK)
            finishing = Finishing(trip, [outcome], is_own=True)
            trip.failpoint("body.swapped")
    except DataError as error:
        if sql.FENCED not in str(error):
            raise
        raise Fenced(f"Task {outcome.task.id} was revoked or taken over while it ran; nothing of it is kept.") from None
    return finishing.read()


def _announce_early(outcomes: Sequence[Outcome]) -> None:
    """Tell whoever waits for a task that it is about to end; of many at once nobody waits for each moment."""
    if len(outcomes) == 1 and outcomes[0].transition.target in TERMINAL:
        notifier.announce_early(outcomes[0].task.id)


def still_mine(outcomes: Sequence[Outcome]) -> set[UUID]:
    """Say which of these tasks are still held by the claims that ran them."""
    ids = [outcome.task.id for outcome in outcomes]
    claims = [outcome.task.claims for outcome in outcomes]
    return {task_id for (task_id,) in database.execute(sql.STILL_MINE, ids, claims)}


def count(process_id: UUID, counts: Sequence[Count]) -> None:
    """Add to what a process has counted in this minute. By itself: a count must never cost a completion."""
    with database.round_trip() as trip:
        trip.send(sql.COUNT, process_id, *map(list, zip(*counts, strict=True)))
