"""List tasks: `manage.py cq_list [ID …] [--status FAILURE] [--name 'shop.*'] [--queue mail] [--older-than 2h]`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from cq.terminal.command import TerminalCommand
from cq.terminal.listing import listing
from cq.terminal.record import records
from cq.terminal.selection import Selection, add_conditions
from cq.terminal.table import Cell


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
        self.say_all(listing(shown, self.room))
        if len(found) > len(shown):
            self.say()
            self.say(Cell(f"These are the newest {len(shown):,}; there are more (--limit).", "MIGRATE_LABEL"))
