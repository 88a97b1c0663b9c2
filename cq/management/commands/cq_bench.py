"""Measure CQ on this project's database and channel layer: `manage.py cq_bench`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.test.utils import override_settings

from cq.bench import layer, rows
from cq.bench.functions import QUEUE
from cq.bench.measures import Measurement, measure
from cq.bench.worker import WorkerEnded
from cq.conf import KEYS, conf
from cq.exceptions import TaskFailed, WaitTimeout
from cq.terminal.command import TerminalCommand
from cq.terminal.table import Cell, Column, Row, table

_MOST_TASKS = 10_000_000
_MOST_PROCESSES = _MOST_THREADS = 256


class Command(TerminalCommand):
    """Rates, latencies, a chain, subtasks."""

    help = (
        f"Measures how fast CQ is on this database and channel layer: in a queue of its own ({QUEUE}), with a worker of its own; "
        "nothing is left behind. Other load on the machine slows it down, and it slows down others."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take sizes."""
        parser.add_argument("--tasks", type=int, default=10_000, help="tasks in the queue to drain (default 10,000)")
        parser.add_argument("--processes", type=int, default=2, help="processes of the worker (default 2)")
        parser.add_argument("--threads", type=int, default=4, help="threads of a process (default 4)")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure, remove the rows, and say it."""
        sizes = [
            _checked(options, name, most)
            for name, most in (("tasks", _MOST_TASKS), ("processes", _MOST_PROCESSES), ("threads", _MOST_THREADS))
        ]
        if rows.is_served():
            raise CommandError("Another cq_bench runs on this database: wait for its end, or for its lease to run out.")
        trouble = layer.trouble()
        with override_settings(CQ=_with_queue()), _signals_interrupt():
            measurements = self._measure(*sizes)
        if options["json"]:
            self.say_json({"channel_layer": trouble is None} | {found.name: found.value for found in measurements})
            return
        self._say_table(measurements)
        if trouble is not None:
            for line in (f"No channel layer answers: {trouble}.", _POLL.format(conf().POLL_INTERVAL)):
                self.say(Cell(line, "WARNING"))

    def _measure(self, tasks: int, processes: int, threads: int) -> list[Measurement]:
        rows.remove()
        try:
            return list(measure(tasks, processes, threads))
        except (WorkerEnded, WaitTimeout, TaskFailed) as error:
            raise CommandError(f"The measurement was given up. {error}") from None
        finally:
            rows.remove()

    def _say_table(self, measurements: list[Measurement]) -> None:
        columns = (Column("MEASURED", gives_way=True), Column("", right=True), Column(""))
        self.say_all(
            table(
                columns,
                [Row([Cell(found.title), Cell(_number(found.value)), Cell(found.unit)]) for found in measurements],
                self.room,
            )
        )


_POLL = "Workers find new tasks by their poll alone, at most {:g} s late; that is what the times above show."


def _checked(options: dict[str, Any], name: str, most: int) -> int:
    value: int = options[name]
    if not 1 <= value <= most:
        raise CommandError(f"--{name} {value}: expected a number from 1 to {most:,}.")
    return value


def _with_queue() -> dict[str, Any]:
    """Return the setting with the queue in it and nothing that leads past it, for this process and the worker forked off it."""
    own = conf()
    queues = None if own.QUEUES is None else {**own.QUEUES, QUEUE: {}}
    return {**{key: getattr(own, key) for key in KEYS}, "QUEUES": queues, "ROUTES": {}, "SERIAL": False}


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that the rows are removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
