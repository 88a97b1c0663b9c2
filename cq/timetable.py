"""When a repeating task is due: a crontab or an interval, in a zone, from a beginning to an end. Pure.

Each tick is worked out from the one before, never from the time at which somebody looked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from cq.cron import Cron, zone_of
from cq.cronwords import every_words, words

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=36_525)
_INSTANT = timedelta(microseconds=1)
# A first guess at the time in which the last ticks lie.
_BACK = timedelta(minutes=2)


class Tick(datetime):
    """A tick: an instant in UTC, how the clocks of its zone show it, and what a change of the clocks means for it."""

    local: datetime
    note: str

    @classmethod
    def at(cls, instant: datetime, zone: ZoneInfo, note: str) -> Tick:
        """Make a tick of an instant."""
        utc = instant.astimezone(UTC)
        tick = cls(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=UTC)
        tick.local = instant.astimezone(zone)
        tick.note = note
        return tick

    @property
    def utc(self) -> datetime:
        """The same as a plain datetime."""
        return datetime.combine(self.date(), self.timetz())

    def as_json(self) -> dict[str, Any]:
        """Give it for programs."""
        return {"utc": self.utc.isoformat(), "local": self.local.isoformat(), "note": self.note}


@dataclass(frozen=True)
class Timetable:
    """When something is due. `anchor` is what an interval counts from; ticks lie from `starts_at` to `ends_at`, both included."""

    crontab: str
    every: timedelta | None
    timezone: str
    anchor: datetime
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return zone_of(self.timezone)

    @cached_property
    def _cron(self) -> Cron:
        return Cron(self.crontab, self.zone)

    @property
    def words(self) -> str:
        """Say it."""
        return words(self.crontab) if self.every is None else every_words(self.every)

    def first(self, after: datetime) -> datetime | None:
        """Return the first tick after an instant; None when there is none any more."""
        if self.starts_at is not None and after < self.starts_at:
            after = self.starts_at - _INSTANT
        tick = self._cron.after(after) if self.every is None else self._interval(self.every, after)
        return None if tick is None or (self.ends_at is not None and tick > self.ends_at) else tick

    def _interval(self, every: timedelta, after: datetime) -> datetime | None:
        try:
            return (self.anchor + max(0, (after - self.anchor) // every + 1) * every).astimezone(UTC)
        except OverflowError:
            return None

    def ticks(self, first: datetime | None, until: datetime) -> Iterator[datetime]:
        """Give the ticks from this one on, up to an instant."""
        while first is not None and first <= until:
            yield first
            first = self.first(first)

    def last(self, number: int, first: datetime, until: datetime) -> list[datetime]:
        """Return the last ticks of those from `first` up to an instant, without a walk through all that come before."""
        back = number * _BACK
        while until - back > first:
            found = list(self.ticks(self.first(until - back), until))
            if len(found) >= number:
                return found[-number:]
            back *= 2
        return list(self.ticks(first, until))[-number:]

    def count(self, first: datetime, before: datetime, most: int) -> tuple[int, datetime | None]:
        """Count the ticks from this one on and before another, up to so many; return the tick at which the count ended."""
        if self.every is not None and first < before:
            number = -((first - before) // self.every)
            return number, self.first(first + (number - 1) * self.every)
        number, tick = 0, first
        while tick < before and number < most:
            number += 1
            following = self.first(tick)
            if following is None:
                return number, None
            tick = following
        return number, tick

    def upcoming(self, number: int, after: datetime) -> list[Tick]:
        """Return the next ticks, as people want to see them."""
        found: list[Tick] = []
        tick = self.first(after)
        while tick is not None and len(found) < number:
            found.append(Tick.at(tick, self.zone, "" if self.every is not None else self._cron.note(tick)))
            tick = self.first(tick)
        return found
