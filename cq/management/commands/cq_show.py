"""Show all about a task: `manage.py cq_show ID`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from cq.explain import explain
from cq.models import Attempt
from cq.moments import duration, instant
from cq.states import DELAYED, Status
from cq.terminal import tree
from cq.terminal.command import TerminalCommand, short, status_cell
from cq.terminal.family import Family, grow
from cq.terminal.masking import as_call, as_python
from cq.terminal.record import Record, fault, iso, records
from cq.terminal.selection import find, tasks
from cq.terminal.table import Cell, Column, Row, table
from cq.terminal.text import lines, one_line, wrap

_DEPTH = 3
# Characters shown of one value; --json has all of it.
_MOST = 2000
_LABEL = 13


class Command(TerminalCommand):
    """Head, times, attempts, traceback and tree."""

    help = "Shows all about tasks: arguments, times, attempts, errors, and the tree family. An id's beginning or end is enough."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take ids, and how much of the tree to show."""
        parser.add_argument("ids", nargs="+", metavar="ID", help="a task's id, its beginning or its end")
        parser.add_argument(
            "--tree", metavar="DEPTH", default=str(_DEPTH), help=f"levels of subtasks shown (default {_DEPTH})"
        )
        parser.add_argument("--all", action="store_true", help="the whole tree, however large")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Find, read, and say it."""
        depth = None if options["all"] else _depth(options["tree"])
        shown = [_read(task_id, depth) for task_id in dict.fromkeys(find(text) for text in options["ids"])]
        if options["json"]:
            self.say_json([_as_json(task) for task in shown])
            return
        for number, task in enumerate(shown):
            if number:
                self.say()
            self._say(task)

    def _say(self, task: _Shown) -> None:
        record = task.record
        self.say(Cell(record.name, "MIGRATE_HEADING"), "  ", status_cell(record.status))
        for label, text in (*_head(record), *_times(record), *_place(record, task.neighbours)):
            self._say_field(label, text)
        if task.why_not:
            self._say_title("Why it is not running")
            for reason in task.why_not:
                for part in wrap(one_line(reason), self.room - 2):
                    self.say("  ", part)
        self._say_attempts(task)
        if record.traceback:
            self._say_title("Traceback")
            for line in lines(record.traceback):
                self.say("  ", line)
        self._say_tree(task)

    def _say_title(self, title: str) -> None:
        self.say()
        self.say(Cell(title, "MIGRATE_HEADING"))

    def _say_field(self, label: str, text: str) -> None:
        for number, part in enumerate(wrap(_shortened(one_line(text)), self.room - _LABEL - 2)):
            self.say("  ", Cell(("" if number else label).ljust(_LABEL), "MIGRATE_LABEL"), part)

    def _say_attempts(self, task: _Shown) -> None:
        if task.attempts:
            self._say_title("Attempts")
            rows = [_attempt_row(attempt, task.record) for attempt in task.attempts]
            self.say_all(table(_ATTEMPT_COLUMNS, rows, self.room))

    def _say_tree(self, task: _Shown) -> None:
        family = task.family
        if not (family.top.subtasks or family.top.more or family.after):
            return
        self._say_title("Tree")
        self.say_all(table(tree.COLUMNS, tree.draw(family, self.room), self.room))
        if not family.is_whole:
            self.say()
            self.say(Cell("There is more of it: --tree DEPTH shows more levels, --all everything.", "MIGRATE_LABEL"))


@dataclass(frozen=True, slots=True)
class _Shown:
    """All that is shown of one task."""

    record: Record
    neighbours: dict[UUID, tuple[str, str]]
    attempts: Sequence[Attempt]
    family: Family
    why_not: Sequence[str]


def _depth(text: str) -> int:
    if not str(text).isdecimal() or len(str(text)) > 4:
        raise CommandError(
            f"--tree {text!r} is no depth. Expected a whole number from 0 to 9999; --all shows everything."
        )
    return int(text)


def _read(task_id: UUID, depth: int | None) -> _Shown:
    found = records(tasks().filter(id=task_id))
    if not found:
        raise CommandError(f"Task {task_id} is no longer stored.")
    (record,) = found
    ids = [record.parent_id, record.previous_id, record.root_id]
    near = tasks().filter(id__in=[other for other in ids if other]).values_list("id", "name", "status")
    attempts = tasks().only("id").get(id=task_id).attempts.all()
    return _Shown(
        record,
        {other: (name, status) for other, name, status in near},
        list(attempts),
        grow(record, depth=depth),
        explain(record.id),
    )


def _head(record: Record) -> Iterator[tuple[str, str]]:
    yield "Id", str(record.id)
    yield "Queue", record.queue + (f", priority {record.priority}" if record.priority else "")
    yield "Arguments", as_call(record.args, record.kwargs) or "none"
    if record.options:
        yield "Options", as_call([], record.options)
    for label, text in (
        ("Key", record.key),
        ("Unique key", record.unique_key),
        ("Created by", record.created_by),
        ("Subject", record.subject),
    ):
        if text:
            yield label, text
    if record.has_result:
        yield "Result", as_python(record.result)
    if wrong := fault(record.exception, record.error):
        yield "Error", wrong
    if record.reason:
        yield "Reason", record.reason


def _times(record: Record) -> Iterator[tuple[str, str]]:
    yield "Created", _moment(record.created_at, record.now)
    if record.status in DELAYED or record.run_after > record.now:
        yield "Due", _moment(record.run_after, record.now)
    if record.started_at is not None:
        again = f", attempt {record.attempt}" if record.attempt > 1 else ""
        yield "Started", _moment(record.started_at, record.now) + again
    if record.status == Status.RUNNING and record.worker:
        yield "Worker", record.worker
    if record.finished_at is not None:
        yield "Finished", _moment(record.finished_at, record.now)
    if record.took is not None:
        yield "Took", duration(record.took)


def _moment(moment: datetime, now: datetime) -> str:
    if moment > now:
        return f"{instant(moment)} (in {duration(moment - now)})"
    return f"{instant(moment)} ({duration(now - moment)} ago)"


def _place(record: Record, neighbours: dict[UUID, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    root_id = None if record.root_id == record.id else record.root_id
    for label, task_id in (("Parent", record.parent_id), ("Predecessor", record.previous_id), ("Root", root_id)):
        if task_id is not None:
            name, status = neighbours.get(task_id, ("no longer stored", ""))
            yield label, f"{short(task_id)}  {name}  {status}"


def _shortened(text: str) -> str:
    more = len(text) - _MOST
    return text if more <= 0 else f"{text[:_MOST]} … and {more:,} more characters (--json shows all)"


_ATTEMPT_COLUMNS = (
    Column("#", right=True),
    Column("OUTCOME"),
    Column("STARTED"),
    Column("TOOK", right=True),
    Column("WORKER", gives_way=True, keep_end=True),
)


def _attempt_row(attempt: Attempt, record: Record) -> Row:
    is_open = attempt.outcome is None and record.status == Status.RUNNING and attempt.number == record.attempt
    ended_at = record.now if is_open else attempt.ended_at
    cells = (
        Cell(str(attempt.number)),
        Cell(attempt.outcome or ("running" if is_open else "")),
        Cell(instant(attempt.started_at) if attempt.started_at else ""),
        Cell(duration(ended_at - attempt.started_at) if ended_at and attempt.started_at else ""),
        Cell(attempt.worker),
    )
    wrong = fault(attempt.exception, attempt.error)
    return Row(cells, [Cell(wrong, "ERROR", "   ")] if wrong else [])


def _as_json(task: _Shown) -> dict[str, Any]:
    top = tree.as_json(task.family.top)
    return {
        **task.record.as_json(),
        "explain": task.why_not,
        "attempts": [
            {
                "number": attempt.number,
                "started_at": iso(attempt.started_at),
                "ended_at": iso(attempt.ended_at),
                "worker": attempt.worker,
                "outcome": attempt.outcome,
                "error": attempt.error,
                "exception": attempt.exception,
                "traceback": attempt.traceback,
            }
            for attempt in task.attempts
        ],
        "subtasks": top["subtasks"],
        "more_subtasks": top["more"],
        "next": [tree.as_json(node) for node in task.family.after],
        "more_next": task.family.more,
    }
