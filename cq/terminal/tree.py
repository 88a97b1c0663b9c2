"""A task's family drawn with box characters, or as nested objects for programs. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cq.moments import duration
from cq.terminal.command import short, status_cell, style_of
from cq.terminal.family import Family, Node
from cq.terminal.record import iso
from cq.terminal.table import Cell, Column, Row
from cq.terminal.text import counts, width

COLUMNS = (
    Column("TASK", gives_way=True, keep_end=True),
    Column("STATUS"),
    Column("TOOK", right=True),
    Column("ID"),
)


def in_chains(nodes: Sequence[Node]) -> list[Node]:
    """Order nodes so that each comes after its predecessor, where that is among them."""
    among = {node.id for node in nodes}
    followers: dict[UUID | None, list[Node]] = defaultdict(list)
    for node in nodes:
        followers[node.previous_id if node.previous_id in among else None].append(node)
    ordered: list[Node] = []
    waiting = followers.pop(None, [])[::-1]
    while waiting or followers:
        if not waiting:  # a ring, which no verb makes: begin anywhere
            waiting = followers.pop(next(iter(followers)))[::-1]
        ordered.append(waiting.pop())
        waiting += followers.pop(ordered[-1].id, [])[::-1]
    return ordered


@dataclass(frozen=True, slots=True)
class _Branch:
    """A node to be drawn: what stands before it, what before the lines below it, and the task drawn above it on its level."""

    node: Node
    lead: str = ""
    below: str = ""
    above: UUID | None = None


def draw(family: Family, room: int) -> list[Row]:
    """Draw a family as rows of a table with these `COLUMNS`: `├─` is a subtask, `├→` what follows the one above it."""
    branches = [_Branch(family.top, above=family.top.previous_id)]
    for node in in_chains(family.after):
        branches.append(_Branch(node, "→ ", "  ", branches[-1].node.id))
    rows = [row for branch in branches for row in _drawn(branch, room)]
    if family.more:
        rows.append(Row(notes=[Cell(f"… and {_counted(family.more)}", lead="→ ")]))
    return rows


def _drawn(top: _Branch, room: int) -> Iterator[Row]:
    """Draw a node and what is below it. No recursion: a tree may be deeper than Python's stack."""
    waiting: list[_Branch | Row] = [top]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Row):
            yield item
            continue
        yield _row(item, room)
        waiting += [*_below(item, room)][::-1]


def _below(branch: _Branch, room: int) -> Iterator[_Branch | Row]:
    subtasks, more = in_chains(branch.node.subtasks), branch.node.more
    above: UUID | None = None
    for node in subtasks:
        is_last = node is subtasks[-1] and not more
        corner, arrow = "└" if is_last else "├", "→" if node.previous_id else "─"
        yield _Branch(node, f"{branch.below}{corner}{arrow} ", branch.below + ("   " if is_last else "│  "), above)
        above = node.id
    if more:
        text = f"… and {_counted(more)}" if subtasks else f"… {_counted(more, 'below')}"
        yield Row(notes=[Cell(text, lead=_narrow(f"{branch.below}└─ ", room))])


def _row(branch: _Branch, room: int) -> Row:
    node, lead = branch.node, _narrow(branch.lead, room)
    after = f" (after {short(node.previous_id)})" if node.previous_id not in (None, branch.above) else ""
    cells = [
        Cell(node.name + after, lead=lead),
        status_cell(node.status),
        Cell(duration(node.took)),
        Cell(short(node.id)),
    ]
    bar = "│  " if node.subtasks or node.more else "   "
    return Row(cells, [Cell(node.why, style_of(node.status), _narrow(branch.below + bar, room))] if node.why else [])


def _counted(more: dict[str, int], word: str = "more") -> str:
    return f"{sum(more.values()):,} {word}: {counts(more)}"


def _narrow(lead: str, room: int) -> str:
    """Leave the tree's lines a third of the terminal."""
    return lead if width(lead) <= room // 3 else f"…{lead[1 - room // 3 :]}"


def as_json(node: Node) -> dict[str, Any]:
    """Give a node for programs, with the subtasks that were read and the number of all others by status."""
    whole: dict[str, Any] = {}
    waiting = [(node, whole)]
    while waiting:
        node, place = waiting.pop()
        below: list[dict[str, Any]] = [{} for _ in node.subtasks]
        place.update(
            id=str(node.id),
            name=node.name,
            status=node.status,
            previous=node.previous_id and str(node.previous_id),
            error=node.error,
            reason=node.reason,
            started_at=iso(node.started_at),
            finished_at=iso(node.finished_at),
            subtasks=below,
            more=node.more,
        )
        waiting += zip(node.subtasks, below, strict=True)
    return whole
