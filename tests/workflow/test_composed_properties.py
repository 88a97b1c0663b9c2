"""Random compositions under random interleavings of workers that hold claims, die and come back too late.

A `Spec` is a tree of chains, groups, chords and functions that make more of it. `Oracle` says what must become of it; `Answers` what
must have followed from what became of it: errorbacks and compensations. The workers are those of `test_properties`.
`CQ_EXAMPLES=5000` runs more, and other ones each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group as Effect
from django.db.models import F, Q
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from cq import FailedMember, Signature, chain, chord, group, registry, task
from cq.models import Errorback, Task
from cq.models.attempt import Attempt
from cq.states import TERMINAL, sql_list
from tests.rows import make
from tests.workflow.test_properties import EXAMPLES, HIT, Run, Worker, query, steps, thorough
from tests.workflow.test_properties import many_crashes_are_no_end as many_crashes_are_no_end

pytestmark = pytest.mark.django_db(transaction=True)

CALLS = ("FAILURE", "INCOMPLETE", "LOST", "EXPIRED")
FAIL_FAST = "Another subtask of its parent failed."

# The composition


@dataclass
class Spec:
    """A part of a composition. What `parts` are: links, members (of a chord: and its callback, last), or what a body makes."""

    what: str  # chain, group, chord, or the function of a single task
    parts: list[Spec] = field(default_factory=list)
    fails: int = 0
    retries: int = 0
    force: bool = False
    passed: bool = False
    fail_fast: bool = False
    ignores: bool = False
    told: bool = False
    pauses: list[str] = field(default_factory=list)
    returns: bool = False
    number: int = 0

    def below(self) -> Iterator[Spec]:
        for part in self.parts:
            yield part
            yield from part.below()


def numbered(root: Spec) -> Spec:
    for number, spec in enumerate([root, *root.below()]):
        spec.number = number + 1
    return root


FUNCTIONS = ("atomic", "pure", "plain", "coroutine", "undone")
singles: dict[str, Any] = {
    "what": st.sampled_from(FUNCTIONS),
    "fails": st.sampled_from([0, 0, 0, 0, 1, 2]),
    "retries": st.sampled_from([0, 1]),
    "force": st.booleans(),
    "passed": st.booleans(),
    "told": st.sampled_from([False, False, True]),
    # What a body that commits as it goes is suspended for; an event that is late never comes.
    "pauses": st.sampled_from([[], [], [], ["sleep"], ["event"], ["sleep", "event"], ["event", "late"]]),
}
judges: dict[str, Any] = {
    "fail_fast": st.sampled_from([False, False, True]),
    "ignores": st.sampled_from([False, False, False, True]),
}
leaves = st.builds(Spec, **singles)


def grown(parts: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    some = st.lists(parts, min_size=1, max_size=3)
    few = st.lists(parts, max_size=3)
    bodies = st.sampled_from([0, 0, 0, 0, 1])
    marks = {name: singles[name] for name in ("force", "told")}
    groups = st.builds(Spec, what=st.just("group"), parts=few, **marks, **judges)
    chords = st.builds(lambda header, callback: Spec("chord", [header, callback]), groups, parts)
    makers = st.builds(Spec, **singles | {"fails": bodies}, **judges, returns=st.booleans(), parts=some)
    return st.one_of(st.builds(Spec, what=st.just("chain"), parts=some), groups, chords, makers)


compositions = grown(st.recursive(leaves, grown, max_leaves=7)).map(numbered)


def signature(spec: Spec, *, behind: bool = False, free: bool = True) -> Signature:
    """Write it down; `behind` something, and `free` to say whether it is forced, which else its group does."""
    forced = {"force_chain": True} if behind and free and spec.force else {}
    named = {"subject": Effect(pk=spec.number)}
    match spec.what:
        case "chain":
            first, *rest = spec.parts
            made = chain(signature(first, behind=behind, free=free), *(signature(link, behind=True) for link in rest))
        case "chord":
            header, callback = spec.parts
            made = chord(signature(header, behind=behind, free=free), signature(callback, behind=True))
        case "group":
            judging = {"fail_fast": spec.fail_fast, "ignore_failures": spec.ignores}
            members = [signature(part, behind=behind, free=False) for part in spec.parts]
            made = group(members).using(**judging, **forced, **named)
        case _:
            function = registry.get(f"composed.{spec.what}")
            options = {"retries": spec.retries, "fail_fast": spec.fail_fast, "ignore_failures": spec.ignores} | named
            passing = {"pass_result": spec.passed} if behind else {}
            made = FUNCTION[function.name].s(asdict(spec)).using(**options, **forced, **passing)
    return made.on_error(notes.s(spec.number)) if spec.told else made


def read(plain: dict[str, Any]) -> Spec:
    return Spec(**plain | {"parts": [read(part) for part in plain["parts"]]})


# Its bodies


def act(cqt: Any, args: tuple[Any, ...], errors: int) -> Any:
    *before, plain = args
    spec = read(plain)
    if errors < spec.fails:
        raise ValueError(f"error {errors + 1}")
    made = [cqt.subtask(signature(part)) for part in spec.parts]
    return made[-1] if spec.returns and made else [spec.number, *before]


@task("composed.notes")
def notes(cqt: Any, failed_id: Any, error: str, number: int) -> Any:
    return [number, error]


@task("composed.undo")
def undo(cqt: Any, task_id: Any, result: Any) -> Any:
    return result


@task("composed.atomic", backoff=0)
def atomic(cqt: Any, *args: Any) -> Any:
    Effect.objects.create(name=f"{cqt.id} {cqt._claimed.claims}")
    return act(cqt, args, cqt.row.retries)


@task("composed.undone", backoff=0, compensate=undo)
def undone(cqt: Any, *args: Any) -> Any:
    return act(cqt, args, cqt._claimed.retries)


@task("composed.pure", backoff=0)
def pure(cqt: Any, *args: Any) -> Any:
    return act(cqt, args, cqt._claimed.retries)


@task("composed.plain", backoff=0, atomic=False, compensate=undo)
def plain(cqt: Any, *args: Any) -> Any:
    for number, kind in enumerate(args[-1]["pauses"]):
        if kind == "sleep":
            cqt.sleep(0)
        else:
            assert cqt.wait_event(str(number), TIMEOUT[kind]) == f"for {cqt.id}"
    return act(cqt, args, cqt.row.retries)


@task("composed.coroutine", backoff=0)
async def coroutine(cqt: Any, *args: Any) -> Any:
    for number, kind in enumerate(args[-1]["pauses"]):
        if kind == "sleep":
            await cqt.asleep(0)
        else:
            assert await cqt.await_event(str(number), TIMEOUT[kind]) == f"for {cqt.id}"
    return act(cqt, args, await sync_to_async(lambda: cqt.row.retries)())


FUNCTION = {function.name: function for function in (atomic, undone, pure, plain, coroutine)}
UNDONE = (undone.name, plain.name)
PAUSING = (plain.name, coroutine.name)
TIMEOUT = {"event": None, "late": 0}

# What must become of it


@dataclass
class End:
    """How a part must end; `...` in a result stands for anything."""

    status: str
    result: Any = None


class Oracle:
    """What must become of a composition, by the rules of the contract alone. Whom a `fail_fast` may have stopped is `loose`."""

    def __init__(self, root: Spec) -> None:
        self.ends: dict[int, End] = {}
        self.loose: set[int] = set()
        self.run(root, None, [])

    def run(
        self, spec: Spec, before: End | None, family: list[End], force: bool | None = None, takes: bool | None = None
    ) -> End:
        """It comes behind something, or not; `family` collects the ends of its parent's subtasks. What its group says is `force`."""
        if spec.what == "chain":
            end = self.run(spec.parts[0], before, family, force, takes)
            for link in spec.parts[1:]:
                end = self.run(link, end, family)
            return end
        if spec.what == "chord":
            header = self.run(spec.parts[0], before, family, force, takes)
            return self.run(spec.parts[1], header, family)
        forced = spec.force if force is None else force
        skipped = before is not None and before.status != "SUCCESS" and not forced
        ends, below = [], []
        if spec.what == "group":
            ends = [self.run(part, before, below, forced, takes) for part in spec.parts]
            end = self.judge(spec, below, [self.value(end) for end in ends])
        elif spec.fails > spec.retries or (f"composed.{spec.what}" in PAUSING and "late" in spec.pauses):
            end = End("FAILURE")
        else:
            ends = [] if skipped else [self.run(part, None, below) for part in spec.parts]
            own = [spec.number, *([before.result] if before is not None and spec.passed else [])]
            end = self.judge(spec, below, ends[-1].result if spec.returns and ends else own)
        if skipped:
            end = End("SKIPPED", end.result if spec.what == "group" else None)
        self.ends[spec.number] = end
        family.append(end)
        return end

    def judge(self, spec: Spec, below: list[End], result: Any) -> End:
        fails = any(end.status != "SUCCESS" for end in below)
        if fails and spec.fail_fast:
            self.loose.update(part.number for part in spec.below())
            result = ... if spec.what == "group" or spec.returns else result
        return End("INCOMPLETE" if fails and not spec.ignores else "SUCCESS", result)

    @staticmethod
    def value(end: End) -> Any:
        return end.result if end.status == "SUCCESS" else {"failed": end.status}


