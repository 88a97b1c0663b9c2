"""Limits at their full size: deep trees, and ten thousand tasks that are due at one moment."""

import pytest
from django.db import connection
from django.db.models.functions import Now

from cq import engine, registry, settle
from cq.engine import Wish
from cq.exceptions import TooLarge
from cq.models import SettleRequest, Task
from cq.running import RunningTask
from cq.states import Status
from cq.testing import drain
from tests import tasks
from tests.commands import samples
from tests.rows import make
from tests.rows.make import ago, held, process, row

pytestmark = pytest.mark.django_db


def test_a_tree_is_256_levels_deep_and_no_deeper() -> None:
    above = RunningTask(held(row(Status.RUNNING, depth=255)))
    deepest = RunningTask(held(row(Status.RUNNING, depth=256)))

    assert above.subtask(tasks.adds, (1,)).parent_id == above.id
    with pytest.raises(TooLarge, match=r"257 levels deep; CQ\['MAX_DEPTH'\] allows 256"):
        deepest.subtask(tasks.adds, (1,))


def test_what_would_be_deeper_fails_where_it_is_made() -> None:
    fits, too_deep = (row(name=samples.branches.name, args=(levels,), depth=250) for levels in (6, 7))

    drain()

    assert make.statuses(fits, too_deep) == [Status.SUCCESS, Status.INCOMPLETE]
    (failed,) = Task.objects.filter(status=Status.FAILURE)
    assert (failed.depth, failed.exception) == (256, "cq.exceptions.TooLarge")


def test_the_end_of_the_deepest_leaf_climbs_up_to_the_root() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO cq_task (id, name, args, kwargs, depth, status, finished_at, parent_id) "
            "SELECT md5(n::text)::uuid, %s, '[1]', '{}', n, CASE WHEN n = 256 THEN 'FAILURE' ELSE 'WAITING' END, "
            "CASE WHEN n = 256 THEN now() END, CASE WHEN n > 0 THEN md5((n - 1)::text)::uuid END "
            "FROM generate_series(0, 256) AS n",
            [make.ADDS],
        )
    SettleRequest.objects.create(task_id=Task.objects.get(depth=255).pk)

    settled = settle.settle_all()

    assert len(settled.ended) == 256
    assert set(Task.objects.values_list("status", flat=True)) == {"INCOMPLETE", "FAILURE"}


@pytest.mark.django_db(transaction=True)
def test_ten_thousand_tasks_that_are_due_at_once_are_promoted_in_batches_and_hide_no_better_one() -> None:
    make.many(10_000, Status.SCHEDULED)
    Task.objects.update(run_after=ago(1))
    better = row(priority=1, run_after=Now())

    for promoted in range(1000, 10_001, 1000):
        assert engine.promote() == {"default"}
        assert Task.objects.filter(status=Status.QUEUED).count() == promoted + 1
    assert engine.promote() == set()

    taken = engine.claim(Wish(process(), {"default": 10}, registry.names()))
    assert taken[0].id == better.id
    assert len(taken) == 10
