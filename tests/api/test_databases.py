"""Projects with several databases: CQ's own reads go where its rows are written, whatever a router says about reading."""

import pytest

from cq import task
from cq.testing import drain
from tests.tasks import adds, sums

pytestmark = pytest.mark.django_db(transaction=True)


class ReadsFromReplica:
    """A router as in Django's documentation; the replica lags behind so far that it does not even exist."""

    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, one, other, **hints):
        return True


@pytest.fixture
def replica(settings):
    settings.DATABASE_ROUTERS = [ReadsFromReplica()]


@task
def looks_around(cqt):
    return [
        cqt.row.status,
        cqt.parent.row.status,
        cqt.previous.result,
        str(cqt.root.id),
        cqt.created_at is not None,
    ]


@task
def makes(cqt):
    return cqt.subtask(adds, (1,)).chain(looks_around)


@pytest.mark.usefixtures("replica")
class TestWithAReplica:
    def test_a_task_is_waited_for_where_it_was_written(self):
        made = adds.delay(1)
        after = made.chain(sums, (1,))
        drain()

        assert made.get(0) == 1
        assert after.wait(0).result == 2

    def test_a_body_reads_its_place_where_it_was_written(self):
        made = makes.delay()
        drain()

        assert made.get(0) == ["RUNNING", "WAITING", 1, str(made.id), True]

    def test_a_task_is_revoked_and_submitted_where_it_was_written(self):
        stopped = adds.delay(1)
        held = adds.using(submit=False).delay()

        assert stopped.revoke() is True
        held.submit(5)
        drain()

        assert stopped.status == "REVOKED"
        assert held.get(0) == 5
