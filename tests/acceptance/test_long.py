"""A long chain runs link by link, each once, and its cost grows with its length, not faster."""

import os
import time

import pytest

from cq import chain
from cq.models import Task
from tests import fault_tasks
from tests.processes import check_invariants, until

pytestmark = pytest.mark.slow

# Ten thousand links are what is promised; a tenth shows the same in a tenth of the time.
LINKS = int(os.environ.get("TEST_LINKS", "2000"))


def test_a_chain_of_twice_as_many_links_takes_about_twice_as_long(run_worker):
    worker = run_worker("--threads", "2", cq={"POLL_INTERVAL": 1, "LEASE": 30}, TEST_LOG_LEVEL="WARNING").ready()

    def seconds(links: int) -> float:
        last = chain(fault_tasks.counts_on.s(0), *[fault_tasks.counts_on.s()] * (links - 1)).delay()
        began = time.monotonic()
        until(lambda: Task.objects.filter(pk=last.pk, finished_at=None).count() == 0, 100, what=run_worker.log)
        took = time.monotonic() - began
        last.refresh_from_db()
        # Each adds one to what the one before it has come to.
        assert (last.status, last.result) == ("SUCCESS", links)
        return took

    seconds(100)
    took = [(seconds(LINKS // 2), seconds(LINKS))]
    while took[-1][1] / took[-1][0] >= 2.3 and len(took) < 3:
        took.append((seconds(LINKS // 2), seconds(LINKS)))
    print(f"chains of {LINKS // 2} and {LINKS} links: {took} s")
    worker.stop_in_order()

    assert took[-1][1] / took[-1][0] < 2.3, took
    assert set(Task.objects.values_list("status", "attempt", "claims")) == {("SUCCESS", 1, 1)}
    check_invariants()
