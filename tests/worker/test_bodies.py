"""Where bodies run: coroutines beside each other, and nothing left of them."""

import pytest

from cq.models import Task
from tests import fault_tasks
from tests.processes import query, until


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))


def connections() -> int:
    ((number,),) = query("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    return int(number)


def test_a_coroutine_that_waits_for_a_thread_keeps_no_other_from_it(rounds):
    blocks = fault_tasks.blocks_coroutine.delay(2.0)
    thread = rounds("default")
    until(lambda: Task.objects.filter(pk=blocks.pk, status="RUNNING").exists())
    other = fault_tasks.coroutine.delay()
    thread.wake()

    until(lambda: Task.objects.get(pk=other.pk).is_done, 5)
    blocks.refresh_from_db()
    assert blocks.status == "RUNNING"
    until(lambda: Task.objects.get(pk=blocks.pk).is_done, 5)


def test_coroutines_leave_no_connections_open(rounds):
    tasks = [fault_tasks.coroutine.delay() for _ in range(20)]
    before = connections()

    rounds("default")
    until(lambda: Task.objects.filter(pk__in=[task.pk for task in tasks], status="SUCCESS").count() == 20)

    until(lambda: connections() == before + 1, 5, what=lambda: f"{before} before, {connections()} now")
