"""What a task queue is to this benchmark: how its workers are started, and its verbs for the works.

A system that cannot do something has no such verb, and no size for that work in the catalogue.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar
from urllib.parse import urlsplit

import django
from django.apps import apps

PYTHON = sys.executable


class System:
    """One task queue, as its users would run it."""

    # So many threads a process has where the work does not say otherwise.
    threads: ClassVar[int] = 1
    # The tasks with the bodies "noop" and "row".
    tasks: dict[str, Any]

    def make_tables(self) -> None:
        """Make the tables of its own that Django's migrations do not."""

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        """Return the command lines of its own worker program, for so many processes in all."""
        raise NotImplementedError

    def enqueue(self, body: str, number: int) -> None:
        """Enqueue one task, as a web request would."""
        raise NotImplementedError

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        """Enqueue many tasks, in the fastest way the system has."""
        for number in numbers:
            self.enqueue(body, number)

    def transaction(self) -> AbstractContextManager[Any]:
        """Open a transaction around calls of `enqueue`, where the system knows such a thing."""
        return nullcontext()

    # Whether a result is stored after its body's record and not before the next body starts: then a drain lasts until all are.
    stores_later: ClassVar[bool] = False

    def has_stored(self, count: int) -> bool:
        """Say whether so many results are stored."""
        return True

    def stored_at(self) -> float | None:
        """Return when the last result was stored, if the system itself knows that better than who asks."""
        return None

    # submit_and_wait(number) -> result; fan_out(first, count); chain(first, count): where there are such things.


def uses_django() -> bool:
    """Say whether this run has a Django project; Redis queues get along without it where no row is written."""
    return "DJANGO_SETTINGS_MODULE" in os.environ


def set_up_django() -> None:
    """Set Django up in workers that do not do it themselves."""
    if uses_django() and not apps.ready:
        django.setup()


def redis_url(*, socket_scheme: str = "unix") -> str:
    """Return the address of Redis; `socket_scheme` is what the system calls a Unix socket."""
    url = os.environ["REDIS_URL"]
    return url.replace("unix:", f"{socket_scheme}:", 1) if url.startswith("unix:") else url


def database_url(scheme: str = "postgresql") -> str:
    """Return the address of the database, for a driver of this scheme."""
    return urlsplit(os.environ["DATABASE_URL"])._replace(scheme=scheme).geturl()
