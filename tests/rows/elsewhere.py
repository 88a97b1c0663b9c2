"""Other sessions: threads that have their own connections to the same database."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import connections, transaction

T = TypeVar("T")
DEADLINE = 20.0


class Elsewhere:
    """One other session. What it is told to do happens in its own thread, one after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._blocks: list[transaction.Atomic] = []

    def __call__(self, do: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do this there, and wait for what it returns or raises."""
        return self.begin(do, *args, **kwargs).result(DEADLINE)

    def begin(self, do: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Begin this there; it may have to wait for somebody."""
        return self._thread.submit(do, *args, **kwargs)

    def open(self) -> None:
        """Open a transaction there."""
        block = transaction.atomic()
        self(block.__enter__)
        self._blocks.append(block)

    def commit(self) -> None:
        """Commit it."""
        self(self._blocks.pop().__exit__, None, None, None)

    def rollback(self) -> None:
        """Roll it back."""
        self(self._blocks.pop().__exit__, InterruptedError, InterruptedError(), None)

    def close(self) -> None:
        """End the session."""
        while self._blocks:
            self.rollback()
        self(connections.close_all)
        self._thread.shutdown()


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Give another session."""
    there = Elsewhere()
    try:
        yield there
    finally:
        there.close()


@contextmanager
def others(number: int) -> Iterator[Callable[..., list[Any]]]:
    """Give several other sessions that do what they are told all at once, one act each, as often as wanted."""
    barrier = threading.Barrier(number)
    sessions = [Elsewhere() for _ in range(number)]

    def act(one: Callable[[], T]) -> T:
        barrier.wait(DEADLINE)
        return one()

    def at_once(*acts: Callable[[], T]) -> list[T]:
        futures = [session.begin(act, one) for session, one in zip(sessions, acts, strict=True)]
        # The first that fails is what went wrong, whoever else may wait for it in vain.
        for failed in wait(futures, DEADLINE, FIRST_EXCEPTION).done:
            failed.result()
        return [future.result(0) for future in futures]

    try:
        yield at_once
    finally:
        for session in sessions:
            session.close()


def together(*acts: Callable[[], T]) -> list[T]:
    """Do all of these once, at the same time; return what they return, or raise what one raised."""
    with others(len(acts)) as at_once:
        return at_once(*acts)