def matches(expected: Any, found: Any) -> bool:
    if expected is ...:
        return True
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(matches, expected, found))
    if isinstance(found, FailedMember):
        return bool(expected == {"failed": found.status})
    return bool(expected == found)


# The run

SUSPENDING = {
    "suspended", "suspended in a group", "suspended in a nested group", "suspended in a link", "suspended behind a group",
    "suspended below a body", "sleep", "event", "late", "sent before the wait", "sent while it suspends", "sent to who waits",
    "died before its suspension was written", "died while it was suspended", "died in a resumed run", "suspended and tried again",
    "stopped by a failure while suspended", "returned before a revoke came down",
}  # fmt: skip
PATHS = {
    "claims held", "bodies run", "crashes", "rescued", "fenced bodies", "fenced outcomes", "batches", "retries", "SUCCESS", "FAILURE",
    "INCOMPLETE", "SKIPPED", "REVOKED", "chains", "groups", "groups of nothing", "groups below groups", "groups skipped",
    "groups incomplete", "chords", "groups forced", "members forced", "failed members handed on", "lists handed on", "errorbacks",
    "errorbacks not called", "undone", "undone of one parent", "stopped by a failure", "failures ignored", "made by bodies",
    "handed on to a group", *FUNCTIONS, *SUSPENDING,
}  # fmt: skip
ENDED = f"SELECT id, (to_jsonb(t) - 'compensated')::text FROM cq_task t WHERE status IN ({sql_list(TERMINAL)})"


