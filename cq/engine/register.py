"""Workers and their processes: the register, leases, and what becomes of the tasks of those that are gone."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from cq import database, lingering, sql
from cq.conf import conf
from cq.failpoints import failpoint
from cq.outcome import Claimed, Moved
from cq.states import Status


def enter_worker(
    worker_id: UUID,
    *,
    host: str,
    pid: int,
    version: str,
    queues: Sequence[str] | None,
    names: Sequence[str],
    slots: int,
    coroutines: int,
) -> None:
    """Put a worker on the register, with its first lease."""
    served, known = json.dumps(queues and list(queues)), json.dumps(list(names))
    database.execute(sql.ENTER_WORKER, worker_id, host, pid, version, served, known, slots, coroutines, conf().LEASE)


def enter_process(process_id: UUID, worker_id: UUID, pid: int) -> None:
    """Put a child process on the register; it can claim from then on."""
    database.execute(sql.ENTER_PROCESS, process_id, worker_id, pid)


def heartbeat(worker_id: UUID) -> bool:
    """Renew a worker's lease; False if it was declared dead."""
    return bool(database.execute(sql.HEARTBEAT, conf().LEASE, worker_id))


def leave(worker_id: UUID) -> None:
    """Take a worker off the register that has stopped in order; nobody is blamed for what it could not give back."""
    with database.atomic():
        # In the order of END_WORKERS: the worker first, so that the two cannot wait for each other.
        database.execute(sql.LEAVE, worker_id)
        database.execute(sql.END_PROCESSES, worker_id)


def end_process(
    process_id: UUID, started: Sequence[UUID], *, was_stopped: bool = False, overdue: Sequence[UUID] = ()
) -> None:
    """Declare a process dead, with the tasks whose bodies had started in it. It can claim nothing from then on.

    They are charged with a crash, unless its own supervisor stopped it. Those that are overdue have ended by their timeouts.
    """
    late = json.dumps([str(task_id) for task_id in overdue]) if overdue else None
    started_ids = json.dumps([str(task_id) for task_id in started])
    database.execute(sql.END_PROCESS, started_ids, was_stopped, late, process_id)


def rescue() -> list[Moved]:
    """Take over what dead processes hold: another try, or LOST after `MAX_CRASHES`; return the tasks.

    Fence first, then end what the dead have still open in the database. Rows that a dying process is just committing are
    locked and skipped; the process stays on the register until nothing is left to take over.
    """
    with database.atomic():
        database.execute(sql.END_WORKERS)
    with database.atomic():
        dead = [process_id for (process_id,) in database.execute(sql.DEAD_PROCESSES)]
        if not dead:
            return []
        rows = database.execute(sql.RESCUE, conf().MAX_CRASHES, dead)
        failpoint("rescue.swapped")
        rescued = [Moved(task_id, Status(status), queue) for task_id, status, queue in rows]
        ids = [task.id for task in rescued if task.has_ended]
        if ids:
            database.execute(sql.ASK, *[ids] * 3)
        lingering.end_all(dead)
        database.execute(sql.STRIKE_OFF, dead)
    database.execute(sql.TERMINATE, [f"cq:{process_id}" for process_id in dead])
    return rescued


def overdue(names: Sequence[str]) -> list[Claimed]:
    """Return the claims of dead processes whose bodies were overdue; whoever knows these names may write how they ended."""
    return [Claimed(*row) for row in database.execute(sql.OVERDUE, list(names))]


def unknown(process_id: UUID, known: Sequence[UUID], *, after: float) -> tuple[bool, list[UUID]]:
    """Say whether a process holds tasks that it does not know of, and which have bodies that have lingered in it for so long."""
    ((holds, lingering_ids),) = database.execute(sql.UNKNOWN, *(process_id, list(known)) * 2, after)
    return holds, lingering_ids


def hand_back(process_id: UUID, known: Sequence[UUID], *, before: float, is_own: bool = False) -> list[Moved]:
    """Give back what a process has claimed before this moment of the monotonic clock, but for the tasks that it is known to run.

    `is_own`: the process itself does so, and knows what it has started.
    """
    ((now,),) = database.execute(sql.CLOCK)
    failpoint("hand_back.clock_read")
    moment = now - timedelta(seconds=time.monotonic() - before)  # or earlier, if the answer took long
    rows = database.execute(sql.HAND_BACK, process_id, list(known), is_own, moment)
    return [Moved(task_id, Status(status), queue) for task_id, status, queue in rows]


def unknown_names() -> list[str]:
    """Name the ready tasks' functions that no living worker knows."""
    return [name for (name,) in database.execute(sql.UNKNOWN_NAMES)]


def refuse(names: Sequence[str]) -> list[UUID]:
    """Fail tasks of these names that are due for `UNKNOWN_TASK_TIMEOUT`, unless a living worker knows them after all."""
    with database.atomic():
        ids = [task_id for (task_id,) in database.execute(sql.REFUSE, list(names), conf().UNKNOWN_TASK_TIMEOUT)]
        if ids:
            database.execute(sql.ASK, *[ids] * 3)
    return ids
