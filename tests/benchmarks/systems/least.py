"""No task queue, but what any durable one takes here at least: psycopg, redis-py and a loop around them.

A narrow table; one durable commit for a task, one for a list of claims, one for each end; a message through Redis says that there is
something to claim, another that it has ended. A function that writes a row ends its task in its own transaction, on Django's
connection. There are no attempts, errors, retries, priorities, and nobody looks after what a dead worker has claimed. Run as a module
it is one worker process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import connection, transaction
from redis import Redis

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, database_url, redis_url, set_up_django

CHANNEL = "least"
BATCH = 100
MAKE = """
CREATE TABLE least_task (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number bigint NOT NULL, writes boolean NOT NULL,
                         status smallint NOT NULL DEFAULT 0, result bigint);
CREATE INDEX least_ready ON least_task (id) WHERE status = 0
"""
ENQUEUE = "INSERT INTO least_task (number, writes) VALUES (%s, %s) RETURNING id"
FILL = "INSERT INTO least_task (number, writes) SELECT unnest(%s::bigint[]), %s"
CLAIM = f"""
UPDATE least_task SET status = 1
 WHERE id = ANY(ARRAY(SELECT id FROM least_task WHERE status = 0 ORDER BY id LIMIT {BATCH} FOR UPDATE SKIP LOCKED))
RETURNING id, number, writes
"""
END = "UPDATE least_task SET status = 2, result = %s WHERE id = %s AND status = 1"
UNFINISHED = "SELECT EXISTS (SELECT FROM least_task WHERE status < 2)"


class Least(System):
    """As many processes as the work wants, of one thread."""

    stores_later = True

    def __init__(self) -> None:
        self.database: psycopg.Connection[Any] | None = None
        self.redis = Redis.from_url(redis_url())
        self.ends = self.redis.pubsub()

    def make_tables(self) -> None:
        self._connected().execute(MAKE)

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        return [[PYTHON, "-m", __name__]] * processes

    def enqueue(self, body: str, number: int) -> None:
        self._insert(body, number)

    def fill(self, body: str, numbers: Sequence[int]) -> None:
        self._connected().execute(FILL, (list(numbers), body == "row"))

    def has_stored(self, count: int) -> bool:
        return not self._connected().execute(UNFINISHED).fetchall()[0][0]

    def submit_and_wait(self, number: int) -> int:
        if not self.ends.subscribed:
            self.ends.subscribe(f"{CHANNEL}.ends")
        mine = b"%d" % self._insert("noop", number)
        while (message := self.ends.get_message(timeout=10)) is None or message["data"] != mine:
            pass
        ((result,),) = self._connected().execute("SELECT result FROM least_task WHERE id = %s", [int(mine)])
        return int(result)

    def _insert(self, body: str, number: int) -> int:
        ((task_id,),) = self._connected().execute(ENQUEUE, (number, body == "row"))
        self.redis.publish(CHANNEL, b"")
        return int(task_id)

    def _connected(self) -> psycopg.Connection[Any]:
        if self.database is None:
            self.database = psycopg.connect(database_url(), autocommit=True)
        return self.database


def work() -> None:
    """Run one worker process for ever."""
    redis = Redis.from_url(redis_url())
    told = redis.pubsub()
    told.subscribe(CHANNEL)
    database = psycopg.connect(database_url(), autocommit=True)
    while True:
        claimed = database.execute(CLAIM).fetchall()
        if not claimed:
            told.get_message(timeout=1.0)
        for task_id, number, writes in claimed:
            if writes:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute(END, (bodies.write_row(number), task_id))  # nobody waits for the end of these
            else:
                database.execute(END, (bodies.noop(number), task_id))
                redis.publish(f"{CHANNEL}.ends", task_id)


system = Least()

if __name__ == "__main__":
    set_up_django()
    work()