class ComposedRun(Run):
    """One composition on its way through the engine."""

    pausing = PAUSING

    def __init__(self, spec: Spec, workers: int = 3) -> None:
        self.clear()
        self.suspended: set[tuple[UUID, UUID]] = set()
        self.late: set[UUID] = set()
        self.coming_down: set[UUID] = set()
        query("DELETE FROM cq_errorback")
        self.spec = spec
        self.names = registry.names()
        self.workers = [Worker(make.process()) for _ in range(workers)]
        self.zombies: list[Worker] = []
        self.over: dict[UUID, str] = {}
        self.claims: Counter[UUID] = Counter()
        self.carrier = signature(spec).delay()
        self.root = self.carrier.root

    chains_onto_the_end = False

    def chain(self, _: Worker, number: int) -> None:
        """Nobody comes later."""

    def send_to(self, task: Task) -> None:
        """Send what is to come: what is late never does."""
        if task.awaits is None or task.args[-1]["pauses"][int(task.awaits)] != "late":
            super().send_to(task)

    def write(self, worker: Worker, number: int) -> None:
        leaving = [outcome.task.id for outcome in worker.outcomes if outcome.wait]
        super().write(worker, number)
        asleep = Task.objects.filter(pk__in=leaving, status="SUSPENDED") if leaving else []
        self.suspended |= {(worker.process, task.id) for task in asleep}

    def crash(self, worker: Worker, number: int) -> None:
        held = Task.objects.filter(pk__in=[claimed.id for claimed in worker.claims])
        HIT["died in a resumed run"] += held.filter(suspended_claim=F("claims") - 1).count()
        HIT["died before its suspension was written"] += sum(outcome.wait is not None for outcome in worker.outcomes)
        left = [task_id for process, task_id in self.suspended if process == worker.process]
        HIT["died while it was suspended"] += Task.objects.filter(pk__in=left, status="SUSPENDED").count()
        super().crash(worker, number)

    def check_always(self) -> None:
        """What holds between any two steps: what has ended stays as it is, and no parent has ended before its subtasks."""
        over = dict(query(ENDED))
        assert query(EARLY) == []
        assert {task_id: over[task_id] for task_id in self.over} == self.over
        self.over = over
        self.check_revokes()

    def check_revokes(self) -> None:
        """A revoke goes down level by level: below a revoked task a body may return until somebody carries that on, and none after."""
        below = query(BELOW_REVOKED)
        assert {parent_id for parent_id, is_over, is_asked, _ in below if not is_over and not is_asked} == set()
        late = {child_id: parent_id for parent_id, is_over, _, child_id in below if is_over}
        assert {late[child_id] for child_id in late.keys() - self.late} <= self.coming_down
        HIT["returned before a revoke came down"] += len(late.keys() - self.late)
        self.late |= late.keys()
        self.coming_down = {parent_id for (parent_id,) in query(COMING_DOWN)}

    def check(self) -> None:
        """Compare what became of the composition with what must become of it."""
        count(self.spec, check_ends(self.spec, self.root))
        self.count_suspensions()

    def count_suspensions(self) -> None:
        ids = {task_id for _, task_id in self.suspended}
        for row in Task.objects.filter(pk__in=ids).select_related("parent", "previous"):
            above = row.parent and row.parent.name
            HIT["suspended in a group"] += above == "cq.group"
            HIT["suspended in a nested group"] += above == "cq.group" and row.parent.parent_id is not None
            HIT["suspended in a link"] += row.previous is not None
            HIT["suspended behind a group"] += row.previous is not None and row.previous.name == "cq.group"
            HIT["suspended below a body"] += above is not None and above != "cq.group"
            HIT["suspended and tried again"] += row.retries > 0
            is_stopped = row.status == "REVOKED" and row.suspended_claim == row.claims
            HIT["revoked while suspended"] += is_stopped
            HIT["stopped by a failure while suspended"] += is_stopped and row.reason == FAIL_FAST
            HIT.update(row.args[-1]["pauses"])


