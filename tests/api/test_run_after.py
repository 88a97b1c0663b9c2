"""When a task is due: an instant, a time from the call, for successors from their release; by PostgreSQL's clock."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.db import connection
from django.utils import timezone as django_timezone

from cq.models import Task
from cq.testing import drain
from tests.api.run import ended, ended_in_time, states
from tests.tasks import adds, sums

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def seconds_from_now(task):
    """Say in how many seconds a task is due, by PostgreSQL's clock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM run_after - statement_timestamp()) FROM cq_task WHERE id = %s", [task.pk]
        )
        return float(cursor.fetchone()[0])


@pytest.mark.parametrize(
    "run_after",
    [3600, 3600.0, HOUR, lambda: django_timezone.now() + HOUR, lambda: datetime.now(timezone(HOUR * 5)) + HOUR],
    ids=["seconds", "float", "timedelta", "aware", "elsewhere"],
)
def test_what_is_due_later_is_scheduled(run_after):
    later = adds.using(run_after=run_after() if callable(run_after) else run_after).delay(1)

    assert later.status == "SCHEDULED"
    assert 3590 < seconds_from_now(later) <= 3601
    assert drain() == 0
    assert ended_in_time(later).result == 1


@pytest.mark.parametrize(
    "run_after", [0, -60, timedelta(days=-1), datetime(1999, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=UTC), None]
)
def test_the_past_means_now(run_after):
    now = adds.using(run_after=run_after).delay(1)

    assert now.status == "QUEUED"
    assert -10 < seconds_from_now(now) <= 0
    assert now.run_after >= now.created_at


def test_very_far_away_is_possible():
    assert adds.using(run_after=datetime.max.replace(tzinfo=UTC)).delay(1).status == "SCHEDULED"
    assert adds.using(run_after=timedelta(days=36000)).delay(1).status == "SCHEDULED"


def test_a_time_from_the_call_counts_from_the_call_not_from_using():
    later = adds.using(run_after=3600)
    first = later.delay(1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.02)")

    second = later.delay(1)

    assert second.run_after - first.run_after >= timedelta(seconds=0.02)


def test_in_a_long_transaction_the_time_is_that_of_the_call():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.02), now()")
        began = cursor.fetchone()[1]

    assert adds.delay(1).created_at > began + timedelta(seconds=0.02)


def test_a_successors_time_counts_from_its_release():
    first = adds.delay(1)
    after = first.chain(sums.using(run_after=HOUR), (1,))
    Task.objects.update(created_at=datetime(2000, 1, 1, tzinfo=UTC), run_after=datetime(2000, 1, 1, tzinfo=UTC))
    assert states(after) == ["PENDING"]

    drain()

    assert states(first, after) == ["SUCCESS", "SCHEDULED"]
    assert 3590 < seconds_from_now(after) <= 3600
    assert ended_in_time(after).result == 2


def test_a_successors_instant_stays_that_instant():
    tomorrow = django_timezone.now() + timedelta(days=1)
    first = adds.delay(1)
    after = first.chain(sums.using(run_after=tomorrow), (1,))
    in_time = first.chain(sums.using(run_after=datetime(2000, 1, 1, tzinfo=UTC)), (1,))

    drain()

    assert states(after, in_time) == ["SCHEDULED", "SUCCESS"]
    after.refresh_from_db()
    assert after.run_after == tomorrow


def test_a_successor_of_a_finished_task_is_due_from_now():
    after = ended(adds.delay(1)).chain(sums, (1,), run_after=3600)

    assert after.status == "SCHEDULED"
    assert 3590 < seconds_from_now(after) <= 3600


def test_a_skipped_successor_is_skipped_at_once():
    first = adds.delay(1)
    after = first.chain(sums, (1,), run_after=3600)
    first.revoke()
    drain()

    assert states(after) == ["REVOKED"]


def test_what_was_due_first_runs_first():
    late = adds.using(run_after=-1).delay(1)
    early = adds.using(run_after=datetime(2000, 1, 1, tzinfo=UTC)).delay(2)
    high = adds.using(priority=1).delay(3)

    drain()

    assert [t.pk for t in Task.objects.order_by("finished_at")] == [high.pk, late.pk, early.pk]  # the past means now
