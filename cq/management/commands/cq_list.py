"""List tasks: `manage.py cq_list [ID …] [--status FAILURE] [--name 'shop.*'] [--queue mail] [--older-than 2h]`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from cq.terminal.command import TerminalCommand, short, status_cell, style_of
from cq.terminal.record import Record, records
from cq.terminal.selection import Selection, add_conditions
from cq.terminal.table import Cell, Column, Row, table
from cq.terminal.text import duration

# From here on there is room for whole ids.
_WIDE = 116


class Command(TerminalCommand):
    """A table of tasks, the newest first."""

    help = "Lists tasks, the newest first. Of an id, the beginning or the end is enough; all conditions must hold."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take ids and conditions."""
        parser.add_argument("ids", nargs="*", metavar="ID", help="only these tasks")
        add_conditions(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Select, read, and say it."""
        selection = Selection.of(options)
        found = records(selection.tasks()[: selection.limit + 1])
        shown = found[: selection.limit]
        if options["json"]:
            self.say_json([record.as_json() for record in shown])
            return
        if not shown:
            self.say("No tasks fit." if selection.is_limited else "There are no tasks.")
            return
        self.say_all(table(_COLUMNS, [_row(record, wide=self.room >= _WIDE) for record in shown], self.room))
        if len(found) > len(shown):
            self.say()
            self.say(Cell(f"These are the newest {len(shown):,}; there are more (--limit).", "MIGRATE_LABEL"))


_COLUMNS = (
    Column("ID"),
    Column("STATUS"),
    Column("NAME", gives_way=True, keep_end=True),
    Column("QUEUE", gives_way=True),
    Column("#", right=True),
    Column("AGE", right=True),
    Column("TOOK", right=True),
)


def _row(record: Record, *, wide: bool) -> Row:
    cells = (
        Cell(str(record.id) if wide else short(record.id)),
        status_cell(record.status),
        Cell(record.name),
        Cell(record.queue),
        Cell(str(record.attempt)),
        Cell(duration(record.age, brief=True)),
        Cell(duration(record.took, brief=True)),
    )
    return Row(cells, [Cell(record.why, style_of(record.status), "  ")] if record.why else [])
