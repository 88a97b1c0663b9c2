"""The channel layer is only a hint: absent, stopped, hanging, flushed, forged or flooded, only latency changes."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

import msgpack
import pytest
import redis
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import channel_layers
from django.test import override_settings

from cq import notifier
from cq.consumers import CQConsumer
from cq.models import Task
from tests import fault_tasks
from tests.acceptance.test_failpoints import MIXED
from tests.models import Effect
from tests.processes import all_done, check_invariants, cpu_seconds, query, statuses, unfinished, until

pytestmark = pytest.mark.chaos

POLL = 0.3
KEY = "asgicq"
COME, GONE = "hints come", "no hints come; the database is looked at oftener"


@pytest.fixture
def raw(services):
    """The Redis behind the layer, without the layer."""
    with redis.from_url(services.redis_url) as client:
        yield client


@pytest.fixture
def valkey(services):
    """The server, to stop and suspend."""
    return services.redis


def send(raw, *messages: object) -> None:
    """Put messages on the layer as anybody could who reaches it, in the layer's own format."""
    now = time.time()
    raw.zadd(KEY, {os.urandom(12) + msgpack.packb(message): now for message in messages})


async def read_plainly(number: int) -> float:
    """Return the CPU seconds that it takes to receive so many messages and do nothing with them."""
    layer = channel_layers.make_backend("default")
    spent = 0.0
    for _ in range(number // 50):
        for _ in range(50):
            await layer.send("plain", {"type": "cq.wake"})
        began = time.process_time()
        for _ in range(50):
            await layer.receive("plain")
        spent += time.process_time() - began
    return spent


def latencies(number: int) -> list[float]:
    """Return how long lone tasks took from their call to their end."""
    took = []
    for _ in range(number):
        began = time.monotonic()
        task = fault_tasks.dry.delay()
        until(lambda task=task: Task.objects.get(pk=task.pk).is_done)
        took.append(time.monotonic() - began)
    return took


def looks(seconds: float) -> int:
    """Count how often a keeper looks at the database meanwhile."""
    seen = set()
    deadline = time.monotonic() + seconds

    def is_over() -> bool:
        seen.update(
            query(
                "SELECT query_start FROM pg_stat_activity"
                " WHERE application_name = 'cq:keeper' AND query LIKE '%%SELECT EXISTS (SELECT 1 FROM cq_settlerequest)%%'"
            )
        )
        return time.monotonic() > deadline

    until(is_over)
    return len(seen)


@pytest.mark.parametrize("layer", ["none", "refused", "memory"])
def test_without_a_layer_that_reaches_workers_the_poll_does_it_all(run_worker, layer):
    for _ in range(5):
        fault_tasks.mixed.delay()
    worker = run_worker("--processes", "2", TEST_LAYER=layer, cq={"POLL_INTERVAL": POLL}).ready(2)

    all_done(but=run_worker.log)
    took = latencies(5)
    worker.stop_in_order()

    assert statuses(Task.objects.exclude(name="fault.dry", previous=None)) == Counter(
        {key: 5 * number for key, number in MIXED.items()}
    )
    assert max(took) < POLL + 0.5
    check_invariants()


@pytest.mark.parametrize("layer", ["none", "refused", "memory"])
def test_the_poll_comes_four_times_as_often_without_hints(run_worker, layer):
    worker = run_worker(TEST_LAYER=layer, cq={"POLL_INTERVAL": 4}).ready()

    took = latencies(2)
    worker.stop_in_order()

    assert max(took) < 4 / 4 + 0.5
    assert "hints come" not in worker.log


def said(worker) -> list[str]:
    """Return what its log says about hints."""
    return [line.partition("cq.keeper ")[2] for line in worker.log.splitlines() if "hints come" in line]


def test_all_processes_share_the_layers_code(run_worker):
    worker = run_worker().ready()

    maps = Path(f"/proc/{worker.pid}/maps").read_text()

    assert "_cmsgpack" in maps, "the supervisor, which has no use for it, has imported it for those that it forks"


def test_a_child_that_died_is_not_waited_for(run_worker):
    worker = run_worker(cq={"LEASE": 60}).ready()
    until(lambda: said(worker) == [COME], 10, what=run_worker.log)
    (child,) = worker.children()

    os.kill(child, signal.SIGKILL)
    until(lambda: worker.children() not in ([], [child]), 10, what=run_worker.log)
    until(lambda: said(worker)[-1] == COME, 10, what=run_worker.log)
    before = said(worker)
    number = looks(2)
    worker.stop_in_order()

    assert number > 5
    assert said(worker) == before


def test_it_backs_off_while_hints_come(run_worker, valkey):
    worker = run_worker("--processes", "2", cq={"LEASE": 60, "POLL_INTERVAL": 1}).ready(2)

    def says(*messages: str) -> bool:
        return said(worker) == list(messages)

    until(lambda: says(COME), 10, what=run_worker.log)
    until(lambda: looks(2) <= 3, what="a look every 0.95 s")
    os.kill(valkey.pid, signal.SIGSTOP)
    until(lambda: says(COME, GONE), 10, what=run_worker.log)
    until(lambda: looks(2) >= 6, what="a look every 0.24 s")
    os.kill(valkey.pid, signal.SIGCONT)
    until(lambda: says(COME, GONE, COME), 20, what=run_worker.log)
    os.kill(worker.keeper(), signal.SIGKILL)
    until(lambda: says(COME, GONE, COME, COME), 10, what=lambda: f"the next keeper finds out too\n{run_worker.log()}")
    worker.stop_in_order()


def test_a_layer_that_is_stopped_started_and_flushed_in_mid_run_changes_nothing(run_worker, valkey, raw):
    worker = run_worker("--processes", "2").ready(2)
    pids = worker.descendants()

    for disturb in (raw.flushall, valkey.stop, valkey.start, valkey.kill, valkey.start):
        for _ in range(3):
            fault_tasks.mixed.delay()
        disturb()
        for _ in range(3):
            fault_tasks.mixed.delay()
        all_done(but=run_worker.log)
    same = worker.descendants() == pids
    worker.stop_in_order()

    assert same, "no process ended"
    assert statuses() == Counter({key: 30 * number for key, number in MIXED.items()})
    check_invariants()


def test_hints_are_heard_again_after_the_layer_came_back(run_worker, valkey):
    worker = run_worker(cq={"POLL_INTERVAL": 30}).ready()
    latencies(1)
    valkey.stop()
    until(lambda: "channel layer unavailable" in worker.log, what=run_worker.log)
    valkey.start()

    def is_fast() -> bool:
        task = fault_tasks.dry.delay()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            if Task.objects.get(pk=task.pk).is_done:
                return True
        return False

    # Once may be because the worker has looked when it came back; whoever sends pauses for two seconds after a failure.
    until(lambda: all(is_fast() for _ in range(3)), 20, what=run_worker.log)
    took = latencies(10)
    worker.stop_in_order()

    assert sorted(took)[5] < 0.3
    check_invariants(finished=False)


def test_an_idle_worker_goes_on_hearing_hints(run_worker):
    worker = run_worker(cq={"POLL_INTERVAL": 60}).ready()
    latencies(1)
    idle = time.monotonic() + 6

    until(lambda: time.monotonic() > idle)
    took = latencies(3)
    worker.stop_in_order()

    assert max(took) < 0.5
    assert "WARNING" not in worker.log


def test_a_call_neither_waits_for_a_hanging_layer_nor_fails(run_worker, valkey):
    worker = run_worker().ready()
    fault_tasks.dry.delay()
    os.kill(valkey.pid, signal.SIGSTOP)
    took = []

    for _ in range(200):
        began = time.monotonic()
        fault_tasks.leaf.delay()
        took.append(time.monotonic() - began)
    all_done(but=run_worker.log)
    os.kill(valkey.pid, signal.SIGCONT)
    worker.stop_in_order()

    assert sorted(took)[-3] < 0.05, sorted(took)[-5:]
    assert Effect.objects.count() == 200
    check_invariants()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("layers", [{}, {"default": {"BACKEND": "no.such.Layer"}}], ids=["none", "broken"])
def test_a_call_succeeds_whatever_the_layer_is(raw, layers):
    with override_settings(CHANNEL_LAYERS=layers):
        task = fault_tasks.dry.delay()
        notifier.announce([task.pk])
    raw.delete(KEY)

    def says_it_again() -> bool:
        notifier.wake([])
        return bool(raw.exists(KEY))

    assert Task.objects.filter(pk=task.pk).exists()
    until(says_it_again, 10)


FORGED = [
    {},
    {"text": "no type"},
    {"type": "cq.unknown"},
    {"type": "_x"},
    {"type": "cq_wake"},
    {"type": "__class__"},
    {"type": "hear", "message": {"type": "cq.wake"}},
    {"type": ["cq.wake"]},
    {"type": 7},
    {"type": None},
    {"type": "cq.run", "name": "os.system", "args": ["true"]},
    {"type": "x" * 1_000_000},
    {"type": "cq.wake", "rest": "x" * 1_000_000},
]


def test_a_forged_message_is_counted_and_ignored():
    woken = []
    consumer = CQConsumer(lambda: woken.append(1))

    for message in [*FORGED, None, 7, b"bytes", ["type", "cq.wake"], "cq.wake"]:
        asyncio.run(consumer.hear(message))

    assert len(woken) == 1, "one of them says what any may say"
    assert consumer.counts == {"woken": 1, "ignored": len(FORGED) - 1 + 5}


def test_channels_own_dispatcher_does_the_same():
    woken = []
    consumer = CQConsumer(lambda: woken.append(1))

    asyncio.run(consumer.dispatch({"type": "_x"}))
    asyncio.run(consumer.dispatch({"type": "cq.wake"}))

    assert woken == [1]


def test_workers_outlive_whatever_is_written_to_their_channel(run_worker, raw):
    worker = run_worker("--processes", "1", cq={"POLL_INTERVAL": 3}).ready()
    pids = worker.descendants()
    garbage = [
        b"",
        b"x" * 1_000_000,
        os.urandom(12) + b"\xc1",
        os.urandom(12) + msgpack.packb([1, 2]),
    ]

    send(raw, *FORGED)
    for number, data in enumerate(garbage):
        raw.zadd(KEY, {data + bytes([number]): time.time()})
    for _ in range(3):
        fault_tasks.mixed.delay()
    all_done(but=run_worker.log)
    until(lambda: not raw.exists(KEY), 30, what=lambda: f"all of it is read, not {raw.zcard(KEY)}\n{run_worker.log()}")
    raw.set(KEY, "not even a sorted set")
    for _ in range(3):
        fault_tasks.mixed.delay()
    all_done(but=run_worker.log)
    raw.delete(KEY)
    until(lambda: latencies(1)[0] < 0.5, what="it hears hints again")
    took = latencies(5)
    same = worker.descendants() == pids
    worker.stop_in_order()

    assert same, worker.log
    assert sorted(took)[2] < 0.5
    assert statuses(Task.objects.exclude(name="fault.dry", previous=None)) == Counter(
        {key: 6 * number for key, number in MIXED.items()}
    )
    check_invariants()


def test_a_flood_of_wake_ups_costs_little_and_work_goes_on(run_worker, raw):
    later = fault_tasks.leaf.using(run_after=3600).delay()
    worker = run_worker("--processes", "1").ready()
    latencies(1)
    (child,) = worker.children()
    before = cpu_seconds(child)
    began = time.monotonic()

    send(raw, *[{"type": "cq.wake"}] * 5000)
    tasks = [fault_tasks.leaf.delay() for _ in range(50)]
    until(lambda: not unfinished().exclude(pk=later.pk).exists(), what=run_worker.log)
    until(lambda: not raw.exists(KEY), 30, what=lambda: f"all of it is read, not {raw.zcard(KEY)}")
    cpu = cpu_seconds(child) - before
    took = time.monotonic() - began
    worker.stop_in_order()

    later.refresh_from_db()
    assert later.status == "SCHEDULED"
    assert Effect.objects.count() == len(tasks)
    plain = async_to_sync(read_plainly)(500) * 10
    assert cpu < 2 * plain, (cpu, plain, took)
    check_invariants(finished=False)


def test_one_hint_reaches_as_many_workers_as_there_is_work_for(run_worker, tmp_path):
    workers = [run_worker("--threads", "2", cq={"POLL_INTERVAL": 60}).ready() for _ in range(3)]
    latencies(3)

    tasks = fault_tasks.until_loose.delay_many([(str(tmp_path / "end"),)] * 6)
    run_worker.await_body(*tasks)
    (tmp_path / "end").touch()
    all_done(but=run_worker.log)
    for worker in workers:
        worker.stop_in_order()

    check_invariants()


def test_doubled_hints_start_nothing_twice(run_worker, raw):
    worker = run_worker("--processes", "2").ready(2)

    for _ in range(20):
        fault_tasks.leaf.delay()
        send(raw, *[{"type": "cq.wake"}] * 10)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert set(Task.objects.values_list("attempt", flat=True)) == {1}
    assert Effect.objects.count() == 20
    check_invariants()


class TestWaiting:
    """wait(), get() and await_done() of this process, with a worker beside it."""

    def test_is_woken_through_the_layer(self, run_worker):
        worker = run_worker(cq={"POLL_INTERVAL": 60}).ready()
        fault_tasks.dry.delay().wait(10)

        async def late(task: Task) -> float:
            await task.await_done(10)
            return await sync_to_async(_age)(task)

        async def all_late() -> list[float]:
            tasks = [await fault_tasks.sleeps.adelay(2.0) for _ in range(4)]
            return await asyncio.gather(*map(late, tasks))

        took = asyncio.run(all_late())
        worker.stop_in_order()

        assert sum(took) < 0.3, "each of them would wait up to 0.4 s for the poll"

    def test_ends_by_the_poll_where_there_is_no_layer(self, run_worker):
        worker = run_worker(TEST_LAYER="none", cq={"POLL_INTERVAL": 0.1}).ready()

        with override_settings(CHANNEL_LAYERS={}, CQ={"POLL_INTERVAL": 0.3}):
            task = fault_tasks.sleeps.delay(0.5)
            result = fault_tasks.adds.delay(2, 3)
            assert result.get(5) == 5
            task.wait(5)
            ago = _age(task)
        worker.stop_in_order()

        assert task.status == "SUCCESS"
        assert ago < 0.3 + 0.3

    @pytest.mark.parametrize("layer", ["redis", "none"])
    def test_works_in_a_coroutine(self, run_worker, layer):
        worker = run_worker(TEST_LAYER=layer).ready()
        task = fault_tasks.adds.delay(2, 3)

        async def await_it() -> tuple[object, object]:
            return (await task.await_done(10)).status, await task.aget(1)

        with contextlib.ExitStack() as stack:
            if layer == "none":
                stack.enter_context(override_settings(CHANNEL_LAYERS={}))
            got = asyncio.run(await_it())
        worker.stop_in_order()

        assert got == ("SUCCESS", 5)


def _age(task: Task) -> float:
    """Return for how many seconds it has been done."""
    ((ago,),) = query(
        "SELECT extract(epoch FROM statement_timestamp() - finished_at)::float8 FROM cq_task WHERE id = %s", task.pk
    )
    return ago
