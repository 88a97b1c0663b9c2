"""What it costs to carry a revoke down."""

import pytest
from django.db import connection

from cq import engine, settle
from cq.models import SettleRequest, Task
from cq.states import Status
from tests.rows import make
from tests.work import work


def tree(width: int) -> Task:
    """Make a root with ten subtasks, which have so many below them."""
    root = make.row(Status.WAITING)
    for _ in range(10):
        middle = make.row(Status.WAITING, parent=root, workflow=root)
        make.many(width // 10, Status.QUEUED, parent_id=middle.id, workflow_id=root.id)
    return root


def work_to_revoke(width: int) -> int:
    root = tree(width)
    engine.revoke([root.id], reason="By a test.")
    took = work(settle.settle_all)
    assert not Task.objects.filter(workflow=root).exclude(status="REVOKED").exists()
    assert not SettleRequest.objects.exists()
    return took


def note_statistics_of_a_small_table() -> None:
    """Let the planner believe that there are few tasks, and that a parent has a good part of them."""
    tree(100)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task")


@pytest.mark.slow
@pytest.mark.parametrize("begin", [lambda: None, note_statistics_of_a_small_table], ids=["fresh", "grown since"])
@pytest.mark.django_db(transaction=True)
def test_a_revoke_goes_down_in_linear_time(begin):
    begin()
    work_to_revoke(1000)

    took = [work_to_revoke(width) for width in (3000, 6000)]
    assert took[1] / took[0] < 2.3, took
