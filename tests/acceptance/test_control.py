"""Limits, rates, timeouts, revokes and deaths all at once: every task ends, and no limit and no rate was ever exceeded."""

import random
import signal
import time
from typing import Any

import pytest

from cq import engine
from cq.models import KeyRequest, Lingering, Process, Task, Worker
from cq.models.attempt import Attempt
from tests import control_tasks, fault_tasks
from tests.processes import all_done, check_invariants, signal_all, statuses, until

KEYS = ("one", "two", "three")
TURNS = 12
SETTINGS = {"LEASE": 2, "MAX_CRASHES": 1000, "TASK_MODULES": ["tests.fault_tasks", "tests.control_tasks"]}
OPTIONS = ["--processes", "2", "--threads", "2", "--grace", "1"]


def most_starts_in_any_window(key: str) -> int:
    """Count, from the attempts' rows, the most bodies of a key that started within the time of its rate."""
    of_key = Task.objects.filter(key=key).values("pk")
    starts = sorted(Attempt.objects.filter(task_id__in=of_key).values_list("started_at", flat=True))
    most = first = 0
    for last, at in enumerate(starts):
        while (at - starts[first]).total_seconds() >= control_tasks.SECONDS:
            first += 1
        most = max(most, last - first + 1)
    return most


class Load:
    """Two workers that are replaced when they die, and what they are given to do."""

    def __init__(self, run_worker: Any, folder: str, chance: random.Random) -> None:
        self.run_worker = run_worker
        self.folder = folder
        self.chance = chance
        self.workers: list[Any] = [None, None]
        self.revocable: list[Task] = []

    def replace_dead(self) -> None:
        for number, worker in enumerate(self.workers):
            if worker is None or not worker.is_running:
                self.workers[number] = self.run_worker(*OPTIONS, cq=SETTINGS)

    def enqueue(self, *, more: bool) -> None:
        fault_tasks.mixed.delay()
        for key in KEYS:
            self.revocable.append(control_tasks.limited.delay(self.folder, key, self.chance.uniform(0, 0.1)))
            control_tasks.limited_coroutine.delay(self.folder, key, self.chance.uniform(0, 0.1))
            control_tasks.rated.delay_many([(self.folder, f"rate-{key}")] * 2)
        if more:
            control_tasks.limited_hangs.delay(self.folder, "two", 60)
            control_tasks.spins.delay()
            self.revocable.append(fault_tasks.mixed.delay())
            self.revocable.append(control_tasks.limited.delay(self.folder, "three", 30))

    def revoke_some(self) -> None:
        for task in self.revocable[-3:]:
            if self.chance.random() < 0.5:
                task.revoke(terminate=True)

    def kill_one(self) -> None:
        victims = [pid for worker in self.workers for pid in worker.descendants()]
        signal_all([self.chance.choice([*victims, self.chance.choice(self.workers).pid])], signal.SIGKILL)

    def wait_a_little(self) -> None:
        pause = time.monotonic() + self.chance.uniform(0.1, 0.4)
        until(lambda: time.monotonic() > pause)


@pytest.mark.chaos
@pytest.mark.slow
def test_a_mixed_load_ends_and_no_limit_and_no_rate_was_ever_exceeded(run_worker, tmp_path):
    seed = random.randrange(10**6)
    load = Load(run_worker, str(tmp_path), random.Random(seed))

    for turn in range(TURNS):
        load.replace_dead()
        load.enqueue(more=turn % 4 == 0)
        load.revoke_some()
        if turn % 2:
            load.kill_one()
        load.wait_a_little()
    for task in load.revocable:
        task.revoke(terminate=True)
    load.replace_dead()
    all_done(60, but=lambda: f"seed {seed}\n{run_worker.log()}")
    until(lambda: not Lingering.objects.exists(), 15, what=lambda: f"seed {seed}: no body lingers\n{run_worker.log()}")
    for worker in load.workers:
        worker.stop_in_order()
    until(lambda: (engine.rescue(), not Worker.objects.exists() and not Process.objects.exists())[1], 5)

    assert [path.read_text() for path in tmp_path.glob("exceeded-*")] == [], seed
    most = [most_starts_in_any_window(f"rate-{key}") for key in KEYS]
    assert 1 < max(most) <= control_tasks.STARTS, (seed, most)
    ended = statuses(Task.objects.filter(name__startswith="control."))
    assert ended[("control.spins", "FAILURE")] == ended[("control.limited_hangs", "FAILURE")] == TURNS / 4
    assert ended[("control.limited_coroutine", "SUCCESS")] == TURNS * len(KEYS)
    assert ended[("control.rated", "SUCCESS")] == 2 * TURNS * len(KEYS)
    assert not KeyRequest.objects.exists()
    check_invariants()
