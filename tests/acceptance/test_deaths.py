"""Processes of a worker die by SIGKILL, hang by SIGSTOP, or are poisoned by a task."""

import os
import random
import signal
import time
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db.models import Max, Sum

from cq import engine
from cq.models import Process, Task, Worker
from cq.models.attempt import Attempt
from tests import fault_tasks
from tests.acceptance.test_failpoints import MIXED
from tests.models import Effect
from tests.processes import (
    all_done,
    check_invariants,
    is_alive,
    signal_all,
    statuses,
    until,
)

pytestmark = pytest.mark.chaos


def test_the_processes_of_a_killed_supervisor_die_with_it(run_worker):
    worker = run_worker("--processes", "2").ready(2)
    pids = worker.descendants()

    worker.send(signal.SIGKILL)

    until(lambda: not any(map(is_alive, pids)), 1.5, what="its processes are gone")
    assert len(pids) == 3


def test_another_worker_takes_over_after_the_lease_of_a_killed_supervisor(run_worker, tmp_path):
    lease = 1.5
    task = fault_tasks.once_until.delay(str(tmp_path / "never"))
    dying = run_worker(cq={"LEASE": lease})
    run_worker.await_body(task)
    other = run_worker(cq={"LEASE": lease}).ready()

    dying.send(signal.SIGKILL)
    killed = time.monotonic()
    all_done(8, but=run_worker.log)
    took = time.monotonic() - killed
    other.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 2, 1)
    assert took < lease + 0.3 + 1.5
    check_invariants()


def test_a_killed_keeper_is_replaced_and_the_lease_goes_on(run_worker, tmp_path):
    task = fault_tasks.once_until.delay(str(tmp_path / "go"))
    lease = 2.0
    worker = run_worker(cq={"LEASE": lease}).ready()
    run_worker.await_body(task)
    before = Worker.objects.get()

    os.kill(worker.keeper(), signal.SIGKILL)
    until(lambda: Worker.objects.get(pk=before.pk).lease_until > before.lease_until, lease, what=run_worker.log)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > lease + 1, what="longer than the lease")
    (tmp_path / "go").touch()
    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 1, 0)
    assert "starts anew" not in worker.log
    check_invariants()


def test_the_tasks_of_a_child_are_taken_over_also_when_the_keeper_dies_with_it(run_worker, tmp_path):
    task = fault_tasks.once_until.delay(str(tmp_path / "never"))
    worker = run_worker(cq={"LEASE": 30}).ready()
    run_worker.await_body(task)
    (child,) = worker.children()
    keeper = worker.keeper()

    signal_all([keeper], signal.SIGSTOP)
    signal_all([child], signal.SIGKILL)
    until(lambda: "child died" in worker.log, what=run_worker.log)
    signal_all([keeper], signal.SIGKILL)
    all_done(10, but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 2, 1)
    check_invariants()


def test_a_killed_child_is_replaced_at_once_and_only_what_had_started_in_it_is_charged(run_worker, tmp_path):
    started = [fault_tasks.once_until.delay(str(tmp_path / "never")) for _ in range(2)]
    worker = run_worker("--threads", "2", cq={"LEASE": 30}).ready()
    run_worker.await_body(*started)
    waiting = [fault_tasks.leaf.delay() for _ in range(20)]

    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    killed = time.monotonic()
    all_done(10, but=run_worker.log)
    took = time.monotonic() - killed
    worker.stop_in_order()

    assert took < 4, "much less than the lease"
    assert [Task.objects.get(pk=task.pk).crashes for task in started] == [1, 1]
    assert Task.objects.filter(pk__in=[task.pk for task in waiting]).aggregate(n=Max("crashes"))["n"] == 0
    check_invariants()


