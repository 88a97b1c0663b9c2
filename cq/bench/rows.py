"""What the benchmark's tasks leave in the database: waiting for their ends, and removing them."""

from __future__ import annotations

import time
from collections.abc import Callable

from cq import database
from cq.bench.functions import QUEUE
from cq.exceptions import WaitTimeout

_LOOK_EVERY = 0.01
_END_WITHIN = 5.0
PATIENCE = 300.0

# Is one still to run, or running? By the partial indexes, however many rows there are.
_UNFINISHED = """
SELECT (SELECT true FROM cq_task WHERE status = 'QUEUED' AND admitted AND queue = %s LIMIT 1) IS NOT NULL
    OR (SELECT true FROM cq_task WHERE status = 'RUNNING' AND queue = %s LIMIT 1) IS NOT NULL
"""

# How many have succeeded, and how long did that take from the first start to the last end?
_DRAINED = """
SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))::float8
  FROM cq_task WHERE queue = %s AND status = 'SUCCESS'
"""

# Does a living worker serve this queue and no other?
_SERVED = "SELECT EXISTS (SELECT 1 FROM cq_worker WHERE lease_until > statement_timestamp() AND queues = jsonb_build_array(%s::text))"

# Is this connection still there?
_LIVES = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = %s)"

# Remove all traces; foreign keys are checked at the end of a statement.
_REMOVE = (
    "DELETE FROM cq_settlerequest WHERE task_id IN (SELECT id FROM cq_task WHERE queue = %s)",
    "DELETE FROM cq_pastattempt WHERE task_id IN (SELECT id FROM cq_task WHERE queue = %s)",
    "DELETE FROM cq_task WHERE queue = %s",
    "DELETE FROM cq_statistic WHERE queue = %s",
)


def is_served() -> bool:
    """Say whether a benchmark's worker lives already."""
    return bool(database.execute(_SERVED, QUEUE)[0][0])


def drained(check: Callable[[], object]) -> tuple[int, float]:
    """Wait until all tasks have ended; return how many succeeded, and in how many seconds. `check` raises to give up."""
    deadline = time.monotonic() + PATIENCE
    while database.execute(_UNFINISHED, QUEUE, QUEUE)[0][0]:
        check()
        if time.monotonic() > deadline:
            raise WaitTimeout(f"The tasks were not done within {PATIENCE:.0f} s.")
        time.sleep(_LOOK_EVERY)
    count, seconds = database.execute(_DRAINED, QUEUE)[0]
    return int(count), float(seconds or 0.0)


def remove() -> None:
    """Remove all tasks of the benchmark, its own and what an earlier one had to leave behind."""
    _end_connection()
    with database.atomic():
        for statement in _REMOVE:
            database.execute(statement, QUEUE)


def _end_connection() -> None:
    """Close a connection that may have been interrupted amid a statement, and wait until that cannot commit any more."""
    raw = database.connection().connection
    if raw is None:
        return
    pid = raw.info.backend_pid
    database.mend()
    deadline = time.monotonic() + _END_WITHIN
    while database.execute(_LIVES, pid)[0][0] and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
