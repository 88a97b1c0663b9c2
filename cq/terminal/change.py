"""The command that changes chosen tasks: it shows which, asks, does it one by one, and says what became of each."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from django.core.management.base import CommandError, CommandParser

from cq.exceptions import NotAllowedHere, TaskGone
from cq.models import Task
from cq.models.task import TaskQuerySet
from cq.states import Status
from cq.terminal.command import TerminalCommand, short
from cq.terminal.listing import listing
from cq.terminal.record import Record
from cq.terminal.record import records as read
from cq.terminal.selection import Selection, add_conditions, tasks
from cq.terminal.table import Cell


class ChangeCommand(TerminalCommand):
    """Does one thing to each of the tasks that were chosen."""

    # "Retry", "Retried".
    verb: ClassVar[str]
    done: ClassVar[str]
    # Which tasks are meant if only conditions are given, and no status among them.
    meant: ClassVar[Collection[Status]]
    # What is counted.
    noun: ClassVar[str] = "task"

    @abstractmethod
    def change(self, task: Task) -> bool:
        """Do it; False if there was nothing to do, `NotAllowedHere` if it cannot be done."""

    def choose(self, selection: Selection) -> TaskQuerySet:
        """Say which tasks are meant, the newest first."""
        chosen = selection.tasks()
        if not selection.ids and not selection.statuses:
            chosen = chosen.filter(status__in=[status.value for status in self.meant])
        return chosen

    def changed(self, records: Sequence[Record]) -> Sequence[Record]:
        """Read again what was changed."""
        return read(tasks().filter(pk__in=[record.id for record in records]).order_by("-id"))

    def more(self) -> str:
        """Add to what is said of the changed ones."""
        return ""

    def add_arguments(self, parser: CommandParser) -> None:
        """Take ids, conditions, and how sure the caller is."""
        parser.add_argument(
            "ids", nargs="*", metavar="ID", help="these tasks; of an id, the beginning or the end is enough"
        )
        add_conditions(parser)
        parser.add_argument("--dry-run", action="store_true", help="only show which tasks it would be")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Choose, show, ask, do, and say what became of it."""
        selection = Selection.of(options)
        if not selection.is_limited:
            raise CommandError(
                f"{self.verb} which {self.noun}s? Give ids, or conditions such as --name 'shop.*' (--help)."
            )
        found = read(self.choose(selection)[: selection.limit + 1])
        shown = found[: selection.limit]
        if options["dry_run"]:
            self._show(shown, has_more=len(found) > len(shown), as_json=options["json"])
            return
        if shown and not options["yes"]:
            self._ask(shown, has_more=len(found) > len(shown), as_json=options["json"])
        self._do(shown, as_json=options["json"])

    def _show(self, shown: Sequence[Record], *, has_more: bool, as_json: bool) -> None:
        if as_json:
            self.say_json([record.as_json() for record in shown])
            return
        self.say_all(listing(shown, self.room) if shown else [(Cell(f"No {self.noun}s fit."),)])
        if has_more:
            self.say(Cell(f"These are the newest {len(shown):,}; more {self.noun}s fit (--limit).", "MIGRATE_LABEL"))

    def _ask(self, shown: Sequence[Record], *, has_more: bool, as_json: bool) -> None:
        if as_json or not sys.stdin.isatty():
            raise CommandError(
                f"{self._so_many(len(shown))} would be changed, and there is no terminal to ask on. Add --yes, or --dry-run to see them."
            )
        self._show(shown, has_more=has_more, as_json=False)
        if input(f"{self.verb} {self._so_many(len(shown))}? [y/N] ").strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was changed.")

    def _do(self, shown: Sequence[Record], *, as_json: bool) -> None:
        changed, refused = [], {}
        for record in shown:
            try:
                if self.change(tasks().get(pk=record.id)):
                    changed.append(record)
            except (NotAllowedHere, TaskGone, Task.DoesNotExist) as error:
                refused[record.id] = str(error) or "It is no longer stored."
        if as_json:
            self.say_json([record.as_json() for record in self.changed(changed)])
        else:
            self.say(
                f"{self.done} {len(changed):,} of {self._so_many(len(shown))}{self.more()}."
                if shown
                else f"No {self.noun}s fit."
            )
        if refused:
            raise CommandError("\n".join(f"{short(task_id)}: {why}" for task_id, why in refused.items()))

    def _so_many(self, number: int) -> str:
        return f"{number:,} {self.noun}{'' if number == 1 else 's'}"
