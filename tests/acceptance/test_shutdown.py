"""Workers that are told to stop finish what they can, give back the rest, and charge nobody."""

import os
import signal
import time

import pytest
from django.db.models import Sum

from cq.models import Process, Task, Worker
from cq.models.attempt import Attempt
from tests import fault_tasks
from tests.models import Effect
from tests.processes import all_done, check_invariants, parent_of, signal_all, until

pytestmark = pytest.mark.chaos

GRACE = 0.5


def has_effect(task: Task) -> bool:
    return Effect.objects.filter(task_id=task.pk).exists()


def outcomes(task: Task) -> list[str]:
    return list(Attempt.objects.filter(task_id=task.pk).values_list("outcome", flat=True))


def test_ten_rolling_restarts_under_load_lose_and_charge_nothing(run_worker):
    tasks = 0
    worker = run_worker("--processes", "2", cq={"LEASE": 30}).ready()

    for _ in range(10):
        following = run_worker("--processes", "2", cq={"LEASE": 30}).ready(2)
        fault_tasks.leaf.delay_many([(0.02,)] * 60)
        fault_tasks.coroutine.delay_many([()] * 20)
        fault_tasks.dry.delay_many([()] * 40)
        tasks += 120
        running = Task.objects.filter(status="RUNNING", process__worker__pid=worker.pid)
        until(running.exists, what=run_worker.log)
        worker.stop_in_order()
        worker = following
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert Task.objects.filter(status="SUCCESS").count() == tasks
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    assert set(Task.objects.values_list("attempt", flat=True)) == {1}
    check_invariants()


def test_a_worker_that_is_stopped_right_after_its_start_ends_at_once(run_worker):
    """The signal comes while its processes are just being made."""
    for _ in range(4):
        worker = run_worker("--processes", "2")
        until(worker.descendants, what=run_worker.log)

        took = worker.stop()

        assert worker.popen.returncode == 0, worker.log
        assert took < 3, worker.log


def test_a_child_that_was_just_being_forked_is_told_again(run_worker):
    worker = run_worker("--grace", "20", CQ_FAILPOINTS="child.starting=sleep:1000ms", cq={"LEASE": 30}).ready()

    took = worker.stop()

    assert worker.popen.returncode == 0
    assert took < 5
    check_invariants()


def test_running_bodies_get_the_grace_and_nothing_more_is_claimed(run_worker):
    worker = run_worker("--grace", "5")
    task = fault_tasks.sleeps.delay(1.0)
    run_worker.await_body(task)
    worker.descendants()

    worker.send(signal.SIGTERM)
    told = time.monotonic()
    until(lambda: time.monotonic() > told + 0.4)
    later = [fault_tasks.leaf.delay() for _ in range(10)]
    status = worker.exit()

    task.refresh_from_db()
    assert (status, task.status, task.attempt) == (0, "SUCCESS", 1)
    assert set(Task.objects.filter(pk__in=[one.pk for one in later]).values_list("status", flat=True)) == {"QUEUED"}
    check_invariants(finished=False)


@pytest.mark.parametrize("body", ["sleeps", "sleeps_loose", "sleeps_coroutine"])
def test_a_task_that_lasts_longer_than_the_grace_goes_back_to_its_queue_uncharged(run_worker, body):
    worker = run_worker("--grace", str(GRACE), cq={"LEASE": 30})
    task = getattr(fault_tasks, body).delay(30)
    run_worker.await_body(task)

    took = worker.stop()

    task.refresh_from_db()
    assert worker.popen.returncode == 0
    assert took < GRACE + 2
    assert (task.status, task.attempt, task.crashes, task.retries) == ("QUEUED", 1, 0, 0)
    assert outcomes(task) == ["interrupted"]
    assert has_effect(task) == (body != "sleeps"), "only an atomic one's is rolled back"
    check_invariants(finished=False)


def test_a_body_in_a_thread_cleans_up_at_the_end_of_the_grace(run_worker, tmp_path):
    worker = run_worker("--grace", str(GRACE), cq={"LEASE": 30})
    task = fault_tasks.cleans_up.delay(str(tmp_path / "clean"))
    run_worker.await_body(task)

    worker.stop_in_order()

    task.refresh_from_db()
    assert (tmp_path / "clean").exists()
    assert (task.status, outcomes(task)) == ("QUEUED", ["interrupted"])


def test_a_coroutine_that_waits_for_a_thread_does_not_hold_up_the_end(run_worker):
    worker = run_worker("--grace", str(GRACE), cq={"LEASE": 30})
    task = fault_tasks.blocks_coroutine.delay(30)
    run_worker.await_body(task)

    took = worker.stop()

    task.refresh_from_db()
    assert worker.popen.returncode == 0
    assert took < GRACE + 2
    assert (task.status, task.attempt, task.crashes) == ("QUEUED", 1, 0)
    assert outcomes(task) == ["interrupted"]
    check_invariants(finished=False)


