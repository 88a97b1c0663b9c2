"""Wide parents end once, and their cost grows with their width, not faster."""

from functools import partial

import pytest

from cq.models import Task
from tests import fault_tasks
from tests.processes import backends, check_invariants, until
from tests.work import work

pytestmark = pytest.mark.slow


def test_a_parent_of_twice_as_many_subtasks_takes_about_twice_as_long(run_worker):
    def run(width: int) -> None:
        parent = fault_tasks.wide.delay(width)
        options = {"cq": {"POLL_INTERVAL": 1, "LEASE": 30}, "TEST_LOG_LEVEL": "WARNING"}
        worker = run_worker("--processes", "2", **options)
        until(lambda: Task.objects.filter(pk=parent.pk, finished_at=None).count() == 0, 60, what=run_worker.log)
        worker.stop_in_order()
        until(lambda: not backends(), what=backends)
        parent.refresh_from_db()
        assert parent.status == "SUCCESS"
        assert parent.subtasks.filter(status="SUCCESS").count() == width

    run(1000)
    took = [work(partial(run, width)) for width in (5000, 10_000)]
    print(took)

    assert took[1] / took[0] < 2.3, took
    check_invariants()
