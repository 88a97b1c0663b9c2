"""A thousand revokes at once on a tree of ten thousand tasks, under running workers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from cq.models import Task
from tests import fault_tasks
from tests.processes import all_done, check_invariants, until

SESSIONS = 8


def revoke_all(tasks: list[Task]) -> int:
    """Revoke these, one by one, in a session of its own; return how many of them were stopped."""
    try:
        return sum(task.revoke(terminate=number % 2 == 0) for number, task in enumerate(tasks))
    finally:
        connections.close_all()


@pytest.mark.chaos
@pytest.mark.slow
def test_a_storm_of_revokes_on_a_large_tree_ends_without_a_deadlock(run_worker):
    """`run_worker` counts the deadlocks that PostgreSQL has seen."""
    worker = run_worker("--processes", "2", "--threads", "4", cq={"LEASE": 60}).ready(2)
    root = fault_tasks.storm.delay(10, 1000)
    until(lambda: Task.objects.count() > 10_000, what=run_worker.log)
    branches = list(root.subtasks.all())
    tasks = list(Task.objects.filter(name="fault.process_id").order_by("?")[:995])
    # Whoever comes to them finds all below them going on; the root is the last but a few.
    tasks = [*branches[:4], *tasks[:900], root, *tasks[900:]]

    with ThreadPoolExecutor(SESSIONS) as pool:
        stopped = sum(pool.map(revoke_all, [tasks[at::SESSIONS] for at in range(SESSIONS)]))
    all_done(60, but=run_worker.log)

    assert stopped > 100
    assert Task.objects.filter(status="REVOKED").count() > stopped
    assert not Task.objects.exclude(status__in=["SUCCESS", "REVOKED", "INCOMPLETE"]).exists()
    worker.stop_in_order()
    check_invariants()
