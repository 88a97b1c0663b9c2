"""Run ready tasks here, in this thread, with the workers' own statements: for tests, and for `CQ["SERIAL"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from asgiref.sync import async_to_sync
from django.db import IntegrityError

from cq import admission, database, engine, executor, notifier, registry, settle
from cq.engine import Finished, Wish
from cq.exceptions import Fenced
from cq.outcome import Claimed, Outcome


def drain(max_tasks: int | None = None) -> int:
    """Run what is ready, here and in this thread; return the number of runs.

    Ends when nothing is ready any more, or after `max_tasks`. A task that fails is a row, not an exception.
    """
    runs = 0
    with _registered() as (worker_id, process_id):
        while max_tasks is None or runs < max_tasks:
            _see_to_what_is_due()
            engine.heartbeat(worker_id)
            claimed = _claim_one(process_id)
            if claimed is None:
                break
            _run(claimed)
            runs += 1
        _see_to_what_is_due()
    return runs


def _see_to_what_is_due() -> None:
    engine.expire()
    settle.settle_all()
    engine.promote()
    admission.admit_all()


def _claim_one(process_id: UUID) -> Claimed | None:
    for suspects in (False, True):
        for queue in engine.ready_queues():
            for claimed in engine.claim(Wish(process_id, {queue: 1}, registry.names(), suspects)):
                return claimed
    return None


def _run(claimed: Claimed) -> None:
    definition = registry.get(claimed.name)
    executed = async_to_sync(executor.aexecute)(claimed) if definition.is_coroutine else executor.execute(claimed)
    finished = executed.finished
    if executed.outcome is not None:
        finished = _write(executed.outcome)
    if finished is not None:
        notifier.announce(row.id for row in finished.moved if row.has_ended)


def _write(outcome: Outcome) -> Finished | None:
    """Write an outcome, waiting for whoever has the row; None if the task is somebody else's by now."""
    try:
        with database.atomic():
            return engine.finish_own(outcome)
    except Fenced:
        return None
    except IntegrityError as error:
        if (instead := executor.conflicted(outcome, error)) is None:
            raise
        return _write(instead)


@contextmanager
def _registered() -> Iterator[tuple[UUID, UUID]]:
    worker_id, process_id = uuid4(), uuid4()
    engine.enter_worker(
        worker_id,
        host="serial",
        pid=os.getpid(),
        version="",
        queues=None,
        names=registry.names(),
        slots=1,
        coroutines=1,
    )
    engine.enter_process(process_id, worker_id, os.getpid())
    try:
        yield worker_id, process_id
    finally:
        engine.leave(worker_id)
        engine.rescue()
