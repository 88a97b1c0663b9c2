"""What a body is suspended for: the value that its outcome carries to the row."""

from typing import NamedTuple

STEP = "step"
SLEEP = "sleep"
EVENT = "event"


class Wait(NamedTuple):
    """What has to happen before the body runs again: so many seconds pass, or an event comes (in so many; None: in any time)."""

    kind: str
    name: str
    seconds: float | None
    permission: str | None = None
