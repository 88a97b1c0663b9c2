"""Named points between any two steps that matter, where tests make things go wrong. Off unless the environment sets them.

`CQ_FAILPOINTS="finish.swapped=kill:once, settle.deleted=sleep:50ms, claim.committed=raise:0.1"`: action, then how long, how
often (a probability) or `once` (over all processes, by a file in `CQ_FAILPOINTS_DIR`). `cq.testing` has a context manager.
"""

import os
import random
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from django.db import connections

ACTIONS = ("kill", "exit", "sleep", "raise", "drop")


class FailpointReached(Exception):
    """A failpoint was told to raise."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What shall go wrong at one point."""

    action: str
    probability: float = 1.0
    seconds: float = 0.0
    once: bool = False


def parse(text: str) -> dict[str, Failure]:
    """Read `CQ_FAILPOINTS`; ValueError says which part is wrong."""
    return dict(_parse_one(part.strip()) for part in text.split(",") if part.strip())


def _parse_one(part: str) -> tuple[str, Failure]:
    name, _, rest = part.partition("=")
    action, *words = rest.split(":")
    if action not in ACTIONS:
        raise ValueError(f"CQ_FAILPOINTS: {part!r} has no known action; expected name=action, action one of {ACTIONS}.")
    failure = Failure(action)
    for word in words:
        if word == "once":
            failure = Failure(action, failure.probability, failure.seconds, once=True)
        elif word.endswith("ms"):
            failure = Failure(action, failure.probability, float(word[:-2]) / 1000, failure.once)
        else:
            failure = Failure(action, float(word), failure.seconds, failure.once)
    return name, failure


ACTIVE: dict[str, Failure] = parse(os.environ.get("CQ_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """Do nothing, unless a test wants something to go wrong here."""
    if ACTIVE and name in ACTIVE:
        _reach(name, ACTIVE[name])


def _reach(name: str, failure: Failure) -> None:
    if random.random() >= failure.probability or (failure.once and not _first_here(name)):
        return
    match failure.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(0)
        case "sleep":
            time.sleep(failure.seconds)
        case "drop":
            _drop_connections()
        case _:
            raise FailpointReached(name)


def _first_here(name: str) -> bool:
    directory = os.environ.get("CQ_FAILPOINTS_DIR")
    if directory is None:
        raise ValueError("A failpoint with :once needs CQ_FAILPOINTS_DIR, a folder for its mark.")
    try:
        (Path(directory) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _drop_connections() -> None:
    """Cut this thread's connections under psycopg's feet, as a network failure would."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            with socket.socket(fileno=os.dup(connection.connection.fileno())) as raw:
                raw.shutdown(socket.SHUT_RDWR)
