"""Only PostgreSQL's clock decides: this machine's may be wrong by days."""

import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

import cq
from cq import ids
from cq.models import Task
from cq.testing import drain
from tests import tasks

DAY = timedelta(days=1)


@pytest.fixture(params=[DAY, -DAY], ids=["a day ahead", "a day behind"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> timedelta:
    wrong: timedelta = request.param
    right_time, right_ns, right_now = time.time, time.time_ns, timezone.now
    monkeypatch.setattr(time, "time", lambda: right_time() + wrong.total_seconds())
    monkeypatch.setattr(time, "time_ns", lambda: right_ns() + int(wrong.total_seconds()) * 10**9)
    monkeypatch.setattr(timezone, "now", lambda: right_now() + wrong)
    monkeypatch.setattr(ids, "_generator", ids._Generator())  # the ids of this day are not for other tests
    return wrong


@pytest.mark.django_db
def test_what_is_due_is_run_and_what_is_not_is_left_whatever_this_clock_says(wrong_clock):
    now = tasks.adds.delay(1)
    later = tasks.adds.using(run_after=timedelta(hours=2)).delay(1)
    again = tasks.succeeds_at.delay(2)

    runs = drain()

    statuses = [Task.objects.get(pk=task.pk).status for task in (now, later, again)]
    assert (runs, statuses) == (3, [Task.Status.SUCCESS, Task.Status.SCHEDULED, Task.Status.SUCCESS])


@pytest.mark.django_db
def test_times_on_the_row_are_those_of_the_database(wrong_clock):
    task = tasks.adds.delay(1)

    drain()

    task.refresh_from_db()
    assert task.started_at is not None
    assert task.finished_at is not None
    for instant in (task.created_at, task.run_after, task.started_at, task.finished_at):
        assert abs(instant - (timezone.now() - wrong_clock)) < timedelta(minutes=5)


def test_no_module_but_the_one_that_makes_ids_asks_this_machine_what_time_it_is():
    asking = re.compile(r"time\.time(?:_ns)?\(|timezone\.now\(|datetime\.(?:now|utcnow|today)\(|\bnow\(\)")

    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(cq.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if asking.search(line) and not line.lstrip().startswith(("#", '"""', "-"))
    ]

    assert found == ["ids.py: now = time.time_ns() // 1_000_000"]
