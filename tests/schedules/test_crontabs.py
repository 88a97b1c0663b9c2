"""Which texts are crontabs, and what they mean in words."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from cq.cron import BadCrontab, BadZone, check, doubts, zone_of
from cq.cronwords import every_words, words
from cq.timetable import Timetable

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("99 * * * *", "out of range"),
        ("0 24 * * *", "out of range"),
        ("0 0 30 2 *", r"Day\(s\) \[30\] can never occur in month\(s\) \[2\]"),
        ("0 0 31 4,6 *", "can never occur"),
        ("* * * * * *", "expected five fields"),
        ("* * * *", "expected five fields"),
        ("@reboot", "expected five fields"),
        ("@daily", "expected five fields"),
        ("", "expected five fields"),
        ("0 0 * * *\n", "expected five fields"),
        ("\uff10 0 * * *", "expected five fields"),
        ("0 0 * * monday", "'monday' in the day of the week"),
        ("0 0 * foo *", "'foo' in the month"),
        ("R R * * *", "'r' in the minute"),
        ("H H * * *", "'h' in the minute"),
        ("*/0 * * * *", "step '0'"),
        ("1,,2 * * * *", "not a crontab"),
        ("? * * * *", "in the minute"),
        ("1-2-3 * * * *", "not a crontab"),
        ("0 0 * * 1#9", "not a crontab"),
        ("1" * 10_000, "at most 200 characters; this one has 10,000"),
    ],
)
def test_what_never_comes_or_is_no_crontab_is_refused_at_once(text, said):
    began = time.thread_time()

    with pytest.raises(BadCrontab, match=said):
        check(text)

    assert time.thread_time() - began < 0.05


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("0 3 * * *", "at 03:00"),
        ("0 3,15 1 jan,jul *", "at 03:00 and 15:00 on day 1 of the month in January and July"),
        ("*/5 9-17 * * mon-fri", "every 5 minutes of hour 9 to 17 on Monday to Friday"),
        ("30 * * * *", "at minute 30 of every hour"),
        ("30 */2 * * *", "at minute 30 of every 2 hours"),
        ("5-30/5 * * * *", "every 5 minutes from 5 to 30 of every hour"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("0 0 * * 1#2", "at 00:00 on the second Monday of the month"),
        ("0 0 * * L5", "at 00:00 on the last Friday of the month"),
        ("0 0 1-7 * 7", "at 00:00 on day 1 to 7 of the month or on Sunday"),
        ("0 0 */2 12 *", "at 00:00 on every 2 days of the month in December"),
    ],
)
def test_a_crontab_can_be_said(text, said):
    check(text)

    assert words(text) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1, "every second"),
        (90, "every 90 seconds"),
        (300, "every 5 minutes"),
        (3600, "every hour"),
        (2.5, "every 2.5 seconds"),
    ],
)
def test_an_interval_can_be_said(seconds, said):
    assert every_words(timedelta(seconds=seconds)) == said


def test_a_step_that_leads_nowhere_is_doubted():
    assert doubts("59/15 * * * *") == [
        "59/15 in the minute means 59 alone: the step begins there and nothing follows. For every 15 write */15. "
        "(croniter before 7 read it so.)"
    ]
    assert len(doubts("50/15 0 * * 6/1")) == 2
    assert doubts("5/15 */2 1-7/2 * *") == []


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../UTC", "/etc/passwd", "Europe", "\0", "x" * 10_000])
def test_a_zone_that_is_not_there_is_refused(name):
    with pytest.raises(BadZone, match="is not a time zone"):
        zone_of(name)


def test_an_interval_counts_from_its_anchor_and_begins_with_it():
    table = Timetable("", timedelta(seconds=7), "UTC", BEGIN, starts_at=BEGIN)

    assert table.first(BEGIN - timedelta(days=1)) == BEGIN
    assert table.first(BEGIN) == BEGIN + timedelta(seconds=7)
    assert table.first(BEGIN + timedelta(seconds=20)) == BEGIN + timedelta(seconds=21)


def test_beginning_and_end_are_included():
    hour = timedelta(hours=1)
    table = Timetable("0 * * * *", None, "UTC", BEGIN, starts_at=BEGIN, ends_at=BEGIN + hour)

    assert table.first(BEGIN - timedelta(days=9)) == BEGIN
    assert table.first(BEGIN) == BEGIN + hour
    assert table.first(BEGIN + hour) is None


@pytest.mark.parametrize("every", [None, timedelta(minutes=1)])
def test_the_last_of_many_ticks_are_found_without_a_walk(every):
    table = Timetable("* * * * *" if every is None else "", every, "Europe/Berlin", BEGIN)
    until = BEGIN + timedelta(days=3650)
    began = time.thread_time()

    last = table.last(100, BEGIN + timedelta(minutes=1), until)

    assert (len(last), last[-1], last[0]) == (100, until, until - 99 * timedelta(minutes=1))
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("every", [None, timedelta(minutes=1)])
def test_ticks_are_counted_up_to_another(every):
    table = Timetable("* * * * *" if every is None else "", every, "UTC", BEGIN)
    first = BEGIN + timedelta(minutes=1)

    assert table.count(first, first + timedelta(minutes=10), 1000) == (10, first + timedelta(minutes=10))
    assert table.count(first, first + timedelta(minutes=9.5), 1000) == (10, first + timedelta(minutes=10))
    assert table.count(first, first, 1000) == (0, first)