EARLY = f"""
SELECT p.id FROM cq_task p JOIN cq_task c ON c.parent_id = p.id
 WHERE p.status IN ({sql_list(TERMINAL)}) AND p.status <> 'REVOKED' AND c.status NOT IN ({sql_list(TERMINAL)})
"""


def check_ends(spec: Spec, root: Task) -> dict[int, Task]:
    """Compare how each part has ended with how it must; return what was found, by number."""
    oracle = Oracle(spec)
    found = {int(row.subject_ref.split(":")[1]): row for row in members(root).exclude(subject=None)}
    for number, end in oracle.ends.items():
        if number not in found:
            assert number in oracle.loose
            continue
        row = found[number]
        if row.status != end.status:
            assert number in oracle.loose, (number, end, row.status, row.error)
            assert row.status in ("REVOKED", "SKIPPED")
        elif end.status not in ("SKIPPED", "INCOMPLETE") or row.name == "cq.group":
            assert matches(end.result if end.status != "SKIPPED" else None, row.result), (number, end, row.result)
    assert found.keys() <= oracle.ends.keys()
    return found


def members(root: Task) -> Any:
    return Task.objects.filter(Q(pk=root.pk) | Q(workflow=root)).select_related("parent", "previous")


# Which tasks are revoked, and somebody is still to look what is below and after them?
COMING_DOWN = (
    "SELECT id FROM cq_task t WHERE status = 'REVOKED' AND EXISTS (SELECT FROM cq_settlerequest WHERE task_id = t.id)"
)
# What below a revoked task is unfinished, or has had a body return after that was revoked?
BELOW_REVOKED = f"""
SELECT p.id, c.status IN ({sql_list(TERMINAL)}), EXISTS (SELECT 1 FROM cq_settlerequest WHERE task_id = p.id), c.id
  FROM cq_task p JOIN cq_task c ON c.parent_id = p.id
 WHERE p.status = 'REVOKED'
   AND (c.status NOT IN ({sql_list(TERMINAL)}) OR c.status NOT IN ('REVOKED', 'SKIPPED') AND c.ended_at > p.finished_at)
"""


