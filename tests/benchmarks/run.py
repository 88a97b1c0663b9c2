"""One run: a system, a size, the worker processes, and the records of what ran."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from django.apps import apps

from tests.benchmarks.processes import end_session, stop
from tests.benchmarks.records import NotInTime, Records
from tests.benchmarks.system import System

PATIENCE = 120.0
_WARM_UPS = 20


class WentWrong(Exception):
    """Not every task ran exactly once."""


@dataclass(slots=True)
class Run:
    """What a measure works with. Numbers of tasks from 0 on are to be given to `expects`; those below are warm-ups."""

    system: System
    size: int
    records: Records
    folder: Path
    expected: set[int] = field(default_factory=set)
    warm_ups: int = 0
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @contextmanager
    def worker(self, processes: int, threads: int | None = None, *, in_order: bool = False) -> Iterator[None]:
        """Have a worker inside the block; nothing of it is left afterwards."""
        try:
            for command in self.system.worker(processes, threads or self.system.threads):
                with tempfile.NamedTemporaryFile(dir=self.folder, prefix="worker-", delete=False) as log:
                    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                self.workers.append(worker)
            yield
            if in_order:
                for worker in self.workers:
                    stop(worker)
        finally:
            end_session(os.getsid(0), but=[os.getpid()])
            for worker in self.workers:
                worker.wait()
            self.workers.clear()

    def expects(self, numbers: Iterable[int]) -> None:
        """Note which tasks will have to have run, once each."""
        self.expected.update(numbers)

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        """Enqueue many, and let the planner know of them, as autovacuum would within a minute."""
        self.expects(numbers)
        self.system.fill(body, numbers)
        tidy_database()

    def await_all(self, seconds: float = PATIENCE) -> None:
        """Return when everything expected has been recorded."""
        self.await_records(len(self.expected) + self.warm_ups, seconds)

    def await_records(self, count: int, seconds: float = PATIENCE) -> None:
        """Return when there are so many, or fail as soon as a worker has ended."""
        self.records.wait(count, seconds, lambda: any(worker.poll() is not None for worker in self.workers))

    def await_stored(self) -> float:
        """Return when all results are stored, and the moment when they were; 0 where the system stores none."""
        if not self.system.stores_later:
            return 0.0
        deadline = time.monotonic() + PATIENCE
        while not self.system.has_stored(len(self.expected) + self.warm_ups):
            if time.monotonic() > deadline:
                raise NotInTime(f"results are missing after {PATIENCE:.0f} s")
            time.sleep(0.005)
        seen = time.time()
        return self.system.stored_at() or seen

    def warm_up(self) -> None:
        """Let the worker run some tasks, so that all its processes are there and have imported everything."""
        for _ in range(_WARM_UPS):
            self.warm_ups += 1
            self.system.enqueue("noop", -self.warm_ups)
            self.await_all()
        for _ in range(_WARM_UPS):
            self.warm_ups += 1
            self.system.enqueue("noop", -self.warm_ups)
        self.await_all()

    def check(self, body: str = "noop") -> None:
        """Prove that every task ran exactly once, and that its row is there if it wrote one."""
        time.sleep(0.05)
        faults = self.records.faults(self.expected)
        if any(faults.values()):
            raise WentWrong(", ".join(f"{count:,} {what}" for what, count in faults.items() if count))
        if body == "row":
            rows = apps.get_model("benchmarks", "Row").objects.filter(number__gte=0)
            found = rows.values("number").distinct().count(), rows.count()
            if found != (len(self.expected), len(self.expected)):
                raise WentWrong(f"{found[1]:,} rows of {found[0]:,} tasks, expected {len(self.expected):,}")


def log_of_workers(folder: Path) -> str:
    """Return the end of what the workers have said."""
    return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("worker-*")))


def tidy_database() -> None:
    """VACUUM and ANALYZE."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
