"""Dramatiq on Redis, without results."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend

from tests.benchmarks import bodies
from tests.benchmarks.system import PYTHON, System, redis_url, set_up_django

set_up_django()
broker = RedisBroker(url=redis_url())
broker.add_middleware(GroupCallbacks(RedisBackend(url=redis_url())))
dramatiq.set_broker(broker)

noop = dramatiq.actor(bodies.noop, actor_name="noop")
row = dramatiq.actor(bodies.row, actor_name="row")


class Dramatiq(System):
    """`dramatiq`, processes of threads."""

    threads = 8
    tasks = {"noop": noop, "row": row}

    def worker(self, processes: int, threads: int) -> list[list[str]]:
        return [[PYTHON, "-m", "dramatiq", __name__, "--processes", str(processes), "--threads", str(threads)]]

    def enqueue(self, body: str, number: int) -> None:
        self.tasks[body].send(number)

    def fan_out(self, first: int, count: int) -> None:
        group = dramatiq.group([noop.message(number) for number in range(first, first + count)])
        group.add_completion_callback(noop.message(first + count))
        group.run()

    def chain(self, first: int, count: int) -> None:
        messages = [
            noop.message_with_options(args=(number,), pipe_ignore=True) for number in range(first, first + count)
        ]
        dramatiq.pipeline(messages).run()


system = Dramatiq()