def test_what_a_killed_child_had_claimed_but_not_started_is_given_back_uncharged(run_worker):
    tasks = [fault_tasks.leaf.delay() for _ in range(30)]
    worker = run_worker("--threads", "1", CQ_FAILPOINTS="exchange.after_commit=kill:once")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    assert set(Task.objects.values_list("attempt", flat=True)) == {1}
    assert not Attempt.objects.exclude(outcome="success").exists()
    assert len(tasks) == Effect.objects.count()
    check_invariants()


def test_a_task_that_always_kills_its_process_is_lost_and_its_neighbours_are_not(run_worker):
    worker = run_worker("--processes", "1", "--threads", "4", cq={"LEASE": 30}).ready()
    neighbours = [fault_tasks.leaf.delay(0.05) for _ in range(40)]
    poison = [fault_tasks.dies.delay() for _ in range(2)]
    neighbours += [fault_tasks.leaf.delay(0.05) for _ in range(40)]

    all_done(40, but=run_worker.log)
    worker.stop_in_order()

    for task in poison:
        task.refresh_from_db()
        assert (task.status, task.attempt, task.crashes) == ("LOST", 3, 3)
        assert task.reason == "Its worker process died 3 times while running it."
        assert [attempt.outcome for attempt in task.attempts.all()] == ["crashed"] * 3
    rows = Task.objects.filter(pk__in=[task.pk for task in neighbours])
    assert set(rows.values_list("status", flat=True)) == {"SUCCESS"}
    assert rows.aggregate(n=Max("crashes"))["n"] <= 2, "both poisons may have hit it, each once"
    check_invariants()


def test_a_task_that_killed_its_process_once_gets_another_try(run_worker):
    task = fault_tasks.dies.delay(times=1)
    worker = run_worker(cq={"LEASE": 30})

    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.result, task.crashes) == ("SUCCESS", 2, 1)
    check_invariants()


def test_suspects_run_one_at_a_time_in_a_process(run_worker, tmp_path):
    tasks = [fault_tasks.runs_alone.delay(str(tmp_path), 0.001) for _ in range(20)]
    tasks += [fault_tasks.runs_alone.delay(str(tmp_path), 0.1) for _ in range(5)]
    tasks += [fault_tasks.runs_alone_coroutine.delay(str(tmp_path), 0.05) for _ in range(10)]
    Task.objects.update(crashes=1)
    worker = run_worker("--processes", "2")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    alone = [Task.objects.get(pk=task.pk).result for task in tasks]
    assert alone == [True] * len(tasks)
    assert set(Task.objects.values_list("attempt", flat=True)) == {1}


def test_what_a_silent_child_has_not_started_is_run_elsewhere_and_not_twice(run_worker, tmp_path):
    worker = run_worker("--processes", "2", "--threads", "1", cq={"LEASE": 30}).ready(2)
    first = fault_tasks.until_loose.delay(str(tmp_path / "go"))
    run_worker.await_body(first)
    silent = Process.objects.get(pk=Task.objects.get(pk=first.pk).process_id).pid
    signal_all([silent], signal.SIGSTOP)
    for _ in range(3):
        fault_tasks.leaf.delay()
    all_done_but_first = Task.objects.exclude(pk=first.pk)
    until(lambda: not all_done_but_first.filter(status__in=["QUEUED", "RUNNING"]).exists(), what=run_worker.log)
    for _ in range(3):
        fault_tasks.leaf.delay()
    until(lambda: not all_done_but_first.filter(status__in=["QUEUED", "RUNNING"]).exists(), what=run_worker.log)

    (tmp_path / "go").touch()
    signal_all([silent], signal.SIGCONT)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert Effect.objects.count() == 7
    check_invariants()


