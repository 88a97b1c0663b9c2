"""Bodies that endure: killed at any moment they go on where they were, and while they sleep they hold nothing."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F, Sum
from django.db.models.functions import Now

from cq.models import Event, Step, Task
from tests import fault_tasks
from tests.models import Effect
from tests.processes import RunningWorker, all_done, backends, check_invariants, statuses, unfinished, until

NAMES = ["one", "two", "three"]
RECORDS = [("step", "one"), ("step", "two"), ("sleep", "#1"), ("event", "go"), ("step", "three")]


def check_endured(tasks: list[Task], folder: Path) -> None:
    """Each effect once, each call at least once, each record once, and one of the steps' results in the end."""
    for task in tasks:
        task.refresh_from_db()
        steps = {step.name: step for step in task.steps.all()}
        assert task.status == "SUCCESS", (task, task.error)
        assert Counter(Effect.objects.filter(task_id=task.pk).values_list("name", flat=True)) == Counter(NAMES)
        assert all(len((folder / f"{task.pk}-calls-of-{name}").read_text()) >= 1 for name in NAMES)
        assert [(step.kind, step.name) for step in task.steps.all()] == RECORDS
        results = [[name, steps[name].attempt] for name in NAMES]
        assert task.result == [*results[:2], f"for {task.pk}", results[2]]
        assert steps["#1"].until - steps["#1"].started_at == timedelta(seconds=1)
        assert steps["three"].started_at >= steps["#1"].until


def make_some(number: int, pause: float) -> list[Task]:
    functions = [fault_tasks.endures, fault_tasks.endures_in_coroutine]
    return [functions[n % 2].using(priority=n % 3).delay(pause) for n in range(number)]


def send_some(tasks: list[Task], share: float) -> bool:
    """Send the event to some that have not got it, whether they wait for it already or not."""
    got = set(Event.objects.values_list("task_id", flat=True))
    for task in tasks:
        if task.pk not in got and random.random() < share:
            assert task.send_event("go", f"for {task.pk}")
    return False


POINTS = ["step.returned", "step.kept", "step.committed", "finish.suspended", "exchange.before_commit", "settle.looked"]


@pytest.mark.chaos
def test_a_body_that_is_killed_between_any_two_steps_has_taken_each_once(run_worker, tmp_path):
    tasks = make_some(4, 0.0)
    points = ",".join(f"{point}=kill:once" for point in POINTS)
    worker = run_worker("--processes", "2", CQ_FAILPOINTS=points, cq={"MAX_CRASHES": 1000})

    send_some(tasks[:2], 1)
    hurry_until(lambda: Task.objects.filter(status="SUSPENDED", awaits="go").count() == 2, run_worker)
    send_some(tasks, 1)
    hurry_until(lambda: not unfinished().exists(), run_worker)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert {point for point in POINTS if (worker.points / point).exists()} == set(POINTS)
    check_endured(tasks, tmp_path)
    check_invariants()


def hurry_until(condition: Callable[[], bool], run_worker: Any) -> None:
    """Wait for this; what was killed often shall not wait long for its next attempt."""

    def holds() -> bool:
        Task.objects.filter(status="RETRY", run_after__gt=Now()).update(run_after=Now())
        return condition()

    until(holds, 30, what=run_worker.log)


def kill_one(worker: RunningWorker, tasks: list[Task], run_worker: Any) -> None:
    """Kill a process in which a body runs; see to it that there is one."""
    running = Task.objects.filter(status="RUNNING", process__ended_at=None).values_list("process__pid", flat=True)

    def is_killed() -> bool:
        if not unfinished().exclude(status="SUSPENDED").exists():
            tasks.extend(make_some(2, 0.04))
        found = sorted(set(running.all()) & set(worker.descendants()))
        if found:
            time.sleep(random.uniform(0, 0.1))  # the moment is to be random: nothing is waited for
        with suppress(IndexError, ProcessLookupError):  # there is none, or it has just ended
            os.kill(random.choice(found), signal.SIGKILL)
            return True
        return False

    hurry_until(is_killed, run_worker)


@pytest.mark.chaos
@pytest.mark.slow
def test_bodies_that_are_killed_at_twenty_random_moments_have_taken_each_step_once(run_worker, tmp_path, request):
    seed = random.randrange(10**6)
    request.node.add_report_section("call", "seed", str(seed))
    random.seed(seed)
    tasks = make_some(8, 0.04)
    worker = run_worker("--processes", "4", "--threads", "2", cq={"MAX_CRASHES": 1000}).ready()

    for _ in range(20):
        send_some(tasks, 0.05)
        kill_one(worker, tasks, run_worker)
    hurry_until(lambda: send_some(tasks, 0.3) or not unfinished().exists(), run_worker)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert Task.objects.aggregate(n=Sum("crashes"))["n"] >= 5, "so many kills at least hit a body"
    check_endured(tasks, tmp_path)
    check_invariants()


def test_one_thread_holds_a_thousand_sleeping_tasks_while_it_runs_others_and_they_outlive_the_worker(run_worker):
    fault_tasks.naps.delay_many([()] * 1000)
    first = run_worker("--processes", "1", "--threads", "1", "--drain")

    first.exit()
    assert statuses() == {("fault.naps", "SUSPENDED"): 1000}
    fault_tasks.leaf.delay_many([()] * 20)
    second = run_worker("--processes", "1", "--threads", "1")
    until(lambda: statuses()["fault.leaf", "SUCCESS"] == 20, what=run_worker.log)
    assert statuses()["fault.naps", "SUSPENDED"] == 1000
    assert len(backends()) <= 4

    hour = timedelta(hours=1)
    Step.objects.update(until=F("until") - hour)
    Task.objects.filter(status="SUSPENDED").update(run_after=F("run_after") - hour)
    all_done(but=run_worker.log)
    second.stop_in_order()

    assert set(Task.objects.values_list("status", "attempt")) == {("SUCCESS", 1)}
    assert Effect.objects.count() == 1020
    check_invariants()
