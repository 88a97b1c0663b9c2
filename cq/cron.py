"""Crontabs: when they are due in a time zone, through every change of its clocks, and what they mean in words. Pure.

croniter reads the five fields and walks the calendar; the clocks are ours. A fixed local time that does not exist on a day is due at
the end of the gap, one that comes twice is due the first time only; where the minute or the hour has `*` or a step, elapsed time
counts, through both. That is Vixie cron's rule.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter
from croniter.croniter import CroniterBadDateError

LONGEST = 200
FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WORDS = ((), (), ("l",), MONTHS, (*DAYS, *(f"l{day}" for day in range(8))))
_HIGHEST = (59, 23, 31, 12, 6)
_STEPPED = re.compile(r"(\d+)/(\d+)")
# Clocks that have changed do not change again sooner.
_QUARTER = timedelta(hours=6)
_SECOND = timedelta(seconds=1)
_NONE = timedelta(0)


class BadCrontab(ValueError):
    """The text is not a crontab that ever comes due."""


class BadZone(ValueError):
    """There is no such time zone."""


@lru_cache(maxsize=1000)
def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of this name; `BadZone` if there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError, TypeError):  # a name with "..", of a folder, or unknown
        raise BadZone(f"{name[:100]!r} is not a time zone. Expected a name such as 'Europe/Berlin' or 'UTC'.") from None


def check(text: str) -> None:
    """Raise `BadCrontab`, saying what is expected, unless it is a crontab that comes due some day."""
    fields = _split(text)
    for field, title, words in zip(fields, FIELDS, _WORDS, strict=True):
        _check_words(field, title, words)
    try:
        croniter.expand(text.lower(), strict=True)
        croniter(text.lower(), datetime(2000, 1, 1)).get_next(datetime)
    except CroniterBadDateError:
        raise BadCrontab(f"{text!r}: no such date ever comes.") from None
    except CroniterError as error:
        raise BadCrontab(_said(text, error)) from None


def _said(text: str, error: Exception) -> str:
    why = str(error).replace(f"[{text.lower()}] ", "").replace("is not acceptable. ", "").rstrip(".")
    why = re.sub("^is not acceptable(, )?", "", why) or "croniter does not accept it"
    return f"{text!r} is not a crontab: {why}."


def _split(text: str) -> list[str]:
    if len(text) > LONGEST:
        raise BadCrontab(f"A crontab has at most {LONGEST} characters; this one has {len(text):,}.")
    fields = text.split(" ") if text.isascii() and text.isprintable() else []
    fields = [field for field in fields if field]
    if len(fields) != len(FIELDS):
        raise BadCrontab(
            f"{text!r} is not a crontab: expected five fields ({', '.join(FIELDS)}), such as '0 3 * * mon-fri'."
        )
    return fields


def _check_words(field: str, title: str, words: tuple[str, ...]) -> None:
    """Only names of months and days, and `L` for the last: croniter also knows letters that draw lots."""
    for word in re.findall(r"[^0-9,*/#-]+[0-9]?", field.lower()):
        if word not in words and re.sub(r"[0-9]$", "", word) not in words:
            known = f"numbers{', names such as ' + words[0] if len(words) > 1 else ''}, *, ranges (1-5), lists (1,3) and steps (*/5)"
            raise BadCrontab(f"{word!r} in the {title} ({field!r}) is unknown; expected {known}.")


def doubts(text: str) -> list[str]:
    """Say which fields are read otherwise than one may think: a step after which nothing comes (`59/15`)."""
    found = []
    for field, title, highest in zip(text.split(), FIELDS, _HIGHEST, strict=False):
        for item in field.split(","):
            match = _STEPPED.fullmatch(item)
            if match and int(match[1]) + int(match[2]) > highest:
                found.append(
                    f"{item} in the {title} means {int(match[1])} alone: the step begins there and nothing follows. "
                    f"For every {int(match[2])} write */{int(match[2])}. (croniter before 7 read it so.)"
                )
    return found


class Cron:
    """One crontab in one time zone."""

    def __init__(self, text: str, zone: tzinfo) -> None:
        check(text)
        self.text = text
        self.zone = zone
        minute, hour = text.split()[:2]
        self.is_fixed = not any(sign in minute + hour for sign in "*/")
        self._calendar = croniter(text.lower(), datetime(2000, 1, 1))

    def after(self, instant: datetime) -> datetime | None:
        """Return the first tick after an instant, in UTC; None when there is none for fifty years."""
        try:
            found = self._fixed(instant) if self.is_fixed else self._elapsed(instant)
        except (CroniterBadDateError, OverflowError):
            return None
        return found.astimezone(UTC)

    def _next(self, local: datetime) -> datetime:
        """Return the first local time after this one, as if there were no zones."""
        self._calendar.set_current(local, force=True)
        found: datetime = self._calendar.get_next(datetime)
        return found

    def _local(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self.zone).utcoffset() or _NONE

    def _fixed(self, instant: datetime) -> datetime:
        local = self._local(instant)
        while True:
            local = self._next(local)
            found = self._first(local)
            if found > instant:  # in the second of two equal hours, what is next by the clock has been already
                return found

    def _first(self, local: datetime) -> datetime:
        """Return the first instant at which clocks show this, or the end of the gap that it lies in."""
        before, after = self._offsets(local)
        if before >= after:
            return (local - before).replace(tzinfo=UTC)
        return self._change((local - after).replace(tzinfo=UTC), (local - before).replace(tzinfo=UTC))

    def _offsets(self, local: datetime) -> tuple[timedelta, timedelta]:
        """Return the offsets before and after the change that a local time lies in; equal if it lies in none."""
        both = (local.replace(tzinfo=self.zone, fold=fold).utcoffset() or _NONE for fold in (0, 1))
        return next(both), next(both)

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the instant of the change of clocks between two others."""
        old = self._offset(before)
        while after - before > _SECOND:
            middle = before + (after - before) // 2
            if self._offset(middle) == old:
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)

    def _elapsed(self, instant: datetime) -> datetime:
        """Walk from one change of clocks to the next: between them, local time is elapsed time."""
        offset, local = self._offset(instant), self._local(instant)
        change = self._change_within_a_day(instant, offset)
        while True:
            local = self._next(local)
            if change is not None:
                if (found := (local - offset).replace(tzinfo=UTC)) < change:
                    return found
                return self._from_change(change)
            before, after = self._offsets(local)
            if before >= after:
                first = (local - before).replace(tzinfo=UTC)
                return first if first > instant else (local - after).replace(tzinfo=UTC)

    def _from_change(self, change: datetime) -> datetime:
        """Return the first tick from a change of clocks on, by the clocks that have changed."""
        local = self._next(self._local(change) - _SECOND)
        if local == self._local(change):
            return change
        return self._elapsed(change)

    def _change_within_a_day(self, instant: datetime, offset: timedelta) -> datetime | None:
        before = instant
        for quarter in range(1, 5):
            after = instant + quarter * _QUARTER
            if self._offset(after) != offset:
                return self._change(before, after)
            before = after
        return None

    def note(self, tick: datetime) -> str:
        """Say how a change of the clocks bears on a tick; nothing if none does."""
        local = self._local(tick)
        before, after = self._offsets(local)
        if before > after:
            if self.is_fixed:
                return f"{local:%H:%M} comes twice on this day; it runs the first time only."
            which = "first" if self._offset(tick) == before else "second"
            return f"{local:%H:%M} comes twice on this day; this is the {which} time."
        jump = self._offset(tick) - self._offset(tick - _SECOND)
        if self.is_fixed and jump > _NONE:
            wanted = self._next(local - jump - _SECOND)
            if wanted < local:
                return f"{wanted:%H:%M} does not exist on {wanted:%Y-%m-%d}; it runs when the clocks have been put forward."
        return ""
