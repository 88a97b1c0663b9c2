"""Repeating tasks: `manage.py cq_schedule list`, `run NAME`, `pause NAME`, `resume NAME`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from cq.exceptions import CQError
from cq.models import RepeatingTask
from cq.moments import instant
from cq.terminal.command import TerminalCommand, style_of
from cq.terminal.record import records
from cq.terminal.schedules import as_json, remarks, repeating_tasks, skipped, when
from cq.terminal.selection import tasks
from cq.terminal.table import Cell, Column, Row, table

_COLUMNS = (
    Column("NAME", gives_way=True),
    Column("WHEN", gives_way=True),
    Column("NEXT"),
    Column("LAST"),
)


class Command(TerminalCommand):
    """Lists repeating tasks, runs one now, pauses and resumes."""

    help = "Lists repeating tasks; runs one of them now (that is no tick), pauses or resumes it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what to do, and with which."""
        parser.add_argument("action", choices=("list", "run", "pause", "resume"))
        parser.add_argument("names", nargs="*", metavar="NAME", help="of these repeating tasks; list: none for all")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Find them, and do it."""
        action, names = options["action"], options["names"]
        if action != "list" and not names:
            raise CommandError(f"{action.capitalize()} which one? Give a name; cq_schedule list shows them.")
        found = list(repeating_tasks().filter(name__in=names) if names else repeating_tasks())
        if missing := sorted(set(names) - {row.name for row in found}):
            raise CommandError(
                f"There is no repeating task {missing[0]!r}. cq_schedule list shows those that there are."
            )
        if action == "list":
            self._list(found, as_json=options["json"])
        elif action == "run":
            self._run(found, as_json=options["json"])
        else:
            self._switch(found, action, as_json=options["json"])

    def _list(self, found: list[RepeatingTask], *, as_json: bool) -> None:
        if as_json:
            self.say_json(_as_json(found))
        elif found:
            self.say_all(table(_COLUMNS, [_row(row) for row in found], self.room))
        else:
            self.say("There are no repeating tasks.")

    def _run(self, found: list[RepeatingTask], *, as_json: bool) -> None:
        made = []
        for row in found:
            try:
                made.append(row.run_now())
            except CQError as error:
                raise CommandError(f"{row.name}: {error}") from None
        if as_json:
            self.say_json([record.as_json() for record in records(tasks().filter(pk__in=[task.pk for task in made]))])
            return
        for row, task in zip(found, made, strict=True):
            self.say(f"{row.name}: task {task.id}" + ("" if task.created else ", which was there already"))

    def _switch(self, found: list[RepeatingTask], action: str, *, as_json: bool) -> None:
        for row in found:
            row.pause() if action == "pause" else row.resume()
        if as_json:
            self.say_json(_as_json(found))
            return
        for row in found:
            self.say(f"{row.name}: {'goes on, next ' + _next(row) if row.enabled else 'paused'}")


_as_json = as_json


def _row(row: RepeatingTask) -> Row:
    status = getattr(row, "last_status", None)
    cells = (
        Cell(row.name),
        Cell(when(row)),
        Cell(_next(row)) if row.enabled else Cell("paused", "WARNING"),
        Cell(status, style_of(status)) if status else Cell(""),
    )
    missed = skipped(row)
    notes = [Cell(f"  {row.task}" + (f", skipped: {missed}" if missed else ""))]
    return Row(cells, [*notes, *(Cell(f"  {remark}", "WARNING") for remark in remarks(row))])


def _next(row: RepeatingTask) -> str:
    return instant(row.next_run) if row.next_run else "never"
