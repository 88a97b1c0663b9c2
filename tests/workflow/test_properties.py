"""Random workflows under random interleavings of several workers that hold claims, die and come back too late.

A workflow is a tree of `Node`s. `Oracle` says what must become of it: a pure function of the tree, which knows nothing of
workers, crashes and time. `Run` drives the real engine on a real database, one committed step after the other.
`CQ_EXAMPLES=5000` runs more, and other ones each time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.db import connection
from django.db.models.functions import Now
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cq import engine, executor, registry, settle, task
from cq.models import SettleRequest, Task
from cq.outcome import Claimed, Outcome, given_back
from cq.states import TERMINAL, UNFINISHED, sql_list
from tests.rows import make

pytestmark = pytest.mark.django_db(transaction=True)

# The workflow

KINDS = ("atomic", "pure", "plain", "coroutine")


@dataclass
class Node:
    """One task: what its body does, and what is chained onto it by whoever makes it."""

    kind: str = "atomic"
    fails: int = 0
    retries: int = 0
    returns: str = "value"
    force: bool = False
    passed: bool = False
    pauses: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    siblings: list[Node] = field(default_factory=list)
    then: list[Node] = field(default_factory=list)
    number: int = 0


def numbered(root: Node) -> Node:
    """Give every node a number of its own."""
    count = 0
    todo = [root]
    while todo:
        node = todo.pop()
        count += 1
        node.number = count
        todo += node.children + node.siblings + node.then
    return root


# What a body that commits as it goes passes on its way, each once for all its runs.
pauses = st.sampled_from([[], [], [], ["step"], ["sleep", "step"], ["step", "event"]])
leaves = st.builds(
    Node,
    kind=st.sampled_from(KINDS),
    fails=st.sampled_from([0, 0, 0, 1, 2]),
    retries=st.sampled_from([0, 1, 2]),
    force=st.booleans(),
    passed=st.booleans(),
    pauses=pauses,
)


def grown(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        kind=st.sampled_from(KINDS),
        fails=st.sampled_from([0, 0, 0, 0, 1]),
        retries=st.sampled_from([0, 1, 1]),
        returns=st.sampled_from(["value", "child", "chain", "delayed"]),
        force=st.booleans(),
        passed=st.booleans(),
        pauses=pauses,
        children=st.lists(nodes, max_size=3),
        siblings=st.lists(nodes, max_size=1),
        then=st.lists(nodes, max_size=2),
    )


workflows = grown(st.recursive(leaves, grown, max_leaves=6)).map(numbered)

# Its bodies


def act(cqt: Any, node: Node, before: list[Any], errors: int) -> Any:
    """Do what a body does, once it knows how often it has failed."""
    if errors < node.fails:
        raise ValueError(f"error {errors + 1} of {node.fails}")
    for sibling in node.siblings if cqt.parent else []:
        make_task(cqt.parent.subtask, sibling)
    if hands_on_delayed(node):
        return make_task(lambda func, args, **options: func.delay_args(args, **options), node.children[0])
    made = [make_task(cqt.subtask, child) for child in node.children]
    if made and node.returns == "child":
        return made[0][0]
    if made and node.returns == "chain":
        return made[0][-1]
    return [node.number, *before]


def hands_on_delayed(node: Node) -> bool:
    return node.returns == "delayed" and bool(node.children) and node.kind in ("atomic", "pure")


def make_task(make_one: Callable[..., Task], node: Node) -> list[Task]:
    """Make the task of a node and what is chained onto it; return it, and its first successor if it has one."""
    made = make_one(FUNCTIONS[node.kind], (asdict(node),), retries=node.retries)
    return [made, *chain_all(made, node)[:1]]


def chain_all(made: Task, node: Node) -> list[Task]:
    after = []
    for following in node.then:
        func, args = FUNCTIONS[following.kind], (asdict(following),)
        options = {"force_chain": following.force, "pass_result": following.passed, "retries": following.retries}
        after.append(made.chain(func, args, **options))
        chain_all(after[-1], following)
    return after


def read(args: tuple[Any, ...]) -> tuple[Node, list[Any]]:
    *before, plain = args
    return node_of(plain), before


def node_of(plain: dict[str, Any]) -> Node:
    below = {name: [node_of(child) for child in plain[name]] for name in ("children", "siblings", "then")}
    return Node(**plain | below)


def leave_effect(cqt: Any) -> None:
    Group.objects.create(name=f"{cqt.id} {cqt._claimed.claims}")


@task(backoff=0)
def atomic(cqt: Any, *args: Any) -> Any:
    node, before = read(args)
    leave_effect(cqt)
    returned = act(cqt, node, before, cqt.row.retries)
    return returned[0] if hands_on_delayed(node) else returned


@task(backoff=0)
def pure(cqt: Any, *args: Any) -> Any:
    """An atomic body that does not use the database: its outcome is written in a batch."""
    node, before = read(args)
    returned = act(cqt, node, before, cqt._claimed.retries)
    return returned[0] if hands_on_delayed(node) else returned


def leave_effect_of_step(cqt: Any, number: int) -> int:
    Group.objects.create(name=f"{cqt.id} step {number}")  # these names are unique: a second one fails
    return number


def pause(cqt: Any, node: Node) -> None:
    """Do what the body passes on its way; it is left there, and comes back."""
    for number, kind in enumerate(node.pauses):
        if kind == "step":
            assert cqt.step(str(number), leave_effect_of_step, cqt, number) == number
        elif kind == "sleep":
            cqt.sleep(0)
        else:
            assert cqt.wait_event(str(number)) == f"for {cqt.id}"
    HIT["steps passed"] += any(kind == "step" for kind, _ in cqt.journal._done)


@task(atomic=False, backoff=0)
def plain(cqt: Any, *args: Any) -> Any:
    node, before = read(args)
    leave_effect(cqt)
    pause(cqt, node)
    return act(cqt, node, before, cqt.row.retries)


@task(backoff=0)
async def coroutine(cqt: Any, *args: Any) -> Any:
    node, before = read(args)
    await sync_to_async(leave_effect)(cqt)
    await sync_to_async(pause)(cqt, node)
    return act(cqt, node, before, await sync_to_async(lambda: cqt.row.retries)())


FUNCTIONS = {"atomic": atomic, "pure": pure, "plain": plain, "coroutine": coroutine}

# What must become of it


@dataclass
class End:
    """How a node must end."""

    status: str
    result: Any
    has_returned: bool


class Oracle:
    """What must become of a workflow, by the rules of the contract alone."""

    def __init__(self, root: Node) -> None:
        self.ends: dict[int, End] = {}
        self.run(root, None, [])

    def run(self, node: Node, family: list[str] | None, before: list[Any]) -> End:
        """A node runs; `family` collects how the subtasks of its parent end, None: it has no parent."""
        end = self.end(node, family, before)
        return self.note(node, end, family)

    def end(self, node: Node, family: list[str] | None, before: list[Any]) -> End:
        if node.fails > node.retries:
            return End("FAILURE", None, False)
        below: list[str] = []
        for sibling in node.siblings if family is not None else []:
            self.run(sibling, family, [])
        children = node.children[:1] if hands_on_delayed(node) else node.children
        ends = [self.run(child, below, []) for child in children]
        result: Any = [node.number, *before]
        if children and (node.returns == "child" or hands_on_delayed(node)):
            result = ends[0].result
        if children and node.returns == "chain":
            result = self.ends[(children[0].then or children)[0].number].result
        return End("SUCCESS" if set(below) <= {"SUCCESS"} else "INCOMPLETE", result, True)

    def note(self, node: Node, end: End, family: list[str] | None) -> End:
        self.ends[node.number] = end
        if family is not None:
            family.append(end.status)
        for after in node.then:
            if end.status == "SUCCESS" or after.force:
                self.run(after, family, [end.result] if after.passed else [])
            else:
                self.note(after, End("SKIPPED", None, False), family)
        return end


# The run

HIT: Counter[str] = Counter()
PATHS = {
    "claims held", "bodies run", "crashes", "rescued", "fenced bodies", "fenced outcomes", "batches", "given back",
    "settled by chance", "chained late", "chained onto an end", "retries", "SUCCESS", "FAILURE", "INCOMPLETE", "SKIPPED",
    "suspended", "steps passed", "sent before the wait", "sent to who waits", "step", "sleep", "event",
    "forced", "passed", "siblings", "returned child", "returned chain", "returned delayed", *KINDS,
}  # fmt: skip

TERMINAL_ROWS = f"SELECT id, to_jsonb(t)::text FROM cq_task t WHERE status IN ({sql_list(TERMINAL)})"
EARLY_PARENTS = f"""
SELECT p.id FROM cq_task p JOIN cq_task c ON c.parent_id = p.id
 WHERE p.status IN ({sql_list(TERMINAL)}) AND p.status <> 'REVOKED' AND c.status IN ({sql_list(UNFINISHED)})
