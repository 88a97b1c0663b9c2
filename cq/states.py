"""Every status a task can have, and every way from one to the next. Read this first.

Nothing else in the project writes a status that is not the target of a `Transition` below, and every statement that writes
one carries the transition's sources in its WHERE. A statement that finds no row was overtaken: a normal answer.
"""

from dataclasses import dataclass
from functools import cached_property

from django.db import models


class Status(models.TextChoices):
    """Where a task is on its way. The values are the words; they are what the column holds."""

    # Held back: its predecessor has not ended, or it waits for `submit()`. Settling the predecessor moves it on. No process
    # holds it, so no death can hurt it.
    PENDING = "PENDING"
    # Due later. A worker promotes it when PostgreSQL's clock says so.
    SCHEDULED = "SCHEDULED"
    # Ready. A worker claims it; if that worker dies before its claim commits, the row is still QUEUED.
    QUEUED = "QUEUED"
    # A process has claimed it (`claims` says which claim). The process's outcome moves it on; if the process dies, rescue does.
    RUNNING = "RUNNING"
    # Sleeps or waits for an event and holds no worker. Its time or its event moves it on.
    SUSPENDED = "SUSPENDED"
    # Its own body has returned, subtasks are unfinished. Settling the last of them ends it.
    WAITING = "WAITING"
    # Runs again at `run_after`, after an exception or a crash.
    RETRY = "RETRY"

    # Ended well, all its subtasks too.
    SUCCESS = "SUCCESS"
    # Its body failed for the last time.
    FAILURE = "FAILURE"
    # Its own body was fine, a subtask was not.
    INCOMPLETE = "INCOMPLETE"
    # Stopped by hand, or with the task above it.
    REVOKED = "REVOKED"
    # Never ran: its predecessor did not succeed.
    SKIPPED = "SKIPPED"
    # Its process died under it too often.
    LOST = "LOST"
    # Was not started in time.
    EXPIRED = "EXPIRED"


TERMINAL = frozenset(
    {
        Status.SUCCESS,
        Status.FAILURE,
        Status.INCOMPLETE,
        Status.REVOKED,
        Status.SKIPPED,
        Status.LOST,
        Status.EXPIRED,
    }
)
UNFINISHED = frozenset(Status) - TERMINAL
UNSUCCESSFUL = TERMINAL - {Status.SUCCESS}
# Their body has returned, and the row shows what.
HAS_RESULT = frozenset({Status.SUCCESS, Status.WAITING, Status.INCOMPLETE})
DELAYED = frozenset({Status.SCHEDULED, Status.RETRY, Status.SUSPENDED})


@dataclass(frozen=True)
class Transition:
    """A named way from some statuses to one or more others; `sources` is empty for a row that is made."""

    name: str
    sources: frozenset[Status]
    targets: frozenset[Status]

    @property
    def guard(self) -> str:
        """The sources as an SQL list of literals: a parameter would keep PostgreSQL from using the partial indexes."""
        return sql_list(self.sources)

    @cached_property
    def target(self) -> Status:
        """The only target of a transition that has just one."""
        (target,) = self.targets
        return target


def sql_list(statuses: frozenset[Status]) -> str:
    """Return `'A', 'B'` in a stable order, for use inside SQL parentheses."""
    return ", ".join(f"'{status.value}'" for status in Status if status in statuses)


def _transition(name: str, sources: set[Status] | frozenset[Status], *targets: Status) -> Transition:
    return Transition(name, frozenset(sources), frozenset(targets))


# A call. Rolled back with the caller's transaction: then it never existed.
ENQUEUE = _transition(
    "enqueue",
    set(),
    Status.PENDING,
    Status.SCHEDULED,
    Status.QUEUED,
    Status.WAITING,
    Status.SKIPPED,
)
# The predecessor ended well (or the chain is forced), or `submit()` was called. WAITING is for a group, which has no body.
RELEASE = _transition("release", {Status.PENDING}, Status.QUEUED, Status.SCHEDULED, Status.WAITING)
# The predecessor did not succeed.
SKIP = _transition("skip", {Status.PENDING}, Status.SKIPPED)
# It is due, or its event came.
PROMOTE = _transition("promote", DELAYED, Status.QUEUED)
# Another call with its unique key says that it is due later after all; one that is to be due at once is promoted.
POSTPONE = _transition("postpone", {Status.QUEUED}, Status.SCHEDULED)
# A worker takes it; `claims` + 1 fences every earlier holder.
CLAIM = _transition("claim", {Status.QUEUED}, Status.RUNNING)
# The worker did not start it, or was interrupted by a shutdown or a neighbour: nobody is charged.
GIVE_BACK = _transition("give_back", {Status.RUNNING}, Status.QUEUED)
# The body returned and left subtasks; a settle request for itself commits with it.
WAIT = _transition("wait", {Status.RUNNING}, Status.WAITING)
# The body sleeps or waits for an event; a settle request for itself commits with it.
SUSPEND = _transition("suspend", {Status.RUNNING}, Status.SUSPENDED)
# The body returned and left no subtasks, or the last subtask ended and all were fine.
SUCCEED = _transition("succeed", {Status.RUNNING, Status.WAITING}, Status.SUCCESS)
# The last subtask ended and not all were fine.
FALL_SHORT = _transition("fall_short", {Status.WAITING}, Status.INCOMPLETE)
# An exception, a timeout or a crash, and there is budget for another attempt.
RETRY_LATER = _transition("retry_later", {Status.RUNNING}, Status.RETRY)
# An exception or a timeout, and no budget is left.
FAIL = _transition("fail", {Status.RUNNING}, Status.FAILURE)
# The process died, and no budget is left; or it was also only stopped, and the task may start but once.
LOSE = _transition("lose", {Status.RUNNING}, Status.LOST)
# No living worker has known its name for too long.
REFUSE = _transition("refuse", {Status.QUEUED}, Status.FAILURE)
# It was not started before `start_by`.
EXPIRE = _transition("expire", {Status.QUEUED}, Status.EXPIRED)
# By hand, or with the task above it.
REVOKE = _transition("revoke", UNFINISHED, Status.REVOKED)
# By hand: the one way out of a terminal status. The body runs again …
REOPEN = _transition("reopen", {Status.FAILURE, Status.LOST, Status.EXPIRED, Status.REVOKED}, Status.QUEUED)
# … or had returned and does not, only its subtasks do …
REOPEN_PARENT = _transition("reopen_parent", {Status.INCOMPLETE, Status.REVOKED}, Status.WAITING)
# … or is held back again by its predecessor.
REOPEN_SUCCESSOR = _transition("reopen_successor", {Status.SKIPPED, Status.REVOKED}, Status.PENDING)

TRANSITIONS = (
    ENQUEUE,
    RELEASE,
    SKIP,
    PROMOTE,
    POSTPONE,
    CLAIM,
    GIVE_BACK,
    WAIT,
    SUSPEND,
    SUCCEED,
    FALL_SHORT,
    RETRY_LATER,
    FAIL,
    LOSE,
    REFUSE,
    EXPIRE,
    REVOKE,
    REOPEN,
    REOPEN_PARENT,
    REOPEN_SUCCESSOR,
)
