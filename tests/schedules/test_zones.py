"""Ticks in time zones, through gaps, through hours that come twice, and leap days."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cq.cron import Cron, zone_of
from cq.timetable import Timetable

MINUTE = timedelta(minutes=1)
# zone, crontab, from when on, and the instants, worked out by hand from the published changes of the clocks.
TABLE = [
    # Gaps: a fixed time that is missing comes at the end of the gap …
    ("America/New_York", "30 2 * * *", "2026-03-07T12:00", ["2026-03-08T07:00", "2026-03-09T06:30"]),
    ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
    ("Europe/London", "15 1 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:15"]),
    ("Australia/Lord_Howe", "15 2 * * *", "2026-10-02T20:00", ["2026-10-03T15:30", "2026-10-04T15:15"]),
    ("Pacific/Apia", "0 12 * * *", "2011-12-29T10:00", ["2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00"]),
    ("America/Santiago", "0 0 * * *", "2026-09-05T12:00", ["2026-09-06T04:00", "2026-09-07T03:00"]),
    ("Africa/Casablanca", "30 2 * * *", "2026-03-21T12:00", ["2026-03-22T02:00", "2026-03-23T01:30"]),
    ("Africa/Cairo", "30 0 * * *", "2026-04-23T12:00", ["2026-04-23T22:00", "2026-04-24T21:30"]),
    ("America/Havana", "0 0 * * *", "2026-03-07T12:00", ["2026-03-08T05:00", "2026-03-09T04:00"]),
    ("Asia/Beirut", "30 0 * * *", "2026-03-28T12:00", ["2026-03-28T22:00", "2026-03-29T21:30"]),
    # … several of them once; where elapsed time counts, none of them.
    ("America/New_York", "0,20,40 2 * * *", "2026-03-08T06:00", ["2026-03-08T07:00", "2026-03-09T06:00"]),
    ("America/New_York", "0 2,3 * * *", "2026-03-08T06:00", ["2026-03-08T07:00", "2026-03-09T06:00"]),
    (
        "America/New_York",
        "*/30 * * * *",
        "2026-03-08T06:00",
        ["2026-03-08T06:30", "2026-03-08T07:00", "2026-03-08T07:30"],
    ),
    ("Australia/Lord_Howe", "*/30 * * * *", "2026-10-03T15:00", ["2026-10-03T15:30", "2026-10-03T16:00"]),
    # Twice: a fixed time comes the first time only …
    ("America/New_York", "30 1 * * *", "2026-10-31T12:00", ["2026-11-01T05:30", "2026-11-02T06:30"]),
    ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T00:00", ["2026-04-04T14:45", "2026-04-05T15:15"]),
    ("Africa/Casablanca", "30 2 * * *", "2026-02-14T12:00", ["2026-02-15T01:30", "2026-02-16T02:30"]),
    ("Europe/Dublin", "30 1 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ("Pacific/Auckland", "30 2 * * *", "2026-04-03T20:00", ["2026-04-04T13:30", "2026-04-05T14:30"]),
    # … also if one looks in between.
    ("Europe/Berlin", "0,45 2 * * *", "2026-10-25T01:10", ["2026-10-26T01:00", "2026-10-26T01:45"]),
    # … where elapsed time counts, both times.
    ("America/New_York", "0 * * * *", "2026-11-01T04:00", ["2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00"]),
    (
        "Australia/Lord_Howe",
        "*/30 * * * *",
        "2026-04-04T14:00",
        ["2026-04-04T14:30", "2026-04-04T15:00", "2026-04-04T15:30"],
    ),
    (
        "America/St_Johns",
        "*/20 1 * * *",
        "2026-11-01T03:20",
        ["2026-11-01T03:30", "2026-11-01T03:50", "2026-11-01T04:10", "2026-11-01T04:30"],
    ),
    # Zones that never change, and are no whole hours away.
    ("Asia/Kathmandu", "0 0 29 2 *", "2026-01-01T00:00", ["2028-02-28T18:15", "2032-02-28T18:15"]),
    ("Asia/Kolkata", "59 23 31 12 *", "2026-01-01T00:00", ["2026-12-31T18:29", "2027-12-31T18:29"]),
    ("UTC", "0 0 29 2 *", "2096-03-01T00:00", ["2104-02-29T00:00"]),
    ("Pacific/Chatham", "0 3 1 jan mon", "2026-12-30T00:00", ["2026-12-31T13:15", "2027-01-03T13:15"]),
]
ZONES = sorted({zone for zone, *_ in TABLE})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(cron: Cron, after: datetime, until: datetime) -> list[datetime]:
    found = []
    while (tick := cron.after(after)) is not None and tick <= until:
        found.append(tick)
        assert tick > after
        after = tick
    return found


def by_the_minute(cron: Cron, minutes: set[int], hours: set[int], after: datetime, until: datetime) -> list[datetime]:
    """Say when a crontab of every day is due, without any calendar: look at the clocks in each minute, as Vixie cron does."""
    found, seen = [], set()
    instant, before = after, after.astimezone(cron.zone)
    while (instant := instant + MINUTE) <= until:
        local = instant.astimezone(cron.zone)
        wall, last = local.replace(tzinfo=None), before.replace(tzinfo=None)
        passed = [last + n * MINUTE for n in range(1, int((wall - last) / MINUTE))] if wall > last else []
        shown = [*passed, wall] if cron.is_fixed else [wall]
        due = [
            one for one in shown if one.minute in minutes and one.hour in hours and not (cron.is_fixed and one in seen)
        ]
        if due:
            found.append(instant)
        seen.update(due)
        before = local
    return found


def test_the_table_has_the_zones_that_are_known_for_trouble():
    assert len(ZONES) >= 12
    assert {"Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"} <= set(ZONES)


@pytest.mark.parametrize(("zone", "crontab", "after", "expected"), TABLE)
def test_ticks_are_at_instants_worked_out_by_hand(zone, crontab, after, expected):
    table = Timetable(crontab, None, zone, at("2000-01-01"))

    found = table.upcoming(len(expected), at(after))

    assert [tick.utc for tick in found] == [at(text) for text in expected]


@st.composite
def crontabs(draw):
    """A crontab of every day, with the minutes and hours that it means."""
    kind = draw(st.sampled_from(["fixed", "minutes", "hours", "hourly"]))
    minutes = draw(st.sets(st.sampled_from([0, 10, 15, 29, 30, 45, 59]), min_size=1, max_size=3))
    hours = draw(st.sets(st.integers(0, 4), min_size=1, max_size=3))
    text = {"minutes": ",".join(map(str, minutes)), "hours": ",".join(map(str, hours))}
    if kind == "fixed":
        return f"{text['minutes']} {text['hours']} * * *", minutes, hours
    if kind == "minutes":
        step = draw(st.sampled_from([7, 15, 20, 30]))
        return f"*/{step} {text['hours']} * * *", set(range(0, 60, step)), hours
    if kind == "hours":
        return f"{text['minutes']} */2 * * *", minutes, set(range(0, 24, 2))
    return f"{text['minutes']} * * * *", minutes, set(range(24))


CHANGES = {
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "Australia/Lord_Howe": ["2026-04-04", "2026-10-03"],
    "Africa/Casablanca": ["2026-02-15", "2026-03-22"],
    "Pacific/Apia": ["2011-12-30", "2021-04-03"],
    "America/Santiago": ["2026-04-05", "2026-09-06"],
    "Africa/Cairo": ["2026-04-24", "2026-10-29"],
    "Antarctica/Troll": ["2026-03-29", "2026-10-25"],
}


@settings(max_examples=60, deadline=None)
@given(crontabs(), st.sampled_from(sorted(CHANGES)), st.integers(0, 1), st.integers(0, 1439))
def test_ticks_strictly_increase_and_are_those_that_a_look_at_the_clocks_finds(crontab, zone, change, minute):
    text, minutes, hours = crontab
    cron = Cron(text, zone_of(zone))
    after = at(CHANGES[zone][change]) - timedelta(days=1) - minute * MINUTE
    until = after + timedelta(days=3)

    assert ticks(cron, after + minute * MINUTE, until) == [
        tick for tick in by_the_minute(cron, minutes, hours, after, until) if tick > after + minute * MINUTE
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 0 l * *", "15 1 * * sun", "0 */5 * * *"]),
    st.sampled_from(ZONES),
    st.datetimes(datetime(2011, 1, 1), datetime(2040, 1, 1)),
    st.integers(0, 86_400),
)
def test_it_does_not_matter_from_where_one_looks(text, zone, start, seconds):
    """What is next from between two ticks is the second of them."""
    cron = Cron(text, zone_of(zone))
    first = cron.after(start.replace(tzinfo=UTC))
    second = cron.after(first)

    between = first + min(timedelta(seconds=seconds), second - first - timedelta(microseconds=1))

    assert first < second
    assert cron.after(between) == second


def test_a_fixed_local_time_comes_once_a_day():
    cron = Cron("30 2 * * *", zone_of("America/New_York"))

    found = ticks(cron, at("2025-12-31T12:00"), at("2027-01-01T12:00"))

    assert len(found) == 366
    assert len({tick.astimezone(cron.zone).date() for tick in found}) == 366


def test_what_is_shown_says_where_the_clocks_matter():
    def notes(zone, crontab, after, number=1):
        return [tick.note for tick in Timetable(crontab, None, zone, at("2000-01-01")).upcoming(number, at(after))]

    assert notes("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00", 2) == [
        "02:30 does not exist on 2026-03-29; it runs when the clocks have been put forward.",
        "",
    ]
    assert notes("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00") == [
        "02:30 comes twice on this day; it runs the first time only."
    ]
    assert notes("Europe/Berlin", "0 * * * *", "2026-10-24T23:30", 3) == [
        "02:00 comes twice on this day; this is the first time.",
        "02:00 comes twice on this day; this is the second time.",
        "",
    ]


def test_a_tick_knows_local_time_and_utc():
    (tick,) = Timetable("30 2 * * *", None, "Europe/Berlin", at("2000-01-01")).upcoming(1, at("2026-07-01"))

    assert tick == at("2026-07-01T00:30")
    assert (tick.local.isoformat(), tick.utc.isoformat()) == ("2026-07-01T02:30:00+02:00", "2026-07-01T00:30:00+00:00")
