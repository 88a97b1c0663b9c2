"""The command that people read: it knows its terminal, and nothing that it says can steer that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cq.states import Status
from cq.terminal.table import Cell, Line
from cq.terminal.text import printable

_NARROWEST = 40
STYLES = {
    Status.PENDING: "",
    Status.SCHEDULED: "",
    Status.QUEUED: "",
    Status.SUSPENDED: "",
    Status.SUCCESS: "SUCCESS",
    Status.RUNNING: "MIGRATE_LABEL",
    Status.WAITING: "MIGRATE_LABEL",
    Status.RETRY: "WARNING",
    Status.REVOKED: "WARNING",
    Status.SKIPPED: "WARNING",
    Status.FAILURE: "ERROR",
    Status.INCOMPLETE: "ERROR",
    Status.LOST: "ERROR",
    Status.EXPIRED: "ERROR",
}


class TerminalCommand(BaseCommand):
    """Says lines to a person, or one JSON value to a program."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Take `--json`."""
        parser.add_argument("--json", action="store_true", help="write JSON, for programs")

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Leave colours to terminals, and to `--force-color`; NO_COLOR (no-color.org) is respected."""
        out = options.get("stdout") or self.stdout
        if not options["force_color"] and (os.environ.get("NO_COLOR") or not out.isatty()):
            options["no_color"] = True
        return super().execute(*args, **options)

    @property
    def room(self) -> int:
        """The columns of the terminal, 80 where there is none."""
        return max(_NARROWEST, shutil.get_terminal_size().columns)

    def say(self, *cells: Cell | str) -> None:
        """Write one line."""
        self._write("".join(self._painted(cell if isinstance(cell, Cell) else Cell(cell)) for cell in cells))

    def say_all(self, lines: Iterable[Line]) -> None:
        """Write these lines."""
        for line in lines:
            self.say(*line)

    def say_json(self, value: Any) -> None:
        """Write a value as JSON in ASCII."""
        self._write(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))

    def _painted(self, cell: Cell) -> str:
        text = printable(cell.text)
        return cell.lead + (getattr(self.style, cell.style)(text) if cell.style and text else text)

    def _write(self, line: str) -> None:
        """Write what the terminal's encoding can say; the rest is escaped."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(line.rstrip(" ").encode(encoding, "backslashreplace").decode(encoding))


def status_cell(status: str) -> Cell:
    """Show a status in its colour."""
    return Cell(status, style_of(status))


def style_of(status: str) -> str:
    """Name the style of a status, and of what is said about it."""
    return STYLES[Status(status)]


def short(task_id: object) -> str:
    """Show the end of an id, where ids differ; the commands find a task by it."""
    return str(task_id)[-12:]