def count(root: Spec, found: dict[int, Task]) -> None:
    for spec in (root, *root.below()):
        HIT[f"{spec.what}s" if spec.what in ("chain", "group", "chord") else spec.what] += 1
        if spec.what not in ("chain", "chord") and spec.number in found:
            row = found[spec.number]
            HIT[row.status] += 1
            HIT["stopped by a failure"] += row.reason == FAIL_FAST
            HIT["groups of nothing"] += spec.what == "group" and not spec.parts
            HIT["groups below groups"] += row.name == "cq.group" == (row.parent and row.parent.name)
            HIT["groups skipped"] += (row.name, row.status) == ("cq.group", "SKIPPED")
            HIT["groups incomplete"] += (row.name, row.status) == ("cq.group", "INCOMPLETE")
            is_forced = row.force_chain and row.status == "SUCCESS" and row.previous.status != "SUCCESS"
            HIT["groups forced"] += row.name == "cq.group" and is_forced
            HIT["members forced"] += row.member is not None and is_forced
            is_list = row.pass_result and row.previous.name == "cq.group" and row.status == "SUCCESS"
            HIT["lists handed on"] += is_list
            HIT["failed members handed on"] += is_list and "FailedMember" in repr(row.previous.result)
            HIT["failures ignored"] += spec.ignores and row.status == "SUCCESS" and "FAILURE" in states_below(row)
            HIT["made by bodies"] += row.parent is not None and row.parent.name != "cq.group"
            HIT["handed on to a group"] += row.result_of is not None and row.result_of.name == "cq.group"


def states_below(row: Task) -> list[str]:
    return list(row.subtasks.values_list("status", flat=True))


def check_attempts() -> None:
    """An atomic body's work is there once if it has returned; what has ended has no open attempt; each pause was passed once."""
    effects = Counter(UUID(name.split()[0]) for name in Effect.objects.values_list("name", flat=True))
    unended = set(Attempt.objects.filter(outcome=None).values_list("task_id", flat=True))
    for row in Task.objects.filter(name__in=FUNCTION).prefetch_related("steps"):
        has_returned = row.outcome == "success"
        assert effects[row.id] == (has_returned and row.name == atomic.name)
        assert row.id not in unended, (row.status, row.reason)
        kinds = [step.kind for step in row.steps.all()]
        pauses = row.args[-1]["pauses"] if row.name in PAUSING else []
        wanted = ["sleep" if kind == "sleep" else "event" for kind in pauses]
        assert kinds == wanted[: len(kinds)]
        assert len(kinds) == len(wanted) or not has_returned


