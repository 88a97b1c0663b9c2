"""A table of tasks, a line each, and under it what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from cq.moments import duration
from cq.terminal.command import short, status_cell, style_of
from cq.terminal.record import Record
from cq.terminal.table import Cell, Column, Line, Row, table

# From here on there is room for whole ids.
_WIDE = 116


def listing(tasks: Sequence[Record], room: int) -> Sequence[Line]:
    """Write these tasks in so many columns of a terminal."""
    return list(table(_COLUMNS, [_row(task, wide=room >= _WIDE) for task in tasks], room))


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
