"""Values to JSON text and back: what a task is given, and what it returns.

What JSON lacks goes as `{"$cq": [word, ...]}`; a user's own "$cq" key is escaped. The text lies in a jsonb column. That
keeps numbers as decimals: those that would not survive it are tagged. It also forgets the order of keys: that is lost.
Decoding imports nothing and calls nothing but the constructors in `decoding._MAKERS`.
"""

from typing import Any

from cq.codec.decoding import loads
from cq.codec.encoding import dumps
from cq.codec.failed import FailedMember
from cq.codec.format import ALLOWED, MAX_NESTING, TAG
from cq.codec.references import ModelRef, Unreadable, resolve

__all__ = [
    "ALLOWED",
    "MAX_NESTING",
    "TAG",
    "FailedMember",
    "ModelRef",
    "Unreadable",
    "dumps",
    "loads",
    "recall",
    "resolve",
]


def recall(*texts: str) -> list[Any]:
    """Give the values that `dumps` wrote, model instances read again; without tags in the texts there are none."""
    if TAG in "".join(texts):
        return resolve([loads(text) for text in texts])  # type: ignore[no-any-return]
    return [_EMPTY[text]() if text in _EMPTY else loads(text) for text in texts]


_EMPTY: dict[str, type] = {"[]": list, "{}": dict}
