"""Memory that a child shares with the supervisor: which bodies have started and are not yet written, until when each may run, that
the child answers, what it may no longer start, and that it is to stop.

Written without any call to the kernel, by the child but for the last two, readable after its death however it died.
"""

import mmap
import struct
from uuid import UUID

_ENTRY = 24
_ID = 16
_NO_ID = bytes(_ID)
_EMPTY = bytes(_ENTRY)


class Marks:
    """Start marks of one child. More bodies than entries go unmarked, and are handed back uncharged after a crash."""

    def __init__(self, entries: int = 1024) -> None:
        self.memory = mmap.mmap(-1, entries * _ENTRY)
        self._unmarked = bytes(entries * _ENTRY)
        self.free = list(range(entries))
        self.answered = Moment()
        # What was asked for before this and had no mark then goes to others. Each writes first and reads then: the child its mark and
        # this, the supervisor this and the marks. So one of them knows of the other.
        self.handed_back = Moment()
        # It claims nothing more and will end by itself.
        self.retired = Moment()
        # It is told to stop. Not by a signal: what those do, a body may have changed.
        self.stopping = Moment()

    def start(self, task_id: UUID, deadline: float | None = None) -> int | None:
        """Mark a body as started, with the time until when it may run; return the mark."""
        if not self.free:
            return None
        mark = self.free.pop()
        if deadline is not None:  # before the id: nobody reads this body with another's deadline
            self._note_deadline(mark, deadline)
        self.memory[mark * _ENTRY : mark * _ENTRY + _ID] = task_id.bytes
        return mark

    def leave(self, mark: int) -> None:
        """Note that the body has left its function: what is left to do takes the time that it takes."""
        self._note_deadline(mark, 0.0)

    def _note_deadline(self, mark: int, deadline: float) -> None:
        self.memory[mark * _ENTRY + _ID : (mark + 1) * _ENTRY] = struct.pack("d", deadline)

    def end(self, mark: int | None) -> None:
        """Take a mark away: the body's outcome is written."""
        if mark is not None:
            self.memory[mark * _ENTRY : (mark + 1) * _ENTRY] = _EMPTY
            self.free.append(mark)

    def started(self) -> list[UUID]:
        """Read which bodies had started."""
        return [UUID(bytes=task_id) for task_id, _ in self._entries()]

    def overdue(self, before: float) -> list[UUID]:
        """Read which bodies were to have ended before this time, and are still in their functions."""
        return [UUID(bytes=task_id) for task_id, deadline in self._entries() if 0 < deadline < before]

    def _entries(self) -> list[tuple[bytes, float]]:
        memory = self.memory[:]
        if memory == self._unmarked:
            return []
        return [entry for entry in struct.iter_unpack(f"{_ID}sd", memory) if entry[0] != _NO_ID]

    def clear(self, *, retired: bool = False) -> None:
        """Forget all marks, for the next process, or at an end in order."""
        self.memory[:] = bytes(len(self.memory))
        self.answered.note(0.0)
        self.stopping.note(0.0)
        if not retired:
            self.retired.note(0.0)
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
