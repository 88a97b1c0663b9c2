"""Workers remove what is past its time, whoever of them dies meanwhile."""

import pytest

from cq.models import Task
from tests.processes import Workers, query, until
from tests.rows.make import ADDS

pytestmark = pytest.mark.django_db(transaction=True)

OLD = "now() - interval '1 h'"


def make_workflows(number: int) -> None:
    """Make finished workflows of a root and two subtasks whose time is over."""
    columns = "(id, name, args, kwargs, status, finished_at, result_ttl, prune_after, parent_id, workflow_id)"
    query(f"""
        INSERT INTO cq_task {columns}
        SELECT md5(n::text || k)::uuid, '{ADDS}', '[1]', '{{}}', 'SUCCESS', {OLD}, 1, CASE WHEN k = 0 THEN {OLD} END,
               CASE WHEN k > 0 THEN md5(n::text || 0)::uuid END, CASE WHEN k > 0 THEN md5(n::text || 0)::uuid END
          FROM generate_series(1, {number}) AS n, generate_series(0, 2) AS k""")


def torn() -> int:
    """Count workflows of which a part is gone."""
    ((number,),) = query(
        "SELECT count(*) FROM (SELECT 1 FROM cq_task GROUP BY coalesce(workflow_id, id) HAVING count(*) <> 3) AS t"
    )
    return int(number)


@pytest.mark.chaos
def test_a_keeper_that_dies_while_it_prunes_leaves_whole_workflows(run_worker: Workers) -> None:
    make_workflows(1200)

    worker = run_worker(CQ_FAILPOINTS="prune.deleted=kill:once")

    def gone() -> bool:
        assert torn() == 0
        return not Task.objects.exists()

    until(gone, what=lambda: worker.log[-3000:])
    assert (worker.points / "prune.deleted").exists()
    worker.stop_in_order()
