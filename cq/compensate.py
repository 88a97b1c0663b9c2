"""Compensations: what had succeeded below a parent that did not is undone by tasks of its own, one after the other.

They are made by settling the parent, in the transaction that marks it; so once, and not before all below it has ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from cq import database, members, sql
from cq.ids import uuid7

_SLICE = 1000


class _Undone(NamedTuple):
    """A subtask that is to be undone. In the order of `sql.SETTLE_COMPENSATE`."""

    anchor_id: UUID
    parent_id: UUID
    workflow_id: UUID
    id: UUID
    template: str
    result: str


def make(parents: Sequence[UUID]) -> list[UUID]:
    """Insert the compensations below these parents, which the caller has locked, where that is due; return what they begin behind.

    Of each parent they are a chain, for the last subtask that succeeded first. It begins behind the parent; after a revoke, behind
    which nothing runs, behind that subtask. No parent waits for them: they are retried, or not, for themselves.
    """
    anchors: list[UUID] = []
    texts: list[str] = []
    parent_id = last_id = None
    for undone in map(_Undone._make, database.execute(sql.SETTLE_COMPENSATE, list(parents))):
        is_first = undone.parent_id != parent_id
        if is_first:
            anchors.append(undone.anchor_id)
        new_id = uuid7()
        texts.append(_as_json(undone, new_id, undone.anchor_id if is_first else last_id, is_first=is_first))
        parent_id, last_id = undone.parent_id, new_id
    for part in database.slices(texts, _SLICE):
        database.execute(sql.ENQUEUE_COMPOSED, f"[{','.join(part)}]", [])
    return anchors


def _as_json(undone: _Undone, new_id: UUID, previous_id: UUID | None, *, is_first: bool) -> str:
    row = json.loads(undone.template) | {
        "id": str(new_id),
        "previous_id": str(previous_id),
        "workflow_id": str(undone.workflow_id),
        "force_chain": is_first,
        "pass_result": False,
        "kwargs": {},
    }
    result = members.read(undone.id) if undone.result == members.ELSEWHERE else undone.result
    return f'{json.dumps(row)[:-1]}, "args": [{members.id_text(undone.id)}, {result}]}}'
