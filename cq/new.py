"""A task that is to be inserted: plain values, arguments already encoded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from cq.ids import uuid7
from cq.keys import Rate


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

    @property
    def is_plain(self) -> bool:
        """Say whether it may start at once, and nothing about it is out of the ordinary."""
        return self.run_after is None and self.delay is None and not self.held and not self.has_rules

    @property
    def has_rules(self) -> bool:
        """Say whether it may have to wait for others, or end unstarted, or unrepeated."""
        return self.key is not None or self.unique_key is not None or self.expires is not None or self.at_most_once

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
            }
        )
        return f'{plain[:-1]}, "args": {self.args}, "kwargs": {self.kwargs}}}'


def as_json(new: Sequence[NewTask]) -> str:
    """Return rows as one JSON list, for `jsonb_to_recordset`."""
    return f"[{','.join(task.as_json() for task in new)}]"
