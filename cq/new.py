"""A task that is to be inserted: plain values, arguments already encoded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from cq.ids import uuid7
from cq.keys import Rate

# The name of a row without a body: its members are its subtasks. No function can have it.
GROUP = "cq.group"


@dataclass(slots=True)
class NewTask:
    """One row to be. `delay` is seconds from the call, for a successor from its release; `run_after` an instant."""

    name: str
    args: str = "[]"
    kwargs: str = "{}"
    queue: str = "default"
    priority: int = 0
    id: UUID = field(default_factory=uuid7)
    run_after: datetime | None = None
    delay: float | None = None
    held: bool = False
    parent_id: UUID | None = None
    previous_id: UUID | None = None
    maker_id: UUID | None = None
    maker_claims: int | None = None
    force_chain: bool = False
    pass_result: bool = False
    options: dict[str, Any] | None = None
    created_by: str | None = None
    subject: str | None = None
    result_ttl: int | None = None
    expires: float | None = None
    at_most_once: bool = False
    unique_key: str | None = None
    replace: tuple[str, ...] = ()
    key: str | None = None
    key_limit: int | None = None
    rate: Rate | None = None
    is_coroutine: bool = False
    fail_fast: bool = False
    ignore_failures: bool = False
    # What undoes it, without id and arguments, as it is stored.
    compensate: dict[str, Any] | None = None
    # In a composition: where it hangs, and its place among the members of its group.
    workflow_id: UUID | None = None
    depth: int | None = None
    member: int | None = None
    is_empty: bool = False
    # The task for whose failing end this is kept.
    errorback_of: UUID | None = None

    @property
    def is_group(self) -> bool:
        """Say whether it has no body of its own."""
        return self.name == GROUP

    @property
    def is_plain(self) -> bool:
        """Say whether it may start at once, and nothing about it is out of the ordinary."""
        return self.run_after is None and self.delay is None and not self.held and not self.has_rules

    @property
    def has_rules(self) -> bool:
        """Say whether it may have to wait for others, or end unstarted, or unrepeated."""
        return (
            self.key is not None
            or self.unique_key is not None
            or self.expires is not None
            or self.at_most_once
            or self.judges
            or self.compensate is not None
        )

    @property
    def judges(self) -> bool:
        """Say whether it has a say of its own in what its subtasks' ends mean."""
        return self.fail_fast or self.ignore_failures

    @property
    def is_composed(self) -> bool:
        """Say whether it belongs to a composition, or is kept for a failing end."""
        return self.depth is not None or self.member is not None or self.is_group or self.errorback_of is not None

    def _place(self) -> dict[str, Any]:
        return {
            "workflow_id": self.workflow_id and str(self.workflow_id),
            "depth": self.depth,
            "member": self.member,
            "is_empty": self.is_empty,
            "errorback_of": self.errorback_of and str(self.errorback_of),
            "result_ttl": self.result_ttl,
        }

    def _rules(self) -> dict[str, Any]:
        return {
            "expires": self.expires,
            "at_most_once": self.at_most_once,
            "unique_key": self.unique_key,
            "key": self.key,
            "key_limit": self.key_limit,
            "rate_starts": self.rate and self.rate.starts,
            "rate_seconds": self.rate and self.rate.seconds,
            "is_coroutine": self.is_coroutine,
            "fail_fast": self.fail_fast,
            "ignore_failures": self.ignore_failures,
            "compensate": self.compensate,
            "result_ttl": self.result_ttl,
            "held": self.held,
        }

    def as_json(self) -> str:
        """Return the row as one JSON object, for `jsonb_to_recordset`."""
        plain = json.dumps(
            {
                "id": str(self.id),
                "name": self.name,
                "queue": self.queue,
                "priority": self.priority,
                "run_after": self.run_after and self.run_after.isoformat(),
                "delay": self.delay,
                "parent_id": self.parent_id and str(self.parent_id),
                "previous_id": self.previous_id and str(self.previous_id),
                "maker_id": self.maker_id and str(self.maker_id),
                "maker_claims": self.maker_claims,
                "force_chain": self.force_chain,
                "pass_result": self.pass_result,
                "options": self.options,
                "created_by": self.created_by,
                "subject": self.subject,
                **(self._rules() if self.has_rules else {}),
                **(self._place() if self.is_composed else {}),
            }
        )
        return f'{plain[:-1]}, "args": {self.args}, "kwargs": {self.kwargs}}}'


def as_json(new: Sequence[NewTask]) -> str:
    """Return rows as one JSON list, for `jsonb_to_recordset`."""
    return f"[{','.join(task.as_json() for task in new)}]"
