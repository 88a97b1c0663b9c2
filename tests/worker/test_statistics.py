"""Statistics: every body that ended is counted once, by how it ended, whatever happened to the connection."""

from collections import Counter

import pytest

from cq import engine
from cq.models import Statistic, Task
from cq.outcome import Count
from cq.worker.statistics import Statistics
from tests import fault_tasks
from tests.processes import all_done, check_invariants, query, until
from tests.rows import make

# Once where outcomes have just been written, and now and then where claims may have been too.
CUT = "finish.swapped=drop:once, exchange.before_commit=drop:0.2"


def counted() -> Counter[tuple[str, str]]:
    """Add up all that was written, by name and outcome."""
    found: Counter[tuple[str, str]] = Counter()
    for name, outcome, count in Statistic.objects.values_list("name", "outcome", "count"):
        found[name, outcome] += count
    return found


def test_every_attempt_is_counted_by_how_it_ended(rounds):
    tasks = [
        fault_tasks.dry.delay(),
        fault_tasks.leaf.delay(),
        fault_tasks.coroutine.delay(),
        fault_tasks.fails.delay(),
    ]
    tasks += [fault_tasks.flaky.delay(), fault_tasks.loose_parent.delay()]
    thread = rounds("default")
    until(lambda: not Task.objects.filter(pk__in=[task.pk for task in tasks], finished_at=None).exists())
    until(lambda: Task.objects.filter(finished_at=None).count() == 0)

    thread.stop(5)
    until(thread.is_done.is_set, 5)

    assert counted() == {
        ("fault.dry", "success"): 1,
        ("fault.leaf", "success"): 1,
        ("fault.coroutine", "success"): 1,
        ("fault.fails", "error"): 2,
        ("fault.flaky", "error"): 1,
        ("fault.flaky", "success"): 1,
        ("fault.loose_parent", "success"): 1,
    }


def test_they_say_how_long_bodies_ran_and_how_long_they_had_been_due(rounds):
    task = fault_tasks.process_id.delay(0.3)
    until(lambda: Task.objects.filter(pk=task.pk, run_after__lt=make.ago(0.2)).exists())
    thread = rounds("default")
    until(lambda: Task.objects.get(pk=task.pk).is_done, 5)

    thread.stop(5)
    until(thread.is_done.is_set, 5)

    row = Statistic.objects.get()
    assert (row.process_id, row.queue, row.count) == (thread.process_id, "default", 1)
    assert 0.3 <= row.run_seconds < 2
    assert 0.2 <= row.wait_seconds < 5
    assert 2 ** (row.bucket - 1) <= row.run_seconds * 1000 < 2**row.bucket


@pytest.mark.parametrize(
    ("call", "args"), [(fault_tasks.dry, ()), (fault_tasks.leaf, (0.3,))], ids=["dry", "with a transaction"]
)
def test_a_worker_says_them_every_few_seconds(rounds, monkeypatch, call, args):
    monkeypatch.setattr("cq.worker.statistics._EVERY", 0.2)
    call.delay(*args)
    rounds("default")

    until(Statistic.objects.exists, 5)

    assert counted() == {(call.name, "success"): 1}


@pytest.mark.chaos
def test_a_lost_connection_neither_loses_nor_doubles_any(run_worker):
    fault_tasks.dry.delay_many([()] * 40)
    worker = run_worker("--threads", "2", CQ_FAILPOINTS=CUT, cq={"LEASE": 30})
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert "database unavailable" in worker.log
    assert counted() == {("fault.dry", "success"): 40}
    check_invariants()


def test_counts_that_cannot_be_written_hold_up_nothing(rounds):
    """As in a database that is away while the worker stops, or that a newer worker finds before its migrations."""
    query("ALTER TABLE cq_statistic RENAME TO cq_statistic_away")
    try:
        thread = rounds("default")
        task = fault_tasks.dry.delay()
        thread.wake()
        until(lambda: Task.objects.get(pk=task.pk).is_done, 5)

        thread.stop(30)
        until(thread.is_done.is_set, 5)
    finally:
        query("ALTER TABLE cq_statistic_away RENAME TO cq_statistic")

    assert Task.objects.get(pk=task.pk).status == "SUCCESS"
    assert counted() == {}


@pytest.mark.django_db
def test_what_one_process_counts_in_a_minute_is_added_up():
    process_id = make.process()
    counts = [Count("default", "x", "success", 3, 5, 0.02, 1.0), Count("default", "x", "error", 3, 1, 0.005, 0.5)]

    engine.count(process_id, counts)
    engine.count(process_id, counts[:1])
    engine.count(make.process(), counts[:1])

    assert counted() == {("x", "success"): 15, ("x", "error"): 1}
    assert sum(Statistic.objects.filter(process_id=process_id).values_list("wait_seconds", flat=True)) == 2.5
    assert Statistic.objects.count() in (3, 4), "four if the minute has just turned"


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.0009, 0), (0.001, 1), (0.0019, 1), (0.002, 2), (0.5, 9), (3600, 22)]
)
def test_buckets_double(seconds, bucket):
    statistics = Statistics()

    statistics.note("default", "x", "success", ran=seconds, waited=1.0)
    statistics.note("default", "x", "success", ran=seconds, waited=2.0)

    assert statistics.take() == [("default", "x", "success", bucket, 2, 2 * seconds, 3.0)]
