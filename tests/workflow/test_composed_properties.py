"""Random compositions under random interleavings of workers that hold claims, die and come back too late.

A `Spec` is a tree of chains, groups, chords and functions that make more of it. `Oracle` says what must become of it; `Answers` what
must have followed from what became of it: errorbacks and compensations. The workers are those of `test_properties`.
`CQ_EXAMPLES=5000` runs more, and other ones each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group as Effect
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from cq import FailedMember, Signature, chain, chord, group, registry, task
from cq.models import Errorback, Task
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
    return act(cqt, args, cqt.row.retries)


@task("composed.coroutine", backoff=0)
async def coroutine(cqt: Any, *args: Any) -> Any:
    return act(cqt, args, await sync_to_async(lambda: cqt.row.retries)())


FUNCTION = {function.name: function for function in (atomic, undone, pure, plain, coroutine)}
UNDONE = (undone.name, plain.name)

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
        elif spec.fails > spec.retries:
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

PATHS = {
    "claims held", "bodies run", "crashes", "rescued", "fenced bodies", "fenced outcomes", "batches", "retries", "SUCCESS", "FAILURE",
    "INCOMPLETE", "SKIPPED", "REVOKED", "chains", "groups", "groups of nothing", "groups below groups", "groups skipped",
    "groups incomplete", "chords", "groups forced", "members forced", "failed members handed on", "lists handed on", "errorbacks",
    "errorbacks not called", "undone", "undone of one parent", "stopped by a failure", "failures ignored", "made by bodies",
    "handed on to a group", *FUNCTIONS,
}  # fmt: skip
ENDED = f"SELECT id, (to_jsonb(t) - 'compensated')::text FROM cq_task t WHERE status IN ({sql_list(TERMINAL)})"


class ComposedRun(Run):
    """One composition on its way through the engine."""

    def __init__(self, spec: Spec, workers: int = 3) -> None:
        self.clear()
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

    def check_always(self) -> None:
        """What holds between any two steps: what has ended stays as it is, and no parent has ended before its subtasks."""
        over = dict(query(ENDED))
        assert query(EARLY) == []
        assert {task_id: over[task_id] for task_id in self.over} == self.over
        self.over = over

    def check(self) -> None:
        """Compare what became of the composition with what must become of it."""
        oracle = Oracle(self.spec)
        found = {int(row.subject_ref.split(":")[1]): row for row in Task.objects.exclude(subject=None)}
        for number, end in oracle.ends.items():
            if number not in found:
                assert number in oracle.loose
                continue
            row = found[number]
            if row.status != end.status:
                assert number in oracle.loose
                assert row.status in ("REVOKED", "SKIPPED")
            elif end.status not in ("SKIPPED", "INCOMPLETE") or row.name == "cq.group":
                assert matches(end.result if end.status != "SKIPPED" else None, row.result), (number, end, row.result)
        assert found.keys() <= oracle.ends.keys()
        count(self.spec, found)


EARLY = f"""
SELECT p.id FROM cq_task p JOIN cq_task c ON c.parent_id = p.id
 WHERE p.status IN ({sql_list(TERMINAL)}) AND p.status <> 'REVOKED' AND c.status NOT IN ({sql_list(TERMINAL)})
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


def check_answers(root: Spec) -> None:
    """Whatever became of the rows, this must have followed: each errorback once, and what had succeeded undone, in order."""
    rows = {row.id: row for row in Task.objects.select_related("parent", "previous")}
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
    def ends_as_its_rules_say(spec: Spec, steps: list[tuple[str, int]]) -> None:
        run = ComposedRun(spec)
        for action, number in steps:
            run.step(action, number)
        run.come_to_rest()
        run.check()
        check_answers(spec)

    HIT.clear()
    ends_as_its_rules_say()

    assert {path for path in PATHS if HIT[path] <= 0} == set()


def is_stopped_by_failure(row: Task | None) -> bool:
    """Say whether a `fail_fast` at or above a task has stopped it: that goes down as it is settled, and bodies may end meanwhile."""
    return row is not None and (row.reason == FAIL_FAST or is_stopped_by_failure(row.parent))


def test_a_revoke_at_any_time_stops_all_below_and_undoes_what_had_succeeded() -> None:
    @settings(composed, max_examples=EXAMPLES // 3 or 15)
    @given(spec=compositions, before=steps, after=steps, where=st.integers(0, 30))
    @example(spec=SAGA, before=[("work", 0)] * 6, after=[], where=3)
    def stops_all(spec: Spec, before: list[Any], after: list[Any], where: int) -> None:
        run = ComposedRun(spec)
        for action, number in before[: where * 2]:
            run.step(action, number)
        target = list(Task.objects.exclude(name__in=[notes.name, undo.name]))[where % 3 % Task.objects.count()]
        HIT["revoked"] += target.revoke()
        for action, number in after:
            run.step(action, number)
        run.come_to_rest()
        check_answers(spec)
        for row in Task.objects.select_related("parent"):
            if row.parent is not None and row.parent.status == "REVOKED" and not is_stopped_by_failure(row.parent):
                has_run = row.status not in ("REVOKED", "SKIPPED") and row.ended_at is not None
                assert not has_run or row.ended_at <= row.parent.finished_at

    HIT.clear()
    stops_all()

    assert HIT["revoked"] > 5
    assert HIT["undone"] > 0
