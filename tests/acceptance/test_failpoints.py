"""A worker that dies at any step leaves nothing half done: the same ends, and every effect once."""

from collections import Counter

import pytest

from tests import fault_tasks
from tests.processes import all_done, check_invariants, statuses

pytestmark = pytest.mark.chaos

MIXED = Counter(
    {
        ("fault.mixed", "INCOMPLETE"): 1,
        ("fault.tree", "SUCCESS"): 3,
        ("fault.leaf", "SUCCESS"): 4 + 1 + 1,
        ("fault.leaf", "SKIPPED"): 1,
        ("fault.dry", "SUCCESS"): 1,
        ("fault.adds", "SUCCESS"): 2,
        ("fault.flaky", "SUCCESS"): 1,
        ("fault.loose", "SUCCESS"): 1,
        ("fault.coroutine", "SUCCESS"): 1,
        ("fault.loose_parent", "INCOMPLETE"): 1,
        ("fault.fails", "FAILURE"): 2,
    }
)

POINTS = [
    "body.starting",
    "body.returned",
    "body.swapped",
    "body.committed",
    "exchange.before_commit",
    "exchange.after_commit",
    "finish.swapped",
    "finish.made",
    "finish.asked",
    "rounds.exchanged",
    "settle.locked",
    "settle.taken",
    "settle.looked",
    "settle.before_commit",
    "settle.after_commit",
]


CHAINS = Counter({("fault.leaf", "SUCCESS"): 3, ("fault.adds", "SUCCESS"): 3})
ALL = CHAINS + MIXED + MIXED


def enqueue_all() -> None:
    """Chains first: the only request of a predecessor is among the first that are settled."""
    for _ in range(3):
        fault_tasks.leaf.delay().chain(fault_tasks.adds)
    for _ in range(2):
        fault_tasks.mixed.delay()


@pytest.mark.parametrize("point", POINTS)
def test_a_child_that_is_killed_at_any_step_changes_nothing_but_the_number_of_attempts(run_worker, point):
    enqueue_all()
    worker = run_worker("--processes", "2", CQ_FAILPOINTS=f"{point}=kill:once")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert (worker.points / point).exists(), "nobody came along here"
    assert statuses() == ALL
    check_invariants()


@pytest.mark.parametrize("point", ["rescue.swapped", "keeper.ended_process"])
def test_a_keeper_that_is_killed_while_it_takes_over_is_followed_by_one_that_does(run_worker, point):
    enqueue_all()
    worker = run_worker("--processes", "2", CQ_FAILPOINTS=f"body.swapped=kill:once,{point}=kill:once")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert (worker.points / point).exists(), "nobody came along here"
    assert statuses() == ALL
    check_invariants()


def test_a_revoke_whose_process_is_killed_in_it_has_not_happened_and_the_next_one_does(run_worker):
    later = fault_tasks.leaf.using(run_after=3600).delay()
    later.chain(fault_tasks.leaf, force_chain=True)
    fault_tasks.revokes.delay(str(later.pk))
    worker = run_worker("--processes", "2", CQ_FAILPOINTS="revoke.swapped=kill:once")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert (worker.points / "revoke.swapped").exists(), "nobody came along here"
    assert statuses() == {("fault.leaf", "REVOKED"): 2, ("fault.revokes", "SUCCESS"): 1}
    check_invariants()


@pytest.mark.parametrize("point", ["settle.taken", "settle.looked"])
def test_the_only_request_of_a_task_is_not_lost_with_the_process_that_takes_it(run_worker, point):
    for _ in range(3):
        fault_tasks.leaf.delay().chain(fault_tasks.adds)
    worker = run_worker("--processes", "2", CQ_FAILPOINTS=f"{point}=kill:once")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert (worker.points / point).exists(), "nobody came along here"
    assert statuses() == CHAINS
    check_invariants()