def check_answers(root: Spec, first: Task, stopped: Container[UUID] = ()) -> None:
    """Whatever became of the rows, this must have followed: each errorback once, and what had succeeded undone, in order.

    `stopped` are compensations that somebody has revoked, with what they come after.
    """
    rows = {row.id: row for row in members(first)}
    called = Counter((row.args[0], row.args[2]) for row in rows.values() if row.name == notes.name)
    expected = {
        (row.id, row.args[-1]["number"])
        for row in rows.values()
        if row.name in FUNCTION and row.args[-1]["told"] and row.status in CALLS
    }
    told = {spec.number for spec in (root, *root.below()) if spec.what == "group" and spec.told}
    numbers = {row.id: int(row.subject_ref.split(":")[1]) for row in rows.values() if row.name == "cq.group"}
    expected |= {(id_, number) for id_, number in numbers.items() if number in told and rows[id_].status in CALLS}
    assert called == Counter(expected)
    HIT["errorbacks"] += len(called)
    HIT["errorbacks not called"] += Errorback.objects.filter(called=False).count()

    undoing = {row.args[0]: row for row in rows.values() if row.name == undo.name}
    assert len(undoing) == sum(row.name == undo.name for row in rows.values())
    for parent in rows.values():
        below = [row for row in rows.values() if row.parent_id == parent.id and row.name in UNDONE]
        below = sorted((row for row in below if row.status == "SUCCESS"), key=lambda row: (row.finished_at, row.id))
        undone = [row for row in reversed(below) if row.id in undoing]
        assert len(undone) == (0 if parent.status == "SUCCESS" else len(below))
        before = parent
        for row in undone:
            answer = undoing.pop(row.id)
            if answer.id in stopped:
                continue
            assert answer.status == "SUCCESS"
            assert answer.result == row.result
            assert before.finished_at <= answer.started_at
            before = answer
        HIT["undone"] += len(undone)
        HIT["undone of one parent"] += len(undone) > 1
    assert {rows[task_id].parent_id for task_id in undoing} <= {None}


# What random ones come to seldom.
SKIPPED = numbered(
    Spec(
        "chain", [Spec("atomic", fails=1), Spec("group", [Spec("pure"), Spec("chord", [Spec("group"), Spec("pure")])])]
    )
)
SAGA = numbered(
    Spec(
        "pure",
        [Spec("undone"), Spec("undone"), Spec("pure", fails=1, told=True), Spec("group", [Spec("undone")])],
        returns=True,
    )
)
FORCED = numbered(
    Spec("chain", [
        Spec("chord", [Spec("group", [Spec("pure", fails=1), Spec("pure")], ignores=True), Spec("plain", passed=True)]),
        Spec("atomic", fails=1),
        Spec("group", [Spec("plain"), Spec("group", [Spec("pure", fails=1)], ignores=True)], force=True),
        Spec("coroutine", force=True, passed=True),
    ])
)  # fmt: skip
FAST = numbered(Spec("group", [Spec("atomic", fails=1), Spec("pure"), Spec("undone", [Spec("pure")])], fail_fast=True))
# What is forced in a group that is skipped is undone: that group is looked at once more.
UNWOUND = numbered(
    Spec("chord", [
        Spec("group", [Spec("atomic", fails=1)]),
        Spec("group", [Spec("atomic"), Spec("chain", [Spec("atomic"), Spec("plain", force=True)])]),
    ])
)  # fmt: skip


def single(what: str, *pauses: str, **fields: Any) -> Spec:
    return Spec(what, pauses=list(pauses), **fields)


# One of a group fails while others sleep and wait; behind it, what is forced waits too.
ASLEEP = numbered(
    Spec("chain", [
        Spec("group", [
            Spec("atomic", fails=1), single("plain", "event"), single("coroutine", "sleep", "event", fails=1, retries=1),
            Spec("group", [single("coroutine", "event", "late", told=True), single("plain", "sleep", "event")], ignores=True),
        ], fail_fast=True, told=True),
        single("plain", "event", force=True, passed=True, parts=[single("coroutine", "sleep")]),
    ])
)  # fmt: skip
AWAKE = numbered(
    Spec("group", [
        Spec("pure", [single("plain", "sleep")]),
        Spec("chain", [single("plain", "sleep", fails=1, retries=1), single("coroutine", "event", passed=True)]),
        Spec("group", [single("plain", "event"), single("coroutine", "event", "late", retries=1)]),
    ])
)  # fmt: skip
INTERRUPTED = [
    ("run", 0), ("run", 1), ("send", 1), ("crash", 1), *[("work", 0)] * 3, ("promote", 0), ("hold", 2), ("crash", 2),
]  # fmt: skip
WAITING = numbered(single("plain", "event"))


