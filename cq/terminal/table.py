"""Tables that fit: lines of styled cells, columns as wide as their contents, some of which give way on a narrow terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cq.terminal.text import clip, one_line, width

# Gaps between columns, and the least a column keeps that gives way: as long as it does not fit, the next.
_WAYS_TO_FIT = ((2, 8), (1, 8), (1, 3))


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of a line: a text, the name of its style in Django's palette, and what stands before it and is never cut."""

    text: str
    style: str = ""
    lead: str = ""


Line = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `gives_way` when the lines are too long, and then loses its end, or (`keep_end`) its start."""

    title: str
    right: bool = False
    gives_way: bool = False
    keep_end: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of cells, none for a row of notes only, and notes that have lines of their own below."""

    cells: Sequence[Cell] = ()
    notes: Sequence[Cell] = ()


def table(columns: Sequence[Column], rows: Sequence[Row], room: int) -> list[Line]:
    """Lay rows out under their titles, in so many columns of the terminal; empty columns are left out."""
    filled = [place for place in range(len(columns)) if any(row.cells and row.cells[place].text for row in rows)]
    columns = [columns[place] for place in filled]
    rows = [Row([_tidy(row.cells[place]) for place in filled] if row.cells else (), row.notes) for row in rows]
    widths, gap = _fit(columns, [_natural(column, place, rows) for place, column in enumerate(columns)], room)
    laid: list[Line] = [_line([Cell(column.title, "MIGRATE_HEADING") for column in columns], columns, widths, gap)]
    for row in rows:
        if row.cells:
            laid.append(_line(row.cells, columns, widths, gap))
        laid += [(_cut(_tidy(note), room),) for note in row.notes]
    return laid


def _tidy(cell: Cell) -> Cell:
    return Cell(one_line(cell.text), cell.style, cell.lead)


def _natural(column: Column, place: int, rows: Sequence[Row]) -> int:
    return max([width(column.title), *(_width(row.cells[place]) for row in rows if row.cells)])


def _width(cell: Cell) -> int:
    return width(cell.lead) + width(cell.text)


def _fit(columns: Sequence[Column], widths: list[int], room: int) -> tuple[list[int], int]:
    """Take from the widest of the columns that give way; then from the gaps between the columns."""
    for gap, least in _WAYS_TO_FIT:
        fitting = list(widths)
        flexible = [place for place, column in enumerate(columns) if column.gives_way]
        excess = sum(fitting) + gap * (len(fitting) - 1) - room
        while excess > 0 and flexible:
            widest = max(flexible, key=lambda place: fitting[place])
            if fitting[widest] <= least:
                break
            fitting[widest] -= 1
            excess -= 1
        if excess <= 0:
            break
    return fitting, gap


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], gap: int) -> Line:
    laid: list[Cell] = []
    for place, (cell, column) in enumerate(zip(cells, columns, strict=True)):
        shown = _cut(cell, widths[place], keep_end=column.keep_end)
        padding = " " * (widths[place] - _width(shown))
        is_last = place == len(columns) - 1
        if column.right:
            laid.append(Cell(padding))
        laid.append(shown)
        if not is_last:
            laid.append(Cell(" " * gap if column.right else padding + " " * gap))
    return tuple(laid)


def _cut(cell: Cell, room: int, *, keep_end: bool = False) -> Cell:
    return Cell(clip(cell.text, room - width(cell.lead), keep_end=keep_end), cell.style, cell.lead)
