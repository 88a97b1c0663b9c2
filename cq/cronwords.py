"""A crontab in words: `0 3 * * mon-fri` is "at 03:00 on Monday to Friday". Pure, and only for people: nothing is decided by it."""

from __future__ import annotations

import re
from datetime import timedelta

from cq.cron import DAYS, MONTHS

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_ORDINALS = ("", "first", "second", "third", "fourth", "fifth")


def words(crontab: str) -> str:
    """Say when a crontab, which is checked already, is due."""
    minute, hour, day, month, weekday = crontab.lower().split()
    parts = [_time(minute, hour), *_date(day, weekday)]
    if month != "*":
        parts.append(f"in {_list(month, 'month', _MONTHS, MONTHS, 1)}")
    return " ".join(parts)


def every_words(every: timedelta) -> str:
    """Say how long an interval is: every 90 minutes."""
    seconds = every.total_seconds()
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            number = int(seconds // size)
            return f"every {unit}" if number == 1 else f"every {number:,} {unit}s"
    return f"every {seconds:,g} seconds"


def _time(minute: str, hour: str) -> str:
    if minute.isdigit() and re.fullmatch(r"\d+(,\d+)*", hour):
        return "at " + _joined([f"{int(one):02}:{int(minute):02}" for one in hour.split(",")])
    at = "every minute" if minute == "*" else f"at minute {_list(minute, 'minute')}"
    if "/" in minute and "," not in minute:
        at = _list(minute, "minute")
    if hour == "*":
        return at if minute == "*" or minute.startswith("*/") else f"{at} of every hour"
    if re.fullmatch(r"\*/\d+", hour):
        return f"{at} of {_steps(hour, 'hour')}"
    return f"{at} of hour {_list(hour, 'hour')}"


def _date(day: str, weekday: str) -> list[str]:
    on_day = f"on day {_list(day, 'day')} of the month" if day != "l" else "on the last day of the month"
    if re.fullmatch(r"\*/\d+", day):
        on_day = f"on {_steps(day, 'day')} of the month"
    on_weekday = f"on {_list(weekday, 'day', _DAYS, DAYS, 0)}"
    if day == "*" and weekday == "*":
        return []
    if weekday == "*":
        return [on_day]
    return [on_weekday] if day == "*" else [on_day, "or", on_weekday]


def _steps(field: str, unit: str) -> str:
    number = int(field.partition("/")[2])
    return f"every {unit}" if number == 1 else f"every {number} {unit}s"


def _list(field: str, unit: str, names: tuple[str, ...] = (), short: tuple[str, ...] = (), first: int = 0) -> str:
    def name(one: str) -> str:
        if one in short:
            return names[short.index(one)]
        return names[int(one) - first] if names and one.isdigit() and int(one) - first < len(names) else one

    return _joined([_item(item, unit, name) for item in field.split(",")])


def _item(item: str, unit: str, name: object) -> str:
    called = name if callable(name) else str
    span, _, step = item.partition("/")
    if step:
        start, _, end = span.partition("-")
        begin = "" if span == "*" else f" from {called(start)}{' to ' + called(end) if end else ''}"
        return f"{_steps(item, unit)}{begin}"
    if "#" in span:
        start, _, which = span.partition("#")
        place = _ORDINALS[int(which)] if which.isdigit() and int(which) < len(_ORDINALS) else which
        return f"the {place} {called(start)} of the month"
    if re.fullmatch(r"l\d", span):
        return f"the last {called(span[1])} of the month"
    start, _, end = span.partition("-")
    return f"{called(start)} to {called(end)}" if end else called(start)


def _joined(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