def nested(fails: int) -> Spec:
    """Make one whose first member fails or is revoked; that is on its way to the group in it when a body there returns."""
    below = Spec("group", [Spec("atomic"), Spec("atomic")])
    return numbered(Spec("group", [Spec("atomic", fails=fails), Spec("atomic"), below], fail_fast=True))


# Made simpler is only what somebody looks at by hand: that takes minutes.
composed = settings(thorough, phases=thorough.phases if EXAMPLES else (Phase.explicit, Phase.generate))


def test_whatever_workers_do_a_composition_ends_as_its_rules_say() -> None:
    @settings(composed, max_examples=EXAMPLES or 40)
    @given(spec=compositions, steps=steps)
    @example(spec=SKIPPED, steps=[("work", 0)])
    @example(spec=SAGA, steps=[("overtake", 1)] * 6)
    @example(spec=FORCED, steps=[("run", 0)] * 3)
    @example(spec=FAST, steps=[("work", 0), ("settle", 2)])
    @example(spec=UNWOUND, steps=[("work", 0)] * 20)
    @example(spec=ASLEEP, steps=[("work", 1)] * 4 + [("work", 0), ("settle", 0)])
    @example(spec=AWAKE, steps=INTERRUPTED)
    @example(spec=WAITING, steps=[("run", 0), ("send", 0), ("write", 0)])
    @example(spec=WAITING, steps=[("work", 0), ("crash", 0)])
    @example(spec=nested(1), steps=[("hold", 0), ("hold", 2), ("work", 0), ("settle", 3), ("run", 2)])
    def ends_as_its_rules_say(spec: Spec, steps: list[tuple[str, int]]) -> None:
        run = ComposedRun(spec)
        for action, number in steps:
            run.step(action, number)
        run.come_to_rest()
        run.check()
        check_attempts()
        check_answers(spec, run.root)

    HIT.clear()
    ends_as_its_rules_say()

    assert {path for path in PATHS if HIT[path] <= 0} == set()


def test_a_revoke_at_any_time_stops_all_below_and_undoes_what_had_succeeded() -> None:
    @settings(composed, max_examples=EXAMPLES // 3 or 15)
    @given(spec=compositions, before=steps, after=steps, where=st.integers(0, 30))
    @example(spec=SAGA, before=[("work", 0)] * 6, after=[], where=3)
    @example(spec=ASLEEP, before=[("work", 0)] * 8, after=[("promote", 0)], where=4)
    @example(
        spec=SAGA, before=[("work", 0)] * 3 + [("settle", 0)] + [("work", 0)] * 2 + [("settle", 0)], after=[], where=12
    )
    @example(spec=nested(0), before=[("hold", 2)], after=[("settle", 3), ("run", 2)], where=1)
    def stops_all(spec: Spec, before: list[Any], after: list[Any], where: int) -> None:
        run = ComposedRun(spec)
        for action, number in before[: where * 2]:
            run.step(action, number)
        target = list(Task.objects.exclude(name__in=[notes.name, undo.name]))[where % 3 % Task.objects.count()]
        was_over = target.is_done
        HIT["revoked"] += target.revoke()
        undoing = Task.objects.filter(name=undo.name, status="REVOKED") if was_over else Task.objects.none()
        stopped = set(undoing.values_list("pk", flat=True))
        HIT["undoing revoked"] += len(stopped)
        for action, number in after:
            run.step(action, number)
        run.come_to_rest()
        run.count_suspensions()
        check_attempts()
        check_answers(spec, run.root, stopped)

    HIT.clear()
    stops_all()

    assert HIT["revoked"] > 5
    paths = ("undone", "undoing revoked", "revoked while suspended", "returned before a revoke came down")
    assert {path for path in paths if HIT[path] <= 0} == set()
