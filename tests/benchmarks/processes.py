"""The processes of a run: all of one session, that of its client, so that none can get away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def in_session(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields[0] not in "ZX" and int(fields[3]) == session:
                found.append(int(name))
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/…/stat after the command's name: state, parent, group, session …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["X", "0", "0", "-1"]


def end_session(session: int, *, but: Iterable[int] = (), patience: float = 10.0) -> None:
    """Kill what is alive of a session; return when it is gone."""
    deadline = time.monotonic() + patience
    while (left := set(in_session(session)) - set(but)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def stop(worker: subprocess.Popen[bytes], patience: float = 15.0) -> None:
    """Stop a worker in order, by force if it takes too long."""
    worker.terminate()
    try:
        worker.wait(patience)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def pss(pids: Iterable[int]) -> int:
    """Return the bytes that these processes have in memory, what is shared divided by its sharers."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total
