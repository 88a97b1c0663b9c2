"""Run measurements one after another, each in a process of its own on an emptied database and Redis; leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier
from redis import Redis

from example.services import services
from tests.benchmarks.catalogue import Entry
from tests.benchmarks.processes import end_session
from tests.benchmarks.works import Work

ROOT = Path(__file__).resolve().parents[2]
_PREFIX = "cq_bench_"
_RUN = f"{_PREFIX}run"
_PREPARE = Work("prepare", "make the tables", ())
# Where rows are written, and where memory is compared, workers have a Django project, as they would in one.
_WITH_DJANGO = {"prepare", "rows_1", "rows_4", "idle"}


class RunFailed(Exception):
    """A measurement ended without figures; the text says why."""


@dataclass
class Runner:
    """Two servers, and the databases that are ours on one of them."""

    database_url: str
    redis_url: str
    folder: Path
    templates: set[str]

    def prepare(self, entry: Entry) -> None:
        """Make the database of a system that each of its runs gets a copy of."""
        if entry.name in self.templates:
            return
        template = _PREFIX + entry.name.replace("-", "_")
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", template)
        self._admin("CREATE DATABASE {}", template)
        self._client(entry, _PREPARE, 0, template)
        self.templates.add(entry.name)

    def measure(self, entry: Entry, work: Work, size: int) -> dict[str, float]:
        """Run one measurement; return its figures, or raise RunFailed."""
        self.prepare(entry)
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", _RUN)
        self._admin("CREATE DATABASE {} TEMPLATE {}", _RUN, _PREFIX + entry.name.replace("-", "_"))
        self._admin("CHECKPOINT")  # so that none falls into one run and not into another
        with Redis.from_url(self.redis_url) as redis:
            redis.flushdb()
        figures: dict[str, float] = json.loads(self._client(entry, work, size, _RUN).splitlines()[-1])
        return figures

    def drop(self) -> None:
        """Drop our databases."""
        for name in (_RUN, *(_PREFIX + template.replace("-", "_") for template in self.templates)):
            self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def settings(self) -> dict[str, str]:
        """Return what the server says of itself."""
        with psycopg.connect(self.database_url) as connection, Redis.from_url(self.redis_url) as redis:
            names = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
            found = {name: str(connection.execute(f"SHOW {name}").fetchone()[0]) for name in names}  # type: ignore[index]
            return {**found, "redis_version": str(redis.info("server").get("redis_version"))}

    def _client(self, entry: Entry, work: Work, size: int, database: str) -> str:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            command = [sys.executable, "-m", "tests.benchmarks.client", entry.name, work.name, str(size)]
            client = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment(entry, work, database, Path(folder)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            try:
                said, complaints = client.communicate(timeout=work.limit)
            except subprocess.TimeoutExpired:
                raise RunFailed(f"not done in {work.limit:.0f} s") from None
            finally:
                end_session(client.pid)
                client.wait()
            if client.returncode:
                raise RunFailed(complaints.strip()[-3000:])
            return said

    def _environment(self, entry: Entry, work: Work, database: str, folder: Path) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        if entry.needs_django or work.name in _WITH_DJANGO:
            environment["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
        return {
            **environment,
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self._url(database),
            "REDIS_URL": self.redis_url,
            "BENCH_OTHER_DATABASE_URL": self.database_url,
            "BENCH_SYSTEM": entry.name,
            "BENCH_WORK": work.name,
            "BENCH_RECORDS": str(folder / "records"),
            "dramatiq_queue_prefetch": "200",
            "C_FORCE_ROOT": "1",
        }

    def _url(self, database: str) -> str:
        return urlsplit(self.database_url)._replace(path=f"/{database}").geturl()

    def _admin(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(SQL(statement).format(*map(Identifier, names)))


@contextmanager
def runner() -> Iterator[Runner]:
    """Have a runner on servers of our own, or on those of DATABASE_URL and REDIS_URL; of Redis we need one that is empty."""
    with services() as found, tempfile.TemporaryDirectory(prefix="cq-bench-") as folder:
        with Redis.from_url(found.redis_url) as redis:
            if keys := redis.dbsize():
                raise SystemExit(f"REDIS_URL holds {keys:,} keys, and every run empties it. Set it to an empty one.")
        ours = Runner(found.database_url, found.redis_url, Path(folder), set())
        try:
            yield ours
        finally:
            ours.drop()
