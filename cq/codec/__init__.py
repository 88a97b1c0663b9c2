"""Values to JSON text and back: what a task is given, and what it returns.

What JSON lacks goes as `{"$cq": [word, ...]}`; a user's own "$cq" key is escaped. The text lies in a jsonb column. That
keeps numbers as decimals: those that would not survive it are tagged. It also forgets the order of keys: that is lost.
Decoding imports nothing and calls nothing but the constructors in `decoding._MAKERS`.
"""

from cq.codec.decoding import loads
from cq.codec.encoding import dumps
from cq.codec.format import ALLOWED, MAX_NESTING, TAG
from cq.codec.references import ModelRef, Unreadable, resolve

__all__ = ["ALLOWED", "MAX_NESTING", "TAG", "ModelRef", "Unreadable", "dumps", "loads", "resolve"]
