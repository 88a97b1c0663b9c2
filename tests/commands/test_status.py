"""`cq_status`: queues, workers, and what keeps tasks from running."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from cq.models import SettleRequest, Task, Worker
from cq.states import UNFINISHED
from cq.testing import drain
from tests import tasks
from tests.commands import samples
from tests.rows import make

pytestmark = pytest.mark.django_db


def test_an_empty_database_without_a_worker_says_so(terminal):
    said = terminal("cq_status")

    assert "No unfinished tasks in any queue." in said
    assert "Workers alive: 0\nNo worker is alive. Start one: manage.py cq_runworker\n" in said


def test_tasks_are_counted_by_queue_and_status(terminal, read_json):
    tasks.spawns.delay(2)
    drain(max_tasks=1)
    samples.tries_later.using(queue="mail").delay()
    drain()
    parent = tasks.spawns.delay(3)
    drain(max_tasks=1)
    parent.refresh_from_db()
    tasks.adds.using(submit=False).delay(1)
    tasks.adds.using(run_after=60, queue="mail").delay(1)
    tasks.adds.delay(1)

    said = terminal("cq_status")
    seen = read_json("cq_status")

    assert parent.status == Task.Status.WAITING
    assert {
        queue["name"]: {word: number for word, number in queue["statuses"].items() if number}
        for queue in seen["queues"]
    } == {
        "default": {"PENDING": 1, "QUEUED": 4, "WAITING": 1},
        "mail": {"SCHEDULED": 1, "RETRY": 1},
    }
    assert "QUEUE    PENDING  SCHEDULED  QUEUED  RUNNING  WAITING  RETRY  OLDEST  SERVED" in said
    assert "Unfinished: 8 (1 PENDING, 1 SCHEDULED, 4 QUEUED, 1 WAITING, 1 RETRY)" in said


def test_finished_tasks_are_not_counted(read_json):
    tasks.spawns_failing.delay(3)
    drain()

    assert read_json("cq_status")["queues"] == []


def test_tasks_wait_for_a_worker_when_none_is_alive(terminal):
    tasks.adds.delay(1)
    tasks.adds.delay(2)

    assert "No worker is alive. 2 ready tasks wait." in terminal("cq_status")


def test_a_queue_that_no_living_worker_serves_is_named(terminal, enter):
    enter(queues=["default", "bulk"])
    tasks.adds.delay(1)
    tasks.adds.using(queue="mail").delay(1)

    said = terminal("cq_status")

    assert "No living worker serves the queue mail; 1 ready task waits in it. Start one:" in " ".join(said.split())
    assert "queue default" not in said
    assert "queue bulk" not in said


def test_a_worker_of_all_queues_serves_every_queue(read_json, enter):
    enter()
    tasks.adds.using(queue="mail").delay(1)

    assert read_json("cq_status")["problems"] == []


def test_a_worker_whose_lease_is_over_is_not_alive(terminal, read_json, enter):
    enter()
    Worker.objects.update(lease_until=Now() - timedelta(seconds=1))

    assert read_json("cq_status")["workers"][0]["is_alive"] is False
    assert "Workers alive: 0, dead and not yet cleared away: 1\nNo worker is alive." in terminal("cq_status")


def test_a_worker_shows_its_processes_and_what_runs_in_them(terminal, read_json, enter):
    process_id = enter(host="web-1.example.org", queues=["default"], slots=8)
    make.row(Task.Status.RUNNING, process_id=process_id)
    make.row(Task.Status.RUNNING, process_id=process_id)

    said = terminal("cq_status")
    (worker,) = read_json("cq_status")["workers"]

    assert (worker["processes"], worker["running"], worker["slots"]) == (1, 2, 8)
    assert 25 < worker["lease_left_seconds"] <= 30
    assert "web-1.example.org/4711  default          1        2      8" in said


def test_the_oldest_due_task_is_as_old_as_the_database_says(read_json):
    tasks.adds.delay(1)
    tasks.adds.using(run_after=60).delay(1)
    Task.objects.filter(status=Task.Status.QUEUED).update(run_after=F("run_after") - timedelta(hours=2))

    (queue,) = read_json("cq_status")["queues"]

    assert 7200 <= queue["oldest_due_seconds"] < 7260


def test_settle_requests_are_counted(terminal):
    SettleRequest.objects.create(task_id=tasks.adds.delay(1).id)

    assert "To be settled: 1 request, the oldest for " in terminal("cq_status")


def test_long_names_and_all_columns_fit(terminal, enter):
    enter(host="h" * 200, queues=["q" * 64, "r" * 64])
    tasks.adds.using(queue="q" * 64).delay(1)
    for status in UNFINISHED:
        make.row(status, queue="q" * 64)

    said = terminal("cq_status")

    assert [line[:4] for line in said.splitlines() if line.startswith(("q", "r"))] == ["qqqq", "rrrr"]
    assert all(status in said for status in UNFINISHED)


def test_a_look_takes_a_few_statements(terminal, enter, django_assert_max_num_queries):
    for number in range(5):
        enter(host=f"web-{number}")
        tasks.adds.using(queue=f"q{number}").delay(1)

    with django_assert_max_num_queries(6):
        terminal("cq_status")
