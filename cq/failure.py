"""An exception as text: what a row keeps of it. Never pickled, and never longer than the settings allow."""

import traceback
from types import TracebackType

from cq.conf import conf

_CUT = " … [cut]"


def describe(exc: BaseException) -> tuple[str, str, str]:
    """Return the error text, the dotted name of the class, and the traceback from the body on."""
    error = _text(exc) or type(exc).__name__
    name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    return fit(error), name[:200], fit(_traceback(exc))


def fit(text: str) -> str:
    """Make any text storable: no NUL, no lone surrogates, no more than `MAX_ERROR_SIZE` bytes."""
    clean = text.replace("\0", "\ufffd").encode(errors="replace")
    limit = conf().MAX_ERROR_SIZE
    if len(clean) <= limit:
        return clean.decode()
    return clean[: max(0, limit - len(_CUT.encode()))].decode(errors="ignore") + _CUT


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as error:  # a user's __str__ may do anything
        return f"{type(exc).__name__} (its text cannot be made: {type(error).__name__})"


def _traceback(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(exc), exc, _from_the_body(exc.__traceback__), limit=-50))
    except BaseException as error:  # as above: formatting calls the user's code
        return f"{type(exc).__name__} (its traceback cannot be made: {type(error).__name__})"


def _from_the_body(frames: TracebackType | None) -> TracebackType | None:
    """Leave out CQ's own frames above the user's function."""
    first = frames
    while first is not None and _is_ours(first):
        first = first.tb_next
    return first or frames


def _is_ours(frame: TracebackType) -> bool:
    return str(frame.tb_frame.f_globals.get("__name__", "")).startswith("cq.")
