"""Times as people read them: how long, and when. Pure."""

from datetime import datetime, timedelta

from django.utils import timezone

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_UNITS = ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s"))
# From so many days on, hours do not matter any more.
_MANY_DAYS = 10


def duration(time: timedelta | None, *, brief: bool = False) -> str:
    """Say how long: `1.2 s`, `3 min 4 s`, `2 d`; only the largest unit if it is to be brief. Nothing is said of None."""
    if time is None:
        return ""
    seconds = max(0.0, time.total_seconds())
    if seconds < 0.9995:
        return f"{round(1000 * seconds)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return _in_units(int(seconds), brief=brief)


def _in_units(seconds: int, *, brief: bool) -> str:
    place = next(place for place, (size, _) in enumerate(_UNITS) if seconds >= size)
    size, unit = _UNITS[place]
    count, rest = divmod(seconds, size)
    if brief or place + 1 == len(_UNITS) or (unit == "d" and count >= _MANY_DAYS):
        return f"{count:,} {unit}"
    smaller_size, smaller_unit = _UNITS[place + 1]
    smaller = rest // smaller_size
    return f"{count} {unit} {smaller} {smaller_unit}" if smaller else f"{count} {unit}"


def instant(moment: datetime) -> str:
    """Write a moment in the project's time zone, to the second."""
    if timezone.is_naive(moment):
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}"
