"""A revoke that meets a failure at any step of those who carry it out: it is made up for, and nothing of what it stopped takes effect."""

from collections import Counter

import pytest

from cq.failpoints import FailpointReached
from cq.models import SettleRequest, Task
from cq.models.key import Lingering
from cq.testing import failpoint
from tests import fault_tasks
from tests.processes import all_done, check_invariants, query, statuses, until

pytestmark = pytest.mark.chaos

# What the revoke finds in any case: bodies that do not end before it has gone down, what waits for them, and what is not due.
STOPPED = Counter(
    {
        ("fault.grove", "REVOKED"): 2,
        ("fault.until_atomic", "REVOKED"): 2,
        ("fault.until_loose", "REVOKED"): 1,
        ("fault.leaf", "REVOKED"): 2 + 1,
        ("fault.dry", "REVOKED"): 3 * 2,
    }
)
# When the bodies end that had run on.
AT_THE_END = ["lingering.locked", "body.returned", "exchange.before_commit", "finish.swapped", "rounds.exchanged"]
# While the revoke goes down from level to level: nobody else asks for anything to be settled there …
ALONE = ["settle.locked", "settle.taken", "settle.looked", "settle.before_commit", "settle.after_commit"]
# … or tasks below begin and end.
AMONG_OTHERS = [
    *["body.starting", "body.swapped", "body.committed"],
    *["exchange.before_commit", "exchange.after_commit", "finish.asked"],
]
MOMENTS = [
    *((point, "end") for point in AT_THE_END),
    *((point, "alone") for point in ALONE),
    *((point, "others") for point in AMONG_OTHERS),
]


def check_stopped(root: Task, after: Task) -> None:
    """Prove that nothing at, below or after the root was forgotten, and that what ended well was not stopped before."""
    tree = Task.objects.filter(workflow_id=root.pk) | Task.objects.filter(pk=root.pk)
    found = statuses(tree)
    assert found >= STOPPED, found
    assert {status for _, status in found} <= {"SUCCESS", "REVOKED"}
    assert Task.objects.get(pk=after.pk).status == "REVOKED"
    effects = query("SELECT t.name FROM tests_effect e JOIN cq_task t ON t.id = e.task_id WHERE t.status = 'REVOKED'")
    # These had committed before they were stopped: a body that had returned and waited for its subtasks, and one that is not atomic.
    assert {name for (name,) in effects} == {"fault.grove", "fault.until_loose"}
    started_late = query("""
        SELECT t.name, t.status FROM cq_task t JOIN cq_task p ON p.id IN (t.parent_id, t.previous_id)
         WHERE p.status = 'REVOKED' AND t.status <> 'REVOKED' AND t.started_at > (
               SELECT max(s.finished_at) + interval '1 second' FROM cq_task s WHERE s.parent_id = p.id AND s.status = 'REVOKED')
    """)
    assert started_late == []


@pytest.mark.parametrize("failure", ["kill", "drop"])
def test_whatever_fails_while_a_tree_is_revoked_all_of_it_is_stopped(run_worker, tmp_path, failure):
    """One failure at a time: a file there disarms its point."""
    points = tmp_path / "failpoints-0"
    points.mkdir()
    for point, _ in MOMENTS:
        (points / point).touch()
    failures = ",".join(f"{point}={failure}:once" for point in dict(MOMENTS))
    settings = {"LEASE": 60, "MAX_CRASHES": 1000}
    worker = run_worker("--processes", "2", "--threads", "4", cq=settings, CQ_FAILPOINTS=failures).ready(2)

    for number, (point, moment) in enumerate(MOMENTS):
        end = tmp_path / f"end-{number}"
        root = fault_tasks.grove.delay(str(end), 10 if moment == "others" else 0)
        after = root.chain(fault_tasks.leaf, force_chain=True)
        wait_for_bodies(run_worker, root)

        if moment != "end":
            (points / point).unlink()
        revoke_and_break_off(root)
        others = fault_tasks.leaf.delay_many([()] * (10 if moment == "others" else 0))
        if moment != "end":
            until((points / point).exists, what=lambda point=point: f"nobody came along at {point}\n{run_worker.log()}")
        all_done(but=lambda point=point: f"{point}\n{run_worker.log()}")
        if moment == "end":
            (points / point).unlink()
        end.touch()
        until((points / point).exists, what=lambda point=point: f"nobody came along at {point}\n{run_worker.log()}")

        until(lambda: not Lingering.objects.exists(), what=lambda point=point: f"{point}\n{run_worker.log()}")
        check_stopped(root, after)
        assert all(Task.objects.get(pk=task.pk).status == "SUCCESS" for task in others)

    worker.stop_in_order()
    check_invariants()


def revoke_and_break_off(root: Task) -> None:
    """Revoke it, and let the caller come to grief before anything follows from that: workers have to carry it out."""
    with failpoint("settle.locked=raise"), pytest.raises(FailpointReached):
        root.revoke()


def wait_for_bodies(run_worker, root: Task) -> None:
    """Return when all bodies of the tree run that do not end before they are told, and nothing else is to be settled."""
    held = Task.objects.filter(workflow_id=root.pk, name__in=["fault.until_atomic", "fault.until_loose"])

    def has_begun(task: Task) -> bool:
        # Not the first attempt, if that one has met a connection that was cut.
        return (run_worker.folder / f"{task.pk}-{task.attempt}").exists()

    until(lambda: [has_begun(task) for task in held.all()] == [True] * 3, what=run_worker.log)
    # A look that was asked for before would find the revoke too.
    until(lambda: not SettleRequest.objects.exists(), what=run_worker.log)