def test_an_interrupted_task_runs_again_elsewhere_and_takes_effect_once(run_worker, tmp_path):
    first = run_worker("--grace", str(GRACE), cq={"LEASE": 30})
    task = fault_tasks.once_until.delay(str(tmp_path / "never"))
    run_worker.await_body(task)
    first.stop_in_order()

    second = run_worker(cq={"LEASE": 30})
    all_done(but=run_worker.log)
    second.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 2, 0)
    assert outcomes(task) == ["interrupted", "success"]
    check_invariants()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_ends_it_at_once(run_worker, number):
    worker = run_worker("--grace", "20", cq={"LEASE": 30})
    task = fault_tasks.sleeps.delay(30)
    run_worker.await_body(task)
    worker.descendants()

    if number != signal.SIGQUIT:  # which does not wait for a second one
        worker.send(number)
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 0.5)
        assert worker.is_running
    took = worker.stop(number)

    task.refresh_from_db()
    assert took < 2
    assert not worker.left_behind()
    assert task.status in ("QUEUED", "RETRY")
    assert not has_effect(task)
    check_invariants(finished=False)


def test_ctrl_c_in_a_terminal_stops_it_in_order(run_worker):
    worker = run_worker("--grace", "5", "--processes", "2").ready(2)
    task = fault_tasks.sleeps.delay(0.5)
    run_worker.await_body(task)
    worker.descendants()

    os.killpg(worker.pid, signal.SIGINT)
    status = worker.exit()

    task.refresh_from_db()
    assert (status, task.status) == (0, "SUCCESS")
    assert not worker.left_behind()
    assert "Traceback" not in worker.log
    check_invariants()


def test_a_child_that_does_not_answer_is_killed_after_the_grace(run_worker):
    worker = run_worker("--grace", str(GRACE), cq={"LEASE": 30}).ready()
    task = fault_tasks.hogs.delay(30)
    run_worker.await_body(task)

    took = worker.stop()

    task.refresh_from_db()
    assert worker.popen.returncode == 0
    assert took < GRACE + 5 + 2
    assert (task.status, task.attempt, task.crashes) == ("QUEUED", 1, 0)
    assert outcomes(task) == ["interrupted"]
    check_invariants(finished=False)


@pytest.mark.parametrize("how", fault_tasks.DEAFENINGS)
def test_a_process_whose_bodies_have_changed_its_signals_stops_in_its_stages(run_worker, tmp_path, how):
    worker = run_worker("--grace", "1", "--threads", "3", cq={"LEASE": 30}).ready()
    (child,) = worker.children()
    fault_tasks.deafens.delay(how)
    fault_tasks.deafens_loop.delay(how)
    all_done(but=run_worker.log)
    ends, lasts = fault_tasks.once_until.delay(str(tmp_path / "end")), fault_tasks.sleeps.delay(1000)
    run_worker.await_body(ends, lasts)
    assert worker.children() == [child]

    worker.send(signal.SIGTERM)
    until(lambda: "stopping" in worker.log)
    (tmp_path / "end").touch()
    until(lambda: Task.objects.get(pk=ends.pk).is_done, what=run_worker.log)
    later = fault_tasks.leaf.delay()
    took = worker.stop(signal.SIGCONT)

    assert worker.popen.returncode == 0
    assert took < 1 + 2
    assert (outcomes(ends), outcomes(lasts), outcomes(later)) == (["success"], ["interrupted"], [])
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    assert not worker.left_behind()
    check_invariants(finished=False)


def test_the_register_is_empty_after_an_orderly_end(run_worker):
    worker = run_worker("--processes", "3").ready(3)
    assert (Worker.objects.count(), Process.objects.count()) == (1, 3)

    worker.stop_in_order()

    assert (Worker.objects.count(), Process.objects.count()) == (0, 0)


def test_a_single_child_that_is_told_to_stop_is_replaced_and_nothing_is_charged(run_worker):
    worker = run_worker("--processes", "1", cq={"LEASE": 30}).ready()
    (child,) = worker.children()
    tasks = [fault_tasks.leaf.delay(0.02) for _ in range(100)]
    until(lambda: Effect.objects.exists(), what=run_worker.log)

    signal_all([child], signal.SIGTERM)
    all_done(but=run_worker.log)
    (other,) = worker.children()
    worker.stop_in_order()

    assert other != child
    assert parent_of(other) in (0, worker.pid)
    assert Effect.objects.count() == len(tasks)
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()
