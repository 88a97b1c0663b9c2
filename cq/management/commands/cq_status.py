"""Show what goes on: `manage.py cq_status`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cq.moments import duration
from cq.terminal.command import TerminalCommand
from cq.terminal.overview import UNFINISHED, Overview, QueueState, WorkerState, look
from cq.terminal.table import Cell, Column, Row, table
from cq.terminal.text import counts, one_line, wrap

_ALWAYS_SHOWN = ("QUEUED", "RUNNING")


class Command(TerminalCommand):
    """Queues, workers, and what is wrong with them."""

    help = "Shows the queues with their unfinished tasks, the workers, and what keeps tasks from running."

    def handle(self, *args: Any, **options: Any) -> None:
        """Look once and say it."""
        seen = look()
        if options["json"]:
            self.say_json(seen.as_json())
            return
        self._say_queues(seen)
        self._say_workers(seen)
        self.say()
        self._say_totals(seen)
        for problem in seen.problems:
            self._say_wrapped(problem, "ERROR")

    def _say_wrapped(self, text: str, style: str = "") -> None:
        for part in wrap(one_line(text), self.room):
            self.say(Cell(part, style))

    def _say_queues(self, seen: Overview) -> None:
        if not seen.queues:
            self.say("No unfinished tasks in any queue.")
            return
        totals = seen.totals
        shown = [status for status in UNFINISHED if totals[status] or status in _ALWAYS_SHOWN]
        columns = [
            Column("QUEUE", gives_way=True),
            *(Column(status, right=True) for status in shown),
            Column("OLDEST", right=True),
            Column("SERVED"),
        ]
        self.say_all(table(columns, [Row([*_queue_cells(queue, shown)]) for queue in seen.queues], self.room))

    def _say_workers(self, seen: Overview) -> None:
        if not seen.workers:
            return
        self.say()
        columns = [
            Column("WORKER", gives_way=True, keep_end=True),
            Column("QUEUES", gives_way=True),
            Column("PROCESSES", right=True),
            Column("RUNNING", right=True),
            Column("SLOTS", right=True),
            Column("AGE", right=True),
            Column("LEASE", right=True),
        ]
        self.say_all(table(columns, [Row([*_worker_cells(worker)]) for worker in seen.workers], self.room))

    def _say_totals(self, seen: Overview) -> None:
        total = sum(seen.totals.values())
        self._say_wrapped(f"Unfinished: {total:,}" + (f" ({counts(seen.totals)})" if total else ""))
        oldest = f", the oldest for {duration(seen.oldest_request)}" if seen.oldest_request is not None else ""
        self.say(
            f"To be settled: {seen.settle_requests:,} {'request' if seen.settle_requests == 1 else 'requests'}{oldest}"
        )
        alive = sum(worker.is_alive for worker in seen.workers)
        dead = len(seen.workers) - alive
        self.say(f"Workers alive: {alive}" + (f", dead and not yet cleared away: {dead}" if dead else ""))


def _queue_cells(queue: QueueState, shown: list[str]) -> Iterator[Cell]:
    yield Cell(queue.name)
    for status in shown:
        yield Cell(f"{queue.numbers.get(status, 0):,}")
    yield Cell(duration(queue.oldest_due))
    if queue.is_paused:
        yield Cell("paused", "WARNING")
    else:
        yield Cell("yes") if queue.is_served else Cell("no", "ERROR" if queue.ready else "WARNING")


def _worker_cells(state: WorkerState) -> Iterator[Cell]:
    worker = state.worker
    yield Cell(f"{worker.host}/{worker.pid}")
    yield Cell("all" if worker.queues is None else ", ".join(worker.queues))
    yield Cell(f"{state.processes:,}")
    yield Cell(f"{state.running:,}")
    yield Cell(f"{worker.slots:,}")
    yield Cell(duration(state.age, brief=True))
    yield Cell(duration(state.lease_left)) if state.is_alive else Cell("over", "ERROR")
