"""Values between claiming and finishing: what a worker has claimed, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from cq import states
from cq.new import NewTask
from cq.states import Status, Transition
from cq.suspension import Wait


class Claimed(NamedTuple):
    """One task that this process may run, as long as its row still has these `claims`. In the order of `sql.CLAIM`."""

    id: UUID
    name: str
    queue: str
    priority: int
    args: str
    kwargs: str
    options: str | None
    claims: int
    attempt: int
    retries: int
    transients: int
    parent_id: UUID | None
    previous_id: UUID | None
    workflow_id: UUID | None
    depth: int
    due_at: float | None  # in seconds since the epoch
    scheduled_for: datetime | None
    pass_result: bool
    previous_result: str | None
    key: str | None
    waited: float  # seconds from when it was due
    at_most_once: bool = False


class Outcome(NamedTuple):
    """How one claim ended: the transition, what the row keeps of it, and the tasks its body made.

    `kind` is the attempt's outcome (None: the body had not started); `charge` names the budget that is charged.
    """

    task: Claimed
    transition: Transition
    kind: str | None
    result: str | None = None
    error: str | None = None
    exception: str | None = None
    traceback: str | None = None
    reason: str | None = None
    delay: float | None = None
    charge: str = ""
    result_of: UUID | None = None
    made: tuple[NewTask, ...] = ()
    wait: Wait | None = None
    # The process in which the body still runs although its task moves on.
    lingers_in: UUID | None = None


def returned(
    task: Claimed,
    result: str | None,
    made: tuple[NewTask, ...] = (),
    result_of: UUID | None = None,
    waits: bool = False,
) -> Outcome:
    """The body came back; it waits if it has subtasks."""
    transition = states.WAIT if waits else states.SUCCEED
    return Outcome(task, transition, "success", result=result, made=made, result_of=result_of)


def suspended(task: Claimed, wait: Wait) -> Outcome:
    """The body sleeps or waits for an event; what it made is dropped, for it runs again from its top."""
    return Outcome(task, states.SUSPEND, None, delay=wait.seconds, wait=wait)


def given_back(task: Claimed) -> Outcome:
    """The body was not started; nobody will know."""
    return Outcome(task, states.GIVE_BACK, None, charge="unstarted")


def interrupted(task: Claimed) -> Outcome:
    """The body was interrupted by its worker; nothing is charged. One that may start only once is lost."""
    if task.at_most_once:
        reason = 'Its worker was stopped while running it, and on_lost="fail" allows no other start.'
        return Outcome(task, states.LOSE, "interrupted", error="Its worker was stopped.", reason=reason)
    return Outcome(task, states.GIVE_BACK, "interrupted", error="Its worker was stopped.")


class Moved(NamedTuple):
    """A row that changed its status."""

    id: UUID
    status: Status
    queue: str

    @property
    def has_ended(self) -> bool:
        """Say whether somebody may be waiting for this."""
        return self.status in states.TERMINAL


class Count(NamedTuple):
    """So many bodies of a kind that ended. In the order of `sql.COUNT`.

    `bucket` n: they ran for less than 2ⁿ ms, and not for less than 2ⁿ⁻¹ ms. Sums are in seconds.
    """

    queue: str
    name: str
    outcome: str
    bucket: int
    bodies: int
    run_seconds: float
    wait_seconds: float
