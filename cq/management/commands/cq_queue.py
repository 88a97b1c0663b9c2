"""Pause queues and let them go on: `manage.py cq_queue list`, `pause NAME`, `resume NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError, CommandParser

from cq import database, queues
from cq.exceptions import InvalidOption
from cq.moments import duration
from cq.terminal.command import TerminalCommand
from cq.terminal.overview import QueueState, look
from cq.terminal.table import Cell, Column, Row, table

_COLUMNS = (
    Column("QUEUE", gives_way=True),
    Column("QUEUED", right=True),
    Column("RUNNING", right=True),
    Column("OLDEST", right=True),
    Column("PAUSED"),
    Column("SERVED BY", gives_way=True, keep_end=True),
)


class Command(TerminalCommand):
    """Lists, pauses and resumes."""

    help = (
        "Lists the queues, pauses one, or lets it go on. From a paused queue no worker takes anything; what runs already goes on, "
        "and what is enqueued waits."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take a verb, and the queues."""
        parser.add_argument("verb", choices=("list", "pause", "resume"), help="what to do")
        parser.add_argument("names", nargs="*", metavar="NAME", help="these queues; list: none named, all")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Change what is to be changed, and say how the queues are."""
        verb, names, as_json = options["verb"], list(dict.fromkeys(options["names"])), options["json"]
        if verb != "list":
            if not names:
                raise CommandError(f"{verb.capitalize()} which queue? cq_queue list shows them.")
            self._change(verb, names, quiet=as_json)
        found = {queue.name: queue for queue in look().queues}
        if verb == "list" and (unknown := [name for name in names if name not in found]):
            raise CommandError(
                f"There is no queue {', '.join(unknown)} with tasks or settings. There are: {', '.join(found) or 'none'}."
            )
        shown = [queue for queue in found.values() if not names or queue.name in names]
        if as_json:
            self.say_json([queue.as_json() for queue in shown])
        elif verb == "list":
            self._list(shown)

    def _change(self, verb: str, names: list[str], *, quiet: bool) -> None:
        change, done, already = {
            "pause": (queues.pause, "is paused. What runs already goes on.", "was paused already."),
            "resume": (queues.resume, "goes on.", "was not paused."),
        }[verb]
        try:
            with database.atomic():
                said = [f"The queue {name} {done if change(name) else already}" for name in names]
        except InvalidOption as error:
            raise CommandError(str(error)) from None
        if not quiet:
            self.say_all([(Cell(line),) for line in said])

    def _list(self, shown: list[QueueState]) -> None:
        if not shown:
            self.say(
                "There are no queues yet: no unfinished tasks, no living worker of a named queue, no CQ['QUEUES']."
            )
            return
        self.say_all(table(_COLUMNS, [_row(queue) for queue in shown], self.room))


def _row(queue: QueueState) -> Row:
    return Row([*_cells(queue)], [Cell(note, "ERROR", "  ") for note in _notes(queue)])


def _cells(queue: QueueState) -> Iterator[Cell]:
    yield Cell(queue.name)
    yield Cell(f"{queue.numbers.get('QUEUED', 0):,}")
    yield Cell(f"{queue.numbers.get('RUNNING', 0):,}")
    yield Cell(duration(queue.oldest_due, brief=True))
    yield Cell(_paused(queue), "WARNING")
    yield Cell(", ".join(queue.workers))


def _paused(queue: QueueState) -> str:
    if not queue.is_paused:
        return ""
    return "by CQ['QUEUES']" if queue.paused_for is None else f"for {duration(queue.paused_for)}"


def _notes(queue: QueueState) -> Iterator[str]:
    if queue.ready and not queue.is_served:
        yield "no worker serves it"
