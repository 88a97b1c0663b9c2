"""Text as a terminal shows it: nothing in it can steer the terminal, and its width is known. Pure."""

import re
from unicodedata import category, east_asian_width

_ELLIPSIS = "…"
_WIDE = ("W", "F")
_WITHOUT_WIDTH = ("Mn", "Me")


def printable(text: str) -> str:
    """Escape what is not to be seen: control characters, line ends, changes of the writing direction."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def one_line(text: str) -> str:
    """Put a text on one line: each stretch of blanks and line ends is one blank, the rest as in `printable`."""
    return printable(re.sub(r"[ \t\r\n\f\v]+", " ", text).strip())


def lines(text: str) -> list[str]:
    """Give the lines of a text of many, each as in `printable`."""
    return [printable(line.rstrip("\r").expandtabs(4)) for line in text.rstrip().split("\n")]


def width(text: str) -> int:
    """Count the columns that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of, text))


def _width_of(letter: str) -> int:
    if category(letter) in _WITHOUT_WIDTH:
        return 0
    return 2 if east_asian_width(letter) in _WIDE else 1


def clip(text: str, room: int, *, keep_end: bool = False) -> str:
    """Cut a printable text to so many columns; an ellipsis stands for what is gone, at its end or (`keep_end`) its start."""
    if width(text) <= room and len(text) <= 4 * room:  # marks without width could pile up for ever
        return text
    if room < 1:
        return ""
    if keep_end:
        return _ELLIPSIS + _head(text[::-1], room - 1)[::-1]
    return _head(text, room - 1) + _ELLIPSIS


def _head(text: str, room: int) -> str:
    taken = 0
    for place, letter in enumerate(text[: 4 * room]):
        taken += _width_of(letter)
        if taken > room:
            return text[:place]
    return text[: 4 * room]


def wrap(text: str, room: int) -> list[str]:
    """Break a printable text into lines of so many columns: at a blank, where one is near the end."""
    broken = []
    while text:
        head = text if width(text) <= room and len(text) <= 4 * room else _head(text, max(room, 2))
        blank = head.rfind(" ", len(head) // 2)
        if len(head) < len(text) and blank > 0:
            head = head[: blank + 1]
        broken.append(head.rstrip())
        text = text[len(head) :]
    return broken or [""]


def counts(numbers: dict[str, int]) -> str:
    """List what there is how often: `9,900 SUCCESS, 50 FAILURE`."""
    return ", ".join(f"{number:,} {word}" for word, number in numbers.items() if number)
