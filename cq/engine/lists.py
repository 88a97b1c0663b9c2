"""Parameters of statements for lists: how many rows go into one, and arrays written by hand where no value needs a quote."""

from __future__ import annotations

from collections.abc import Iterable

# So many rows go in one statement.
SLICE = 1000


def array(words: Iterable[str]) -> str:
    """Write an array of words of which none needs a quote."""
    return f"{{{','.join(words)}}}"


def texts(values: list[str | None]) -> list[str | None] | None:
    """Return an array of texts, or none where all are NULL."""
    return values if any(value is not None for value in values) else None
