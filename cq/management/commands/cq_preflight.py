"""Bind what is stored to today's code: `manage.py cq_preflight`, before the workers of a deploy start."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from cq.apps import import_tasks
from cq.conf import conf
from cq.preflight import Preflight, Problem, as_json, preflight
from cq.terminal.command import TerminalCommand, short
from cq.terminal.table import Cell, Column, Row, table
from cq.terminal.text import one_line, wrap

_COLUMNS = (
    Column("TASK", gives_way=True, keep_end=True),
    Column("CALLS", right=True),
    Column("FOR EXAMPLE", gives_way=True),
)


class Command(TerminalCommand):
    """Missing names, changed signatures, queues, models and enums that are gone."""

    help = (
        "Binds every stored call whose body has yet to run, errorbacks and compensations too, to the code of today, and says which do "
        "not fit: unknown names, changed signatures, queues that CQ['QUEUES'] no longer has, models and enums that are gone. "
        "Exits with 1 if there are any."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Look at all, say what was found, and fail if anything does not fit."""
        for module in conf().TASK_MODULES:
            import_tasks(module)
        found = preflight()
        if options["json"]:
            self.say_json(as_json(found))
        elif found.problems:
            self._say_problems(found)
        else:
            self.say(_fine(found.calls))
        if found.failed:
            raise CommandError(f"{found.failed:,} of {_calls(found.calls)} {_do(found.failed)} not fit today's code.")

    def _say_problems(self, found: Preflight) -> None:
        rows = [self._row(problem) for problem in found.problems]
        self.say_all(table(_COLUMNS, rows, self.room))
        self.say()

    def _row(self, problem: Problem) -> Row:
        examples = ", ".join(map(short, problem.examples)) + (", …" if problem.count > len(problem.examples) else "")
        notes = [Cell(part, "ERROR", "  ") for part in wrap(one_line(problem.what), self.room - 2)]
        return Row([Cell(problem.name), Cell(f"{problem.count:,}"), Cell(examples)], notes)


def _fine(calls: int) -> str:
    if not calls:
        return "There are no stored calls whose bodies have yet to run."
    return "The one stored call fits today's code." if calls == 1 else f"All {calls:,} stored calls fit today's code."


def _calls(number: int) -> str:
    return f"{number:,} stored call{'' if number == 1 else 's'}"


def _do(number: int) -> str:
    return "does" if number == 1 else "do"
