"""A queue that is paused and resumed while a worker serves it."""

import pytest

from cq import queues
from tests import fault_tasks
from tests.processes import Workers, statuses, until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_resumed_queue_is_served_at_once(run_worker: Workers) -> None:
    queues.pause("default")
    run_worker(cq={"POLL_INTERVAL": 60}).ready()
    fault_tasks.leaf.delay()
    held = fault_tasks.leaf.using(queue="mail").delay()
    held.wait(20)
    assert statuses() == {("fault.leaf", "SUCCESS"): 1, ("fault.leaf", "QUEUED"): 1}

    queues.resume("default")

    until(lambda: statuses() == {("fault.leaf", "SUCCESS"): 2}, 3)


def test_a_worker_drains_past_a_paused_queue(run_worker: Workers) -> None:
    queues.pause("mail")
    fault_tasks.leaf.using(queue="mail").delay()
    fault_tasks.leaf.delay()

    assert run_worker("--drain").exit() == 0

    assert statuses() == {("fault.leaf", "SUCCESS"): 1, ("fault.leaf", "QUEUED"): 1}
