"""Procrastinate on psycopg: async bodies, ten at once in each process."""

from __future__ import annotations

from collections.abc import Sequence

from procrastinate import App, PsycopgConnector

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, database_url

CONCURRENCY = "10"

app = App(connector=PsycopgConnector(conninfo=database_url()))


@app.task(name="noop")
async def noop(number: int) -> int:
    """Leave a record."""
    return bodies.noop(number)


class Procrastinate(System):
    """`procrastinate worker`, one process after another."""

    stores_later = True

    def __init__(self) -> None:
        self.is_open = False

    def make_tables(self) -> None:
        self._client().schema_manager.apply_schema()

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        program = [PYTHON, "-m", "procrastinate", f"--app={__name__}.app", "--log-level=error", "worker"]
        return [[*program, "--concurrency", CONCURRENCY]] * processes

    def enqueue(self, body: str, number: int) -> None:
        self._client().configure_task(body).defer(number=number)

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        self._client().configure_task(body).batch_defer(*[{"number": number} for number in numbers])

    def has_stored(self, count: int) -> bool:
        sql = "SELECT count(*) AS count FROM procrastinate_jobs WHERE status = 'succeeded'"
        return int(self._client().connector.get_sync_connector().execute_query_one(sql)["count"]) >= count

    def _client(self) -> App:
        if not self.is_open:
            self.is_open = True
            app.open()
        return app


system = Procrastinate()
