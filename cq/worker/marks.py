"""Memory that a child shares with the supervisor: which bodies have started and are not yet written, and that it answers.

Written by the child without any call to the kernel, readable after its death however it died.
"""

import mmap
import struct
from uuid import UUID

_ENTRY = 16
_EMPTY = bytes(_ENTRY)


class Marks:
    """Start marks of one child. More bodies than entries go unmarked, and are handed back uncharged after a crash."""

    def __init__(self, entries: int = 1024) -> None:
        self.memory = mmap.mmap(-1, entries * _ENTRY)
        self.free = list(range(entries))
        self.answered = Moment()

    def start(self, task_id: UUID) -> int | None:
        """Mark a body as started; return the mark."""
        if not self.free:
            return None
        mark = self.free.pop()
        self.memory[mark * _ENTRY : (mark + 1) * _ENTRY] = task_id.bytes
        return mark

    def end(self, mark: int | None) -> None:
        """Take a mark away: the body's outcome is written."""
        if mark is not None:
            self.memory[mark * _ENTRY : (mark + 1) * _ENTRY] = _EMPTY
            self.free.append(mark)

    def started(self) -> list[UUID]:
        """Read which bodies had started."""
        entries = (self.memory[at : at + _ENTRY] for at in range(0, len(self.memory), _ENTRY))
        return [UUID(bytes=entry) for entry in entries if entry != _EMPTY]

    def clear(self) -> None:
        """Forget all marks, for the next process."""
        self.memory[:] = bytes(len(self.memory))
        self.answered.note(0.0)
        self.free = list(range(len(self.memory) // _ENTRY))


class Moment:
    """A time on the clock that all processes of a host share, noted by one and read by others; 0 before the first time."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8)

    def note(self, monotonic: float) -> None:
        """Note a time."""
        self.memory[:] = struct.pack("d", monotonic)

    @property
    def at(self) -> float:
        """The time noted last."""
        (at,) = struct.unpack("d", self.memory[:])
        return float(at)
