"""What stands for a member that did not succeed, in the list that a group hands on."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class FailedMember:
    """A member of a group that ended otherwise than in SUCCESS: which task, how, and why."""

    task_id: UUID
    status: str
    error: str | None
