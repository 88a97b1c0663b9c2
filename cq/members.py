"""The result of a group: read from its members, in order, whenever somebody asks for it. Nobody copies it, nothing limits it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from uuid import UUID

from cq import database, sql
from cq.codec import TAG
from cq.states import TERMINAL, Status

# A claim's `previous_result` that says: read it here.
ELSEWHERE = ""


class _Row(NamedTuple):
    """One task whose end counts. In the order of `sql.MEMBERS`."""

    id: UUID
    is_group: bool
    status: str
    parent_id: UUID | None
    member: int | None
    result: str | None
    result_of_id: UUID | None
    error: str | None


def read(task_id: UUID) -> str:
    """Give the JSON text of the result of a group, or of a task that has handed on to one; one query.

    A member that ended otherwise than in SUCCESS stands there as a `FailedMember`, an unfinished one as None.
    """
    rows = {row.id: row for row in map(_Row._make, database.execute(sql.MEMBERS, task_id))}
    members: dict[UUID | None, list[_Row]] = {}
    for row in sorted((row for row in rows.values() if row.member is not None), key=lambda row: row.member or 0):
        members.setdefault(row.parent_id, []).append(row)

    def value(row: _Row) -> str:
        if row.is_group:
            return f"[{','.join([end(member) for member in members.get(row.id, [])])}]"
        if row.result is None and row.result_of_id in rows:
            return value(rows[row.result_of_id])
        return row.result or "null"

    def end(row: _Row) -> str:
        if row.status == Status.SUCCESS:
            return value(row)
        return _failed(row) if row.status in TERMINAL else "null"

    return value(rows[task_id]) if task_id in rows else "null"


def id_text(task_id: UUID) -> str:
    """Give the JSON text of an id."""
    return json.dumps({TAG: ["uuid", str(task_id)]})


def _failed(row: _Row) -> str:
    content: list[Any] = ["failed", {TAG: ["uuid", str(row.id)]}, row.status, row.error]
    return json.dumps({TAG: content})
