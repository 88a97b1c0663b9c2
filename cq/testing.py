"""For tests of users' code, and ours: run tasks here, and make things go wrong at named points."""

from collections.abc import Iterator
from contextlib import contextmanager

from cq import failpoints
from cq.serial import drain

__all__ = ["drain", "failpoint"]


@contextmanager
def failpoint(text: str) -> Iterator[None]:
    """Make things go wrong in this process, as `CQ_FAILPOINTS` does in others: `failpoint("settle.taken=raise")`."""
    before = dict(failpoints.ACTIVE)
    failpoints.ACTIVE.update(failpoints.parse(text))
    try:
        yield
    finally:
        failpoints.ACTIVE.clear()
        failpoints.ACTIVE.update(before)
