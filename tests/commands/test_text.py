"""Text for terminals, without a terminal."""

from datetime import timedelta

import pytest

from cq.moments import duration
from cq.terminal.table import Cell, Column, Row, table
from cq.terminal.text import clip, lines, one_line, printable, width, wrap

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202eleft\u2066 \r\n\x00\x7f\u2028 end"


@pytest.mark.parametrize(
    ("seconds", "said", "briefly"),
    [
        (-5, "0 ms", "0 ms"),
        (0.0004, "0 ms", "0 ms"),
        (0.25, "250 ms", "250 ms"),
        (0.9996, "1.0 s", "1.0 s"),
        (1.23, "1.2 s", "1.2 s"),
        (9.99, "9 s", "9 s"),
        (59.9, "59 s", "59 s"),
        (60, "1 min", "1 min"),
        (184, "3 min 4 s", "3 min"),
        (3600, "1 h", "1 h"),
        (7500, "2 h 5 min", "2 h"),
        (2 * 86400, "2 d", "2 d"),
        (2 * 86400 + 3 * 3600, "2 d 3 h", "2 d"),
        (12 * 86400 + 3 * 3600, "12 d", "12 d"),
    ],
)
def test_a_duration_is_said_in_one_or_two_units(seconds, said, briefly):
    time = timedelta(seconds=seconds)

    assert (duration(time), duration(time, brief=True)) == (said, briefly)


def test_nothing_in_a_hostile_text_reaches_the_terminal():
    assert printable(HOSTILE).isprintable()
    assert one_line(HOSTILE).isprintable()
    assert all(line.isprintable() for line in lines(HOSTILE))
    assert "\\x1b[31mred" in one_line(HOSTILE)


def test_letters_of_all_languages_stay_as_they_are():
    assert one_line("Grüße 漢字 é ∑ 🙂") == "Grüße 漢字 é ∑ 🙂"


def test_wide_letters_take_two_columns_and_accents_none():
    assert [width(text) for text in ("abc", "漢字", "e\u0301", "🙂")] == [3, 4, 1, 2]


@pytest.mark.parametrize("text", ["a" * 99, "漢字" * 50, "e\u0301" * 99, "e" + "\u0301" * 9999, "one two " * 20, ""])
@pytest.mark.parametrize("room", [2, 3, 7, 20])
def test_what_is_cut_or_wrapped_fits(text, room):
    pieces = [clip(text, room), clip(text, room, keep_end=True), *wrap(text, room)]

    assert all(width(piece) <= room and len(piece) <= 4 * room + 1 for piece in pieces)


def test_a_cut_shows_where_something_is_gone():
    assert (clip("abcdef", 4), clip("abcdef", 4, keep_end=True), clip("abcdef", 6)) == ("abc…", "…def", "abcdef")


def test_wrapping_loses_no_word():
    text = "one two three four five six seven eight nine ten"

    assert " ".join(wrap(text, 13)).split() == text.split()


def test_columns_that_may_give_way_when_a_table_is_too_wide():
    columns = [Column("A"), Column("B", gives_way=True), Column("C", right=True)]

    laid = table(columns, [Row([Cell("fixed"), Cell("x" * 99), Cell("12")])], 30)

    assert ["".join(cell.text for cell in line) for line in laid] == [
        "A      B                     C",
        f"fixed  {'x' * 18}…  12",
    ]


def test_a_column_without_any_text_is_left_out():
    laid = table([Column("A"), Column("B")], [Row([Cell("a"), Cell("")])], 30)

    assert ["".join(cell.text for cell in line) for line in laid] == ["A", "a"]
