"""What bodies leave that cannot be stored ends them, once, and never their worker."""

import pytest

from tests import fault_tasks
from tests.processes import Workers, all_done, check_invariants

pytestmark = pytest.mark.django_db(transaction=True)


def test_results_that_cannot_be_stored_end_in_failure_and_the_worker_lives(run_worker: Workers) -> None:
    worker = run_worker(cq={"MAX_RESULT_SIZE": 10_000}).ready()
    before = worker.children()
    bad = [fault_tasks.leaves.delay(which) for which in fault_tasks.UNSTORABLE]
    fine = fault_tasks.dry.delay(7)

    all_done(but=lambda: worker.log[-3000:])

    for task in (*bad, fine):
        task.refresh_from_db()
    assert {(task.status, task.attempt) for task in bad} == {("FAILURE", 1)}
    assert {task.exception for task in bad} == {"cq.exceptions.NotSerializable", "cq.exceptions.TooLarge"}
    assert fine.result == 7
    assert worker.children() == before
    worker.stop_in_order()
    check_invariants()
