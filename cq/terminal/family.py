"""What belongs to a task: the tree below it and the chain after it, as much of it as a person can take in.

A few statements per level, whatever its size. Of a node with too many subtasks those are read first that did not succeed;
the rest is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Case, Count, F, IntegerField, Value, When, Window
from django.db.models.functions import Now, RowNumber

from cq import database
from cq.states import Status
from cq.terminal.record import Record, fault, took
from cq.terminal.selection import tasks

# Subtasks shown of one node: alone on its level it gets the most, one of many the least.
_MOST, _LEAST, _LINES = 50, 3, 200
_COLUMNS = (
    "id",
    "name",
    "status",
    "error",
    "exception",
    "reason",
    "parent_id",
    "previous_id",
    "started_at",
    "ended_at",
    "finished_at",
)

# Which tasks follow these, and which follow those, and so on? UNION: a ring of rows would end too.
_AFTER = """
WITH RECURSIVE after AS (
    SELECT id, status FROM cq_task WHERE previous_id = %s
    UNION
    SELECT n.id, n.status FROM cq_task n JOIN after ON n.previous_id = after.id)
"""
_FIRST_AFTER = _AFTER + "SELECT id FROM after LIMIT %s"
_COUNT_AFTER = _AFTER + "SELECT status, count(*) FROM after GROUP BY status"


@dataclass(slots=True)
class Node:
    """A task in a tree, with those of its subtasks that are shown, and how many are not, by status."""

    id: UUID
    name: str
    status: str
    error: str | None
    exception: str | None
    reason: str | None
    parent_id: UUID | None
    previous_id: UUID | None
    started_at: datetime | None
    ended_at: datetime | None
    finished_at: datetime | None
    now: datetime
    subtasks: list[Node] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)

    @property
    def took(self) -> timedelta | None:
        """How long it ran, subtasks included."""
        return took(self.status, self.started_at, self.ended_at, self.finished_at, self.now)

    @property
    def why(self) -> str:
        """What went wrong here, in one sentence; nothing where the tree itself shows it."""
        seen = self.status in (Status.INCOMPLETE, Status.SKIPPED)
        return fault(self.exception, self.error) or ("" if seen else self.reason or "")


@dataclass(frozen=True, slots=True)
class Family:
    """A task, what follows it in its chain, and how much of that is not shown."""

    top: Node
    after: Sequence[Node]
    more: dict[str, int]
    is_whole: bool = True


def grow(record: Record, *, depth: int | None) -> Family:
    """Read what is below a task, so many levels of it, and what comes after it; None reads everything."""
    top = Node(**{name: getattr(record, name) for name in _COLUMNS}, now=record.now)
    after, more = _after(top, None if depth is None else _MOST)
    level, seen, grown, is_whole = [top, *after], {top.id}, 0, not more
    while level:
        room = 0 if grown == depth else max(_LEAST, min(_MOST, _LINES // len(level)))
        below = _grow_level(level, None if depth is None else room)
        is_whole = is_whole and not any(node.more for node in level)
        level = [node for node in below if node.id not in seen]
        seen.update(node.id for node in level)
        grown += 1
    return Family(top, after, more, is_whole)


def _after(top: Node, most: int | None) -> tuple[list[Node], dict[str, int]]:
    ids = [task_id for (task_id,) in database.execute(_FIRST_AFTER, top.id, None if most is None else most + 1)]
    nodes = _nodes(tasks().filter(id__in=ids[:most]).exclude(id=top.id).order_by("id"))
    if most is None or len(ids) <= most:
        return nodes, {}
    return nodes, _rest(dict(database.execute(_COUNT_AFTER, top.id)), nodes)


def _grow_level(level: Sequence[Node], room: int | None) -> list[Node]:
    """Give these nodes their subtasks, `room` each; return those."""
    parents = {node.id: node for node in level}
    there: dict[UUID, dict[str, int]] = defaultdict(dict)
    counted = (
        tasks().filter(parent__in=list(parents)).order_by().values_list("parent_id", "status").annotate(Count("id"))
    )
    for parent_id, status, number in counted:
        there[parent_id][status] = number
    below = _read(list(there), room) if room != 0 else []
    for node in below:
        if node.parent_id is not None:
            parents[node.parent_id].subtasks.append(node)
    for parent_id, numbers in there.items():
        parents[parent_id].more = _rest(numbers, parents[parent_id].subtasks)
    return below


def _read(parents: Sequence[UUID], room: int | None) -> list[Node]:
    """Read subtasks, `room` of each parent, those first that did not succeed; in the order of their making."""
    subtasks = tasks().filter(parent__in=parents).order_by("id")
    if room is None:
        return _nodes(subtasks)
    good = Case(When(status=Status.SUCCESS, then=Value(1)), default=Value(0), output_field=IntegerField())
    place = Window(RowNumber(), partition_by=F("parent_id"), order_by=[good, F("id")])
    chosen = subtasks.order_by().annotate(place=place).filter(place__lte=room).values_list("id", flat=True)
    return _nodes(tasks().filter(id__in=list(chosen)).order_by("id"))


def _nodes(chosen: Any) -> list[Node]:
    return [Node(**row) for row in chosen.values(*_COLUMNS, now=Now())]


def _rest(numbers: dict[str, int], shown: Sequence[Node]) -> dict[str, int]:
    """Count by status what is not shown, in the order of the statuses."""
    rest = {status: numbers.get(status, 0) - sum(node.status == status for node in shown) for status in Status.values}
    return {status: number for status, number in rest.items() if number > 0}