"""


def query(statement: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@dataclass
class Worker:
    """One logical worker: a process on the register, claims that it holds, outcomes that it has not written yet."""

    process: UUID
    claims: list[Claimed] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


class Run:
    """One workflow on its way through the engine."""

    # Whose bodies may be suspended.
    pausing = (plain.name, coroutine.name)

    def __init__(self, root: Node, workers: int = 3) -> None:
        self.clear()
        self.node = root
        self.names = registry.names()
        self.workers = [Worker(make.process()) for _ in range(workers)]
        self.zombies: list[Worker] = []
        self.over: dict[UUID, str] = {}
        self.claims: Counter[UUID] = Counter()
        self.root = FUNCTIONS[root.kind].delay_args((asdict(root),), retries=root.retries)
        self.is_chained = False

    @staticmethod
    def clear() -> None:
        for table in ("pastattempt", "step", "event", "task", "settlerequest", "process", "worker"):
            query(f"DELETE FROM cq_{table}")
        query("DELETE FROM auth_group")

    def step(self, action: str, number: int) -> None:
        worker = self.workers[number % len(self.workers)]
        getattr(self, action)(worker, number)
        self.check_always()

    def hold(self, worker: Worker, number: int) -> None:
        """Claim, and leave it at that for now."""
        claimed = self.claim(worker, 1 + number % 3)
        HIT["claims held"] += len(claimed)

    def work(self, worker: Worker, number: int) -> None:
        """Run what is claimed (or claim something) and write it."""
        if worker.claims or self.claim(worker, 1):
            self.run_body(worker, number)
        self.write(worker, number)

    def run(self, worker: Worker, number: int) -> None:
        """Run what is claimed, and write it later."""
        if worker.claims or self.claim(worker, 1):
            self.run_body(worker, number)

    def write(self, worker: Worker, _: int) -> None:
        outcomes, worker.outcomes = worker.outcomes, []
        if outcomes:
            moved = engine.finish(outcomes).moved
            HIT["batches"] += len(outcomes) > 1
            HIT["fenced outcomes"] += len({outcome.task.id for outcome in outcomes} - {row.id for row in moved})
            HIT["retries"] += sum(row.status == "RETRY" for row in moved)
            HIT["suspended"] += sum(row.status == "SUSPENDED" for row in moved)

    def give_back(self, worker: Worker, _: int) -> None:
        if worker.claims or self.claim(worker, 2):
            HIT["given back"] += len(engine.finish([given_back(claimed) for claimed in worker.claims]).moved)
            worker.claims = []

    def crash(self, worker: Worker, number: int) -> None:
        """A worker is declared dead, and does not know it: it goes on later."""
        HIT["crashes"] += 1
        blamed = [claimed.id for claimed in worker.claims][: number % 3]
        engine.end_process(worker.process, blamed)
        HIT["rescued"] += len(engine.rescue())
        self.workers[self.workers.index(worker)] = Worker(make.process())
        self.zombies.append(worker)

    def overtake(self, worker: Worker, number: int) -> None:
        """A worker dies while it holds a task, others take that over, and the dead one goes on."""
        if worker.claims or self.claim(worker, 1):
            self.crash(worker, number)
            self.promote(worker, number)
            if number % 2:
                self.work(self.workers[number % len(self.workers)], number)
            self.haunt(worker, len(self.zombies) - 1)

    def haunt(self, _: Worker, number: int) -> None:
        """A dead worker goes on: it runs what it held, and writes what it had."""
        if self.zombies:
            zombie = self.zombies[number % len(self.zombies)]
            while zombie.claims:
                self.run_body(zombie, 0)
            self.write(zombie, 0)

    def settle(self, _: Worker, number: int) -> None:
        if number % 2:
            HIT["settled by chance"] += settle.settle(settle.asked()[:number]).moved
        else:
            HIT["settled by chance"] += settle.settle_all().moved

    def promote(self, _: Worker, number: int) -> None:
        Task.objects.filter(status="RETRY").update(run_after=Now())
        engine.promote()

    def send(self, _: Worker, number: int) -> None:
        """Send a task an event that it waits for, or will."""
        loose = Task.objects.unfinished().filter(name__in=self.pausing)
        if wanted := [task for task in loose if "event" in task.args[-1]["pauses"]]:
            self.send_to(wanted[number % len(wanted)])

    def send_to(self, task: Task) -> None:
        event = task.awaits or task.args[-1]["pauses"].index("event")
        unwritten = [outcome.task.id for worker in self.workers for outcome in worker.outcomes if outcome.wait]
        is_accepted = task.send_event(str(event), f"for {task.id}")
        before = "while it suspends" if task.id in unwritten else "before the wait"
        when = "to who waits" if task.status == "SUSPENDED" else before
        HIT[f"sent {when}"] += is_accepted

    def chain(self, _: Worker, number: int) -> None:
        """Chain onto the root what is to follow it: at any time, from outside."""
        if not self.is_chained:
            self.is_chained = True
            self.root.refresh_from_db()
            chained = chain_all(self.root, self.node)
            HIT["chained late"] += len(chained)
            HIT["chained onto an end"] += len(chained) * self.root.is_done

    def claim(self, worker: Worker, room: int) -> list[Claimed]:
        for suspects in (False, True):
            for queue in engine.ready_queues():
                if claimed := make.take(worker.process, room, queue, suspects=suspects):
                    for one in claimed:
                        assert one.claims > self.claims[one.id]
                        self.claims[one.id] = one.claims
                    worker.claims += claimed
                    return claimed
        return []

    def run_body(self, worker: Worker, number: int) -> None:
        claimed = worker.claims.pop(number % len(worker.claims))
        is_coroutine = registry.get(claimed.name).is_coroutine
        ran = async_to_sync(executor.aexecute)(claimed) if is_coroutine else executor.execute(claimed)
        HIT["bodies run"] += 1
        if ran.outcome is not None:
            worker.outcomes.append(ran.outcome)
        elif ran.finished is None:
            HIT["fenced bodies"] += 1

    def check_always(self) -> None:
        """What holds between any two steps."""
        over = dict(query(TERMINAL_ROWS))
        assert query(EARLY_PARENTS) == []
        assert {task_id: over[task_id] for task_id in self.over} == self.over
        self.over = over

    @property
    def chains_onto_the_end(self) -> bool:
        """Say whether what comes from outside is chained onto the root when that has ended."""
        return self.node.force

    def come_to_rest(self) -> None:
        for _ in range(100):
            for worker in self.workers:
                if not self.chains_onto_the_end:
                    self.chain(worker, 0)
                for act in (self.settle, self.promote, self.work, self.haunt):
                    act(worker, 0)
            for waiting in Task.objects.filter(status="SUSPENDED", awaits__isnull=False):
                self.send_to(waiting)
            self.check_always()
            if not Task.objects.unfinished().exists() and not SettleRequest.objects.exists():
                if not self.chains_onto_the_end or self.is_chained:
                    return
                self.chain(self.workers[0], 0)
        raise AssertionError(f"it does not come to rest: {list(Task.objects.unfinished())}")

    def check(self) -> None:
        """Compare what became of the workflow with what must become of it."""
        expected = Oracle(self.node).ends
        found = {row.args[-1]["number"]: row for row in Task.objects.all()}
        effects = Counter(UUID(name.split()[0]) for name in Group.objects.values_list("name", flat=True))

        assert {n: (row.status, row.result) for n, row in found.items()} == {
            n: (end.status, end.result) for n, end in expected.items()
        }
        assert Task.objects.count() == len(found)
        for number, row in found.items():
            returned = expected[number].has_returned
            assert (row.outcome == "success") is returned
            assert row.retries == min(row.args[-1]["fails"], row.args[-1]["retries"]) * (row.attempt > 0)
            if row.name == atomic.name:
                assert effects[row.id] == returned
            elif row.name != pure.name:
                assert effects[row.id] >= returned
            if row.parent is not None and row.parent.status != "REVOKED":
                assert row.finished_at <= row.parent.finished_at
            self.check_pauses(row)
            if row.previous is not None and row.started_at is not None:
                assert row.previous.finished_at <= row.started_at
            self.count(row)

    @staticmethod
    def check_pauses(row: Task) -> None:
        """Each is there once, and what a step has written too."""
        passes = row.name in (plain.name, coroutine.name) and row.attempt > 0
        kinds = row.args[-1]["pauses"] if passes else []
        assert [step.kind for step in row.steps.all()] == kinds
        assert all(step.ended_at or step.kind == "sleep" for step in row.steps.all())
        assert Group.objects.filter(name__startswith=f"{row.id} step").count() == kinds.count("step")
        HIT.update(kinds)

    @staticmethod
    def count(row: Task) -> None:
        node = row.args[-1]
        HIT[row.status] += 1
        HIT[node["kind"]] += 1
        HIT["forced"] += row.force_chain and row.status == "SUCCESS" and row.previous.status != "SUCCESS"
        HIT["passed"] += row.pass_result and row.status == "SUCCESS"
        HIT["siblings"] += len(node["siblings"]) * (row.parent_id is not None)
        if row.result_of_id is not None:
            HIT[f"returned {node['returns']}"] += 1


ACTIONS = [
    "work", "work", "hold", "run", "run", "write", "crash", "overtake", "haunt", "settle", "promote", "give_back", "chain", "send",
]  # fmt: skip
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), min_size=20, max_size=40)
EXAMPLES = int(os.environ.get("CQ_EXAMPLES", "0"))
thorough = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


@pytest.fixture(autouse=True)
def many_crashes_are_no_end(settings: Any) -> None:
    settings.CQ = {"MAX_CRASHES": 1000}


def test_whatever_workers_do_a_workflow_ends_as_its_rules_say() -> None:
    @thorough
    @given(workflow=workflows, steps=steps)
    def ends_as_its_rules_say(workflow: Node, steps: list[tuple[str, int]]) -> None:
        run = Run(workflow)
        for action, number in steps:
            run.step(action, number)
        run.come_to_rest()
        run.check()

    HIT.clear()
    ends_as_its_rules_say()

    assert PATHS - HIT.keys() == set() == {path for path in PATHS if HIT[path] <= 0}


def test_a_revoke_at_any_time_stops_all_that_has_not_ended_and_undoes_nothing() -> None:
    @settings(thorough, max_examples=max(30, EXAMPLES // 3))
    @given(workflow=workflows, before=steps, after=steps, where=st.integers(0, 30))
    def stops_all(workflow: Node, before: list[Any], after: list[Any], where: int) -> None:
        run = Run(workflow)
        run.chain(run.workers[0], 0)
        for action, number in before:
            run.step(action, number)
        target = list(Task.objects.all())[where % Task.objects.count()]
        was_over = target.is_done
        HIT["stopped"] += target.revoke()
        for action, number in after:
            run.step(action, number)
        run.come_to_rest()

        target.refresh_from_db()
        assert target.is_done
        assert was_over or target.status == "REVOKED"
        effects = Counter(UUID(name.split()[0]) for name in Group.objects.values_list("name", flat=True))
        for row in Task.objects.select_related("parent", "previous"):
            HIT[row.status] += 1
            if row.name == atomic.name:
                assert effects[row.id] == (row.outcome == "success")
            for above in (row.parent, row.previous):
                if above is not None and above.status == "REVOKED":
                    assert row.status in ("REVOKED", "SKIPPED") or row.finished_at <= above.finished_at

    HIT.clear()
    stops_all()

    assert HIT["stopped"] > 10 < HIT["REVOKED"]
