"""DBOS: workflows in PostgreSQL, its queue polled every 20 ms. Run as a module it is one worker process."""

from __future__ import annotations

import os
import threading
from typing import Any

import psycopg
from dbos import DBOS, DBOSClient

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, database_url

CONFIG: Any = {
    "name": "benchmarks",
    "system_database_url": database_url(),
    "application_version": "1",
    "log_level": "ERROR",
    "run_admin_server": False,
}
QUEUE = "benchmarks"


@DBOS.workflow(name="noop")
def noop(number: int) -> int:
    """Leave a record."""
    return bodies.noop(number)


class DBOSSystem(System):
    """One process with a DBOS runtime after another."""

    stores_later = True

    def __init__(self) -> None:
        self.opened: DBOSClient | None = None

    def make_tables(self) -> None:
        DBOS(config=CONFIG)
        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=0.02)
        DBOS.destroy()

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        return [[PYTHON, "-m", __name__]] * processes

    def enqueue(self, body: str, number: int) -> None:
        self._enqueue(body, number)

    def has_stored(self, count: int) -> bool:
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'").fetchone()
        return row is not None and int(row[0]) >= count

    def submit_and_wait(self, number: int) -> Any:
        return self._enqueue("noop", number).get_result(polling_interval_sec=0.02)

    def _enqueue(self, body: str, number: int) -> Any:
        if self.opened is None:
            self.opened = DBOSClient(system_database_url=CONFIG["system_database_url"])
        return self.opened.enqueue({"queue_name": QUEUE, "workflow_name": body, "app_version": "1"}, number)


def work() -> None:
    """Run one worker process for ever."""
    DBOS(config={**CONFIG, "executor_id": str(os.getpid())})
    DBOS.launch()
    threading.Event().wait()


system = DBOSSystem()

if __name__ == "__main__":
    work()
