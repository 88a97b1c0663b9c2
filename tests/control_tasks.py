"""Task functions with limits, rates and timeouts, for the tests under load: each body says when it really runs."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from cq import task

LIMIT = 2
STARTS, SECONDS = 8, 1


@contextmanager
def place(cqt, folder: str, key: str) -> Iterator[None]:
    """Take a place of this key for as long as the body, or else its process, lives; tell if there are too many."""
    here = Path(folder, f"places-{key}")
    here.mkdir(exist_ok=True)
    mine = here / f"{os.getpid()}-{cqt.name}-{cqt.id}-{cqt.attempt}"
    mine.touch()
    taken = [other.name for other in here.iterdir() if is_alive(other.name.partition("-")[0])]
    if len(taken) > LIMIT:
        Path(folder, f"exceeded-{uuid4().hex}").write_text(f"{key}: {taken}")
    try:
        yield
    finally:
        mine.unlink()


def is_alive(pid: str) -> bool:
    """Tell whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def by_key(folder: str, key: str, *_: object) -> str:
    return key


@task("control.limited", key=by_key, limit=LIMIT)
def limited(cqt, folder, key, seconds):
    with place(cqt, folder, key):
        time.sleep(seconds)


@task("control.limited_coroutine", key=by_key, limit=LIMIT)
async def limited_coroutine(cqt, folder, key, seconds):
    import asyncio

    with place(cqt, folder, key):
        await asyncio.sleep(seconds)


@task("control.limited_hangs", key=by_key, limit=LIMIT, timeout=0.3, retries=1, backoff=0)
def limited_hangs(cqt, folder, key, seconds):
    """Hang where no exception can reach it, so that only the end of its process ends it."""
    with place(cqt, folder, key):
        time.sleep(seconds)


@task("control.rated", key=by_key, rate=f"{STARTS}/s", retries=1, backoff=0)
def rated(cqt, folder, key):
    if cqt.attempt == 1:
        raise ValueError("once more")


@task("control.spins", timeout=0.2)
def spins(cqt):
    while True:
        pass