def test_a_suspended_child_gives_back_what_it_claimed_ahead_and_is_fenced_when_it_goes_on(run_worker):
    """It is suspended right after its claim, before any body could start."""
    tasks = [fault_tasks.leaf.delay() for _ in range(12)]
    worker = run_worker("--processes", "1", CQ_FAILPOINTS="rounds.claimed=sleep:3000ms:once", cq={"LEASE": 30})
    until(lambda: Task.objects.filter(status="RUNNING").exists(), what=run_worker.log)
    (silent,) = worker.children()
    signal_all([silent], signal.SIGSTOP)
    claimed = Task.objects.filter(status="RUNNING").count()
    helper = run_worker(cq={"LEASE": 30})

    all_done(8, but=run_worker.log)
    signal_all([silent], signal.SIGCONT)
    helper.stop_in_order()
    worker.stop_in_order()

    assert claimed > 0
    assert Effect.objects.count() == len(tasks)
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_what_a_suspended_child_had_claimed_does_not_start_there_when_it_goes_on(run_worker, tmp_path):
    """It is suspended right after its claim, before it has heard what it got; these bodies leave nothing that a fence could take back."""
    starts = tmp_path / "starts"
    tasks = [fault_tasks.dry_notes.delay(str(starts)) for _ in range(12)]
    worker = run_worker("--processes", "1", CQ_FAILPOINTS="rounds.claimed=sleep:3000ms:once", cq={"LEASE": 30})
    until(lambda: Task.objects.filter(status="RUNNING").exists(), what=run_worker.log)
    (silent,) = worker.children()
    signal_all([silent], signal.SIGSTOP)
    helper = run_worker(cq={"LEASE": 30})

    all_done(8, but=run_worker.log)
    signal_all([silent], signal.SIGCONT)
    helper.stop_in_order()
    worker.stop_in_order()

    assert sorted(starts.read_text().split()) == sorted(str(task.id) for task in tasks)
    check_invariants()


def test_a_suspended_supervisor_alone_costs_nothing_as_long_as_its_keeper_lives(run_worker):
    worker = run_worker().ready()
    other = run_worker().ready()
    worker.send(signal.SIGSTOP)
    tasks = [fault_tasks.leaf.delay(0.05) for _ in range(60)]

    all_done(but=run_worker.log)
    worker.send(signal.SIGCONT)
    worker.stop_in_order()
    other.stop_in_order()

    assert Effect.objects.count() == len(tasks)
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_a_suspended_worker_loses_its_tasks_after_the_lease_and_begins_anew_when_it_goes_on(run_worker, tmp_path):
    Group.objects.create(name="wanted by both attempts")
    frozen = run_worker(cq={"LEASE": 1.5}).ready()
    task = fault_tasks.renames.delay("wanted by both attempts", str(tmp_path / "go"))
    run_worker.await_body(task)
    (old,) = Worker.objects.all()
    pids = [frozen.pid, *frozen.descendants()]
    signal_all(pids, signal.SIGSTOP)
    frozen_at = time.monotonic()
    other = run_worker(cq={"LEASE": 1.5}).ready()

    all_done(12, but=run_worker.log)
    took = time.monotonic() - frozen_at
    old_children = frozen.descendants()[1:]
    signal_all(pids, signal.SIGCONT)
    until(lambda: not any(map(is_alive, old_children)), what=run_worker.log)
    until(lambda: Worker.objects.count() == 2, what=run_worker.log)
    later = fault_tasks.leaf.delay()
    all_done(but=run_worker.log)

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 2, 1)
    assert took < 1.5 + 0.3 + 2.5, "the open transaction of the frozen one was ended"
    assert not Worker.objects.filter(pk=old.pk).exists()
    assert Effect.objects.filter(task_id=task.pk).count() == 1
    assert later
    frozen.stop_in_order()
    other.stop_in_order()
    check_invariants()


def test_a_suspended_supervisor_is_declared_dead_and_begins_anew_when_it_goes_on(run_worker, tmp_path):
    worker = run_worker(cq={"LEASE": 1.5}).ready()
    task = fault_tasks.once_until.delay(str(tmp_path / "never"))
    run_worker.await_body(task)
    old = Worker.objects.get()
    worker.send(signal.SIGSTOP)
    other = run_worker(cq={"LEASE": 1.5}).ready()

    all_done(10, but=run_worker.log)
    worker.send(signal.SIGCONT)
    until(lambda: not Worker.objects.filter(pk=old.pk).exists() and Worker.objects.count() == 2, what=run_worker.log)
    worker.stop_in_order()
    other.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt) == ("SUCCESS", 2)
    check_invariants()


