"""Which tasks a command is about: ids, or conditions on their columns. What is wrong with them is said in one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.db.models import Q, TextField
from django.db.models.functions import Cast, Now

from cq import database
from cq.models import Task
from cq.models.task import TaskQuerySet
from cq.states import Status

LIMIT = 50
_LEAST_OF_AN_ID = 8
_WHOLE_ID = 32
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_OLDEST = timedelta(days=36500)
_SHOWN = 5


def add_conditions(parser: CommandParser) -> None:
    """Let a command take conditions; those of different kinds must all hold, of repeated ones any."""
    parser.add_argument("--status", action="append", default=[], help="only this status; may be repeated")
    parser.add_argument(
        "--name", action="append", default=[], help="only these names (fnmatch: shop.tasks.*); may be repeated"
    )
    parser.add_argument("--queue", action="append", default=[], help="only this queue; may be repeated")
    parser.add_argument("--older-than", metavar="AGE", help="only what was made longer ago than this: 90s, 15m, 2h, 3d")
    parser.add_argument(
        "--limit", metavar="N", help=f"at most so many, the newest (default {LIMIT}, or as many as there are ids)"
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """Checked conditions; an empty list allows all."""

    ids: Sequence[UUID]
    statuses: Sequence[Status]
    names: Sequence[str]
    queues: Sequence[str]
    older_than: timedelta | None
    limit: int

    @classmethod
    def of(cls, options: dict[str, Any]) -> Selection:
        """Check what was given; `CommandError` says what was found and what is allowed."""
        ids = [find(text) for text in options.get("ids", [])]
        return cls(
            ids=ids,
            statuses=[_status(text) for text in options["status"]],
            names=options["name"],
            queues=options["queue"],
            older_than=_age(options["older_than"]),
            limit=_limit(options["limit"], max(LIMIT, len(ids))),
        )

    @property
    def is_limited(self) -> bool:
        """Say whether there is any condition."""
        return bool(self.ids or self.statuses or self.names or self.queues or self.older_than is not None)

    def tasks(self) -> TaskQuerySet:
        """Give all that fit, the newest first."""
        chosen = tasks().order_by("-id")
        if self.ids:
            chosen = chosen.filter(id__in=self.ids)
        if self.statuses:
            chosen = chosen.filter(status__in=[status.value for status in self.statuses])
        if self.names:
            chosen = chosen.filter(_any_name(self.names))
        if self.queues:
            chosen = chosen.filter(queue__in=self.queues)
        if self.older_than is not None:
            chosen = chosen.filter(created_at__lt=Now() - self.older_than)
        return chosen


def tasks() -> TaskQuerySet:
    """Give the tasks of the database that holds them."""
    return Task.objects.using(database.alias())


def _status(text: str) -> Status:
    try:
        return Status(text.upper())
    except ValueError:
        raise CommandError(f"--status {text!r} is no status. There are {', '.join(Status.values)}.") from None


def _age(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text.strip().lower())
    age = timedelta(seconds=float(found[1]) * _SECONDS[found[2]]) if found else None
    if age is None or age > _OLDEST:
        raise CommandError(
            f"--older-than {text!r} is no age. Expected a number and one of s, m, h, d: 90s, 15m, 2h, 3d; "
            f"at most {_OLDEST.days}d."
        )
    return age


def _limit(given: object, default: int) -> int:
    if given is None:
        return default
    text = str(given)
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise CommandError(f"--limit {text!r} is no limit. Expected a whole number from 1 to 999999999.")
    return int(text)


def _any_name(patterns: Sequence[str]) -> Q:
    fits = Q()
    for pattern in patterns:
        fits |= Q(name__regex=_regular(pattern)) if re.search(r"[*?[]", pattern) else Q(name=pattern)
    return fits


def _regular(pattern: str) -> str:
    """Write an fnmatch pattern as one of PostgreSQL's regular expressions."""
    parts = []
    rest = pattern
    while rest:
        found = re.match(r"\[(!?)(\]?[^]]*)\]", rest)
        if found and found[2]:
            parts.append(f"[{'^' if found[1] else ''}{_characters(found[2], pattern)}]")
            rest = rest[found.end() :]
        else:
            parts.append({"*": ".*", "?": "."}.get(rest[0]) or re.sub(r"\W", r"\\\g<0>", rest[0]))
            rest = rest[1:]
    return f"^{''.join(parts)}$"


def _characters(listed: str, pattern: str) -> str:
    """Write what stands in brackets; every mark escaped but the `-` of a range, which must go upwards."""
    ranges = re.findall(r"(.)-(.)|(.)", listed, re.DOTALL)
    if any(low > high for low, high, _ in ranges):
        raise CommandError(
            f"--name {pattern!r} is no pattern: a range in it goes downwards. Expected fnmatch, as shop.tasks.[a-m]*."
        )
    return "".join(f"{_escaped(low)}-{_escaped(high)}" if low else _escaped(single) for low, high, single in ranges)


def _escaped(letter: str) -> str:
    return letter if letter.isalnum() else f"\\{letter}"


def find(text: str) -> UUID:
    """Give the id of the one stored task that this is the id of, or its beginning or its end.

    `CommandError` if there is none, or several. Ids made at about the same time begin alike; their ends differ.
    """
    digits = text.strip().lower().replace("-", "")
    if not re.fullmatch(rf"[0-9a-f]{{{_LEAST_OF_AN_ID},{_WHOLE_ID}}}", digits):
        raise CommandError(
            f"{text!r} is no id. Expected a UUID, or at least {_LEAST_OF_AN_ID} of the hexadecimal digits at its beginning or end."
        )
    fitting = _beginning_with(digits) or _ending_with(digits)
    if not fitting:
        raise CommandError(f"No task {text!r} is stored. It was removed after its time, or never committed.")
    if len(fitting) > 1:
        raise CommandError(_ambiguous(text, fitting))
    return fitting[0]


def _beginning_with(digits: str) -> list[UUID]:
    first, last = UUID(digits.ljust(_WHOLE_ID, "0")), UUID(digits.ljust(_WHOLE_ID, "f"))
    return _some(tasks().filter(id__gte=first, id__lte=last))


def _ending_with(digits: str) -> list[UUID]:
    """No index helps here: this reads all ids."""
    written = str(UUID(digits.rjust(_WHOLE_ID, "0")))
    hyphens = sum(len(digits) > place for place in (12, 16, 20, 24))
    ending = written[-(len(digits) + hyphens) :]
    return _some(tasks().annotate(written=Cast("id", TextField())).filter(written__endswith=ending))


def _some(fitting: TaskQuerySet) -> list[UUID]:
    return list(fitting.order_by("-id").values_list("id", flat=True)[: _SHOWN + 1])


def _ambiguous(text: str, ids: Sequence[UUID]) -> str:
    several = tasks().filter(id__in=ids[:_SHOWN]).order_by("-id").values_list("id", "name", "status")
    shown = "".join(f"\n  {task_id}  {status}  {ascii(name)[1:-1]}" for task_id, name, status in several)
    more = "\n  … and more" if len(ids) > _SHOWN else ""
    return f"{text!r} fits more than one task:{shown}{more}\nGive more of the id."
