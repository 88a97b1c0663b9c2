"""Wide parents end once, and their cost grows with their width, not faster."""

import time

import pytest

from cq.models import Task
from tests import fault_tasks
from tests.processes import check_invariants, until

pytestmark = pytest.mark.slow


def test_a_parent_of_twice_as_many_subtasks_takes_about_twice_as_long(run_worker):
    worker = run_worker("--processes", "2", cq={"POLL_INTERVAL": 1, "LEASE": 30}, TEST_LOG_LEVEL="WARNING").ready(2)

    def seconds(width: int) -> float:
        began = time.monotonic()
        parent = fault_tasks.wide.delay(width)
        until(lambda: Task.objects.filter(pk=parent.pk, finished_at=None).count() == 0, 60, what=run_worker.log)
        took = time.monotonic() - began
        parent.refresh_from_db()
        assert parent.status == "SUCCESS"
        assert parent.subtasks.filter(status="SUCCESS").count() == width
        return took

    seconds(1000)
    is_linear = any(seconds(20_000) / seconds(10_000) < 2.3 for _ in range(3))
    worker.stop_in_order()

    assert is_linear
    check_invariants()