def test_a_child_of_a_worker_that_was_declared_dead_cannot_end_its_task(run_worker, tmp_path):
    dead = run_worker(cq={"LEASE": 1.5}, TEST_LOG_LEVEL="DEBUG").ready()
    task = fault_tasks.ends_when_told.delay(str(tmp_path / "go"))
    run_worker.await_body(task)
    (zombie,) = dead.children()
    signal_all([dead.pid, *dead.descendants()], signal.SIGSTOP)
    other = run_worker().ready()
    run_worker.await_body(task, attempt=2)

    (tmp_path / "go-1").touch()
    signal_all([zombie], signal.SIGCONT)
    signal_all([zombie], signal.SIGTERM)
    until(lambda: "engine ended" in dead.log, what=run_worker.log)
    task.refresh_from_db()
    (status, attempt) = (task.status, task.attempt)
    (tmp_path / "go-2").touch()
    all_done(but=run_worker.log)
    other.stop_in_order()

    task.refresh_from_db()
    assert (status, attempt) == ("RUNNING", 2)
    assert "'fenced': 1" in dead.log
    assert (task.status, task.result) == ("SUCCESS", 2)
    dead.clean_up()
    check_invariants(left=False)


def test_a_body_that_holds_the_interpreter_for_long_is_not_declared_dead(run_worker):
    task = fault_tasks.hogs.delay(3.2)
    worker = run_worker("--processes", "1", cq={"LEASE": 1.5})

    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 1, 0)
    assert "starts anew" not in worker.log
    check_invariants()


def test_random_kills_of_any_process_change_nothing_but_the_number_of_attempts(run_worker, request):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    workflows, kills = 40, 20
    options = ["--processes", "2", "--threads", "2"]
    workers: list[Any] = [None, None]

    def replace_dead() -> None:
        for number, worker in enumerate(workers):
            if worker is None or not worker.is_running:
                workers[number] = run_worker(*options, cq={"LEASE": 1.5, "MAX_CRASHES": 1000})

    for _ in range(kills):
        for _ in range(workflows // kills):
            fault_tasks.mixed.delay()
        replace_dead()
        victims = [pid for worker in workers for pid in [*worker.descendants(), worker.pid]]
        signal_all([chance.choice(victims)], signal.SIGKILL)
        pause = time.monotonic() + chance.uniform(0.1, 0.6)
        until(lambda pause=pause: time.monotonic() > pause)
    replace_dead()
    all_done(30, but=lambda: f"seed {seed}\n{run_worker.log()}")
    # One that was late with its lease has begun again under another name, and its old one is dead.
    living = sorted(worker.pid for worker in workers)
    until(lambda: sorted(Worker.objects.values_list("pid", flat=True)) == living, what="the dead are struck off")
    for worker in workers:
        worker.stop_in_order()

    # One that was late with its lease as it stopped has left its old name behind; the next worker's rescue strikes that off.
    until(lambda: (engine.rescue(), not Worker.objects.exists() and not Process.objects.exists())[1], 5)
    assert statuses() == {key: workflows * number for key, number in MIXED.items()}, seed
    check_invariants()


def test_workers_that_come_and_go_under_load_lose_and_charge_nothing(run_worker):
    tasks = [fault_tasks.leaf.delay(0.02) for _ in range(400)]
    first = run_worker("--threads", "2").ready()

    others = [run_worker("--threads", "2") for _ in range(4)]
    for worker in others:
        worker.ready()
    for worker in others:
        worker.stop_in_order()
    all_done(but=run_worker.log)
    first.stop_in_order()

    assert set(Task.objects.values_list("status", "attempt", "crashes")) == {("SUCCESS", 1, 0)}
    assert Effect.objects.count() == len(tasks)
    check_invariants()
