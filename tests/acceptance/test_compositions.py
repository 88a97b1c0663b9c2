"""Random compositions on real workers whose processes are killed at random moments: they end as their rules say all the same."""

import os
import random
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress

import pytest
from django.db.models import Sum
from django.db.models.functions import Now
from hypothesis import Phase, given, seed, settings
from hypothesis.errors import HypothesisDeprecationWarning

from cq.models import Step, Task
from tests.processes import RunningWorker, Workers, all_done, check_invariants, unfinished, until
from tests.workflow import test_composed_properties as composed
from tests.workflow.test_composed_properties import (
    HIT,
    PAUSING,
    Spec,
    check_answers,
    check_attempts,
    check_ends,
    signature,
)

SECONDS = float(os.environ.get("CQ_CHAOS_SECONDS", "6"))
CQ = {"MAX_CRASHES": 1000, "LEASE": 1.5, "TASK_MODULES": [composed.__name__]}
# What is killed each time, so often as it stands here: the tasks of a supervisor wait for the end of its lease.
VICTIMS = ["child"] * 8 + ["keeper"] * 2 + ["supervisor"]


def some(number: int) -> list[Spec]:
    """Make random compositions. Threads of this process may use the `random` module meanwhile, which is no matter here."""
    made: list[Spec] = []

    @seed(random.randrange(10**6))
    @settings(max_examples=number, database=None, deadline=None, phases=(Phase.generate,))
    @given(spec=composed.compositions)
    def note(spec: Spec) -> None:
        made.append(spec)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisDeprecationWarning)
        note()
    return made[20:]  # the first ones are simple


class Chaos:
    """Workers that are killed while they have something to do, and what they were given."""

    def __init__(self, run_worker: Workers) -> None:
        self.run_worker = run_worker
        self.alive = [self.start() for _ in range(2)]
        self.given: list[tuple[Spec, Task]] = []
        self.left = [composed.SAGA, composed.ASLEEP, composed.AWAKE, composed.FORCED, composed.UNWOUND]
        self.kills: Counter[str] = Counter()

    def start(self) -> RunningWorker:
        """Start a worker."""
        return self.run_worker("--processes", "2", "--threads", "2", cq=CQ)

    def give(self) -> None:
        """Give them some more, if they are about to have nothing to do."""
        if unfinished().exclude(status="SUSPENDED").count() < 30:
            for spec in [self.left.pop() for _ in range(5)]:
                self.given.append((spec, signature(spec).delay().root))
            self.left = self.left or some(120)

    def kill(self) -> None:
        """Kill a process of one of them."""
        worker = random.choice(self.alive)
        what = random.choice(VICTIMS)
        children = worker.children()
        others = [pid for pid in worker.descendants() if pid not in children]
        busy = set(Task.objects.filter(status="RUNNING").values_list("process__pid", flat=True))
        if what == "supervisor":
            worker.send(signal.SIGKILL)
            worker.popen.wait()
            self.alive[self.alive.index(worker)] = self.start()
        elif pids := others if what == "keeper" else [pid for pid in children if pid in busy] or children:
            with suppress(ProcessLookupError):
                os.kill(random.choice(pids), signal.SIGKILL)
        else:
            return
        self.kills[what] += 1

    def is_enough(self) -> bool:
        """Say whether it has come to so much that the test is worth its name."""
        are_hit = Task.objects.filter(crashes__gt=0).count() >= 3
        return are_hit and len(self.given) >= 24 and {"child", "keeper", "supervisor"} <= self.kills.keys()

    def send_some(self, share: float) -> bool:
        """Send events that are to come to some, whether they wait already or not; True if all has ended."""
        left = unfinished()
        for row in left.filter(name__in=PAUSING):
            for number, kind in enumerate(row.args[-1]["pauses"]):
                if kind == "event" and random.random() < share:
                    row.send_event(str(number), f"for {row.id}")
        left.filter(status="RETRY", run_after__gt=Now()).update(run_after=Now())
        return not left.exists()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_compositions_end_as_their_rules_say_whatever_processes_are_killed(
    run_worker: Workers, request: pytest.FixtureRequest
) -> None:
    chosen = random.randrange(10**6)
    request.node.add_report_section("call", "seed", str(chosen))
    random.seed(chosen)
    chaos = Chaos(run_worker)

    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS or not chaos.is_enough():
        chaos.give()
        chaos.send_some(0.2)
        chaos.kill()
        time.sleep(random.uniform(0, 0.4))  # the moment of the next one is to be random
    until(lambda: chaos.send_some(0.5), 60, what=run_worker.log)
    all_done(60, but=run_worker.log)
    for worker in chaos.alive:
        worker.ready().stop_in_order()

    HIT.clear()
    for spec, root in chaos.given:
        check_ends(spec, root)
        check_answers(spec, root)
    check_attempts()
    check_invariants(left=False)
    crashes = Task.objects.aggregate(n=Sum("crashes"))["n"]
    ends = dict(Counter(Task.objects.values_list("status", flat=True)))
    print(f"{len(chaos.given)} compositions, {ends}, killed: {dict(chaos.kills)}, bodies hit: {crashes}, {dict(HIT)}")
    assert HIT["errorbacks"] > 0 < HIT["undone"]
    assert set(Step.objects.values_list("kind", flat=True)) == {"sleep", "event"}
    assert {"SUCCESS", "FAILURE", "INCOMPLETE", "SKIPPED"} <= ends.keys()
