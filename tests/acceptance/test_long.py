"""A long chain runs link by link, each once, and its cost grows with its length, not faster."""

import os
from functools import partial

import pytest

from cq import chain
from cq.models import Task
from tests import fault_tasks
from tests.processes import backends, check_invariants, until
from tests.work import work

pytestmark = pytest.mark.slow

# Ten thousand links are what is promised; a tenth shows the same in a tenth of the time.
LINKS = int(os.environ.get("TEST_LINKS", "2000"))


def test_a_chain_of_twice_as_many_links_takes_about_twice_as_long(run_worker):
    def enqueue(links: int) -> Task:
        return chain(fault_tasks.counts_on.s(0), *[fault_tasks.counts_on.s()] * (links - 1)).delay()

    def run(last: Task, links: int) -> None:
        options = {"cq": {"POLL_INTERVAL": 1, "LEASE": 30}, "TEST_LOG_LEVEL": "WARNING"}
        worker = run_worker("--threads", "2", **options)
        until(lambda: Task.objects.filter(pk=last.pk, finished_at=None).count() == 0, 100, what=run_worker.log)
        worker.stop_in_order()
        until(lambda: not backends(), what=backends)
        last.refresh_from_db()
        # Each adds one to what the one before it has come to.
        assert (last.status, last.result) == ("SUCCESS", links)

    run(enqueue(100), 100)
    # Without enqueueing: a session that has seen the table small looks through all of it for each reference until it is analyzed.
    took = [work(partial(run, enqueue(links), links)) for links in (LINKS // 2, LINKS)]
    print(took)

    assert took[1] / took[0] < 2.3, took
    assert set(Task.objects.values_list("status", "attempt", "claims")) == {("SUCCESS", 1, 1)}
    check_invariants()
