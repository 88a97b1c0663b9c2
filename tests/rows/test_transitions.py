"""Every way that the engine has to move a row, tried on a row in every status: the table allows it, or nothing changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from cq import database, engine, outcome, settle, sql, states
from cq.exceptions import DuplicateSubmitError, Fenced
from cq.models import Event, Process, Task
from cq.new import GROUP
from cq.outcome import Outcome
from cq.states import Status, Transition
from cq.suspension import Wait
from tests import tasks
from tests.rows import make
from tests.rows.make import held, image, process, row

pytestmark = pytest.mark.django_db

REASON = "By a test."


@dataclass(frozen=True)
class Way:
    """One way to ask for a transition. Between them, the ways of a transition cover its sources and targets."""

    transition: Transition
    name: str
    moves: dict[Status, Status]
    try_on: Callable[[Status], UUID]

    def __str__(self) -> str:
        return f"{self.transition.name}-{self.name}"


def settled_predecessor(status: Status, before: Status, **columns: object) -> UUID:
    first = row(before)
    task = row(status, previous=first, **columns)
    return unchanged_unless(task.id, lambda: settle.settle([first.id]))


def unchanged_unless(task_id: UUID, act: Callable[[], object]) -> UUID:
    """Act; a row whose status did not change must be the very same row as before."""
    before, was = image(task_id), make.status(task_id)
    act()
    if make.status(task_id) == was:
        assert image(task_id) == before
    return task_id


def submitted(status: Status) -> UUID:
    task = row(status)

    def act() -> None:
        try:
            engine.submit(task.id, "[7]")
        except DuplicateSubmitError:
            assert status != Status.PENDING

    return unchanged_unless(task.id, act)


def promoted(status: Status) -> UUID:
    return unchanged_unless(row(status, run_after=make.ago(60)).id, engine.promote)


def resumed(status: Status) -> UUID:
    task = row(status, awaits="go")
    row(parent=task)
    Event.objects.create(task=task, name="go", outcome="accepted")
    return unchanged_unless(task.id, lambda: settle.settle([task.id]))


def replaced(status: Status, *, run_after: int) -> UUID:
    task = row(status, unique_key="k")
    before = image(task.id)
    tasks.adds.using(unique_key="k", replace=("run_after",), run_after=run_after).delay(2)
    may_change = status in (Status.PENDING, Status.SCHEDULED, Status.QUEUED)
    assert may_change or image(task.id) == before
    return task.id


def expired(status: Status) -> UUID:
    return unchanged_unless(row(status, attempt=0, start_by=make.ago(1), expires=5.0).id, engine.expire)


def claimed(status: Status) -> UUID:
    task, process_id = row(status), process()
    return unchanged_unless(task.id, lambda: make.take(process_id))


def finished(ended: Callable[[outcome.Claimed], Outcome]) -> Callable[[Status], UUID]:
    def act(status: Status) -> UUID:
        task = row(status)
        return unchanged_unless(task.id, lambda: engine.finish([ended(held(task))]))

    return act


def finished_its_own(status: Status) -> UUID:
    task = row(status)

    def act() -> None:
        try:
            make.finish_own(make.succeeded(held(task)))
        except Fenced:
            assert status != Status.RUNNING

    return unchanged_unless(task.id, act)


def settled(subtask: Status) -> Callable[[Status], UUID]:
    def act(status: Status) -> UUID:
        task = row(status)
        row(subtask, parent=task)
        return unchanged_unless(task.id, lambda: settle.settle([task.id]))

    return act


def rescued(status: Status, *, crashes: int, started: bool = True) -> UUID:
    task = row(status, crashes=crashes)
    process_id = task.process_id or process()
    engine.end_process(process_id, [task.id] if started else [])
    return unchanged_unless(task.id, engine.rescue)


def handed_back(status: Status) -> UUID:
    task = row(status)
    Task.objects.filter(pk=task.pk, status=Status.RUNNING).update(started_at=make.ago(10))
    return unchanged_unless(
        task.id, lambda: engine.hand_back(task.process_id or process(), [], before=time.monotonic() - 0.5)
    )


def refuse() -> object:
    return engine.refuse(engine.unknown_names())


def refused(status: Status) -> UUID:
    return unchanged_unless(row(status, name="nobody.knows", run_after=make.ago(10**6)).id, refuse)


def revoked(status: Status) -> UUID:
    task = row(status)
    return unchanged_unless(task.id, lambda: engine.revoke([task.id], reason=REASON))


def revoked_from_above(status: Status) -> UUID:
    task = row(status, parent=row(Status.REVOKED))
    return unchanged_unless(task.id, lambda: settle.settle([task.parent_id]))


def revoked_beside(status: Status) -> UUID:
    parent = row(Status.WAITING, fail_fast=True)
    row(Status.FAILURE, parent=parent)
    task = row(status, parent=parent)
    return unchanged_unless(task.id, lambda: settle.settle([parent.id]))


def revoked_from_before(status: Status) -> UUID:
    return settled_predecessor(status, Status.REVOKED, created_at=make.ago(60))


def reopened(target: Status) -> Callable[[Status], UUID]:
    def act(status: Status) -> UUID:
        task = row(status)
        return unchanged_unless(task.id, lambda: database.execute(sql.REOPEN, [task.id], [target.value]))

    return act


S = Status
WAYS = [
    Way(states.RELEASE, "settle", {S.PENDING: S.QUEUED}, lambda s: settled_predecessor(s, S.SUCCESS)),
    Way(
        states.RELEASE,
        "settle_delayed",
        {S.PENDING: S.SCHEDULED},
        lambda s: settled_predecessor(s, S.SUCCESS, delay=timedelta(hours=1)),
    ),
    Way(
        states.RELEASE,
        "settle_forced",
        {S.PENDING: S.QUEUED},
        lambda s: settled_predecessor(s, S.FAILURE, force_chain=True),
    ),
    Way(
        states.RELEASE,
        "settle_group",
        {S.PENDING: S.WAITING},
        lambda s: settled_predecessor(s, S.SUCCESS, name=GROUP),
    ),
    Way(states.RELEASE, "submit", {S.PENDING: S.QUEUED}, submitted),
    Way(states.SKIP, "settle", {S.PENDING: S.SKIPPED}, lambda s: settled_predecessor(s, S.FAILURE)),
    Way(states.PROMOTE, "promote", dict.fromkeys(states.DELAYED, S.QUEUED), promoted),
    Way(states.PROMOTE, "event", {S.SUSPENDED: S.QUEUED}, resumed),
    Way(states.PROMOTE, "replace", {S.SCHEDULED: S.QUEUED}, lambda s: replaced(s, run_after=0)),
    Way(states.POSTPONE, "replace", {S.QUEUED: S.SCHEDULED}, lambda s: replaced(s, run_after=3600)),
    Way(states.EXPIRE, "expire", {S.QUEUED: S.EXPIRED}, expired),
    Way(states.CLAIM, "claim", {S.QUEUED: S.RUNNING}, claimed),
    Way(states.GIVE_BACK, "unstarted", {S.RUNNING: S.QUEUED}, finished(outcome.given_back)),
    Way(states.GIVE_BACK, "interrupted", {S.RUNNING: S.QUEUED}, finished(outcome.interrupted)),
    Way(states.GIVE_BACK, "rescue", {S.RUNNING: S.QUEUED}, lambda s: rescued(s, crashes=0, started=False)),
    Way(states.GIVE_BACK, "hand_back", {S.RUNNING: S.QUEUED}, handed_back),
    Way(states.WAIT, "finish", {S.RUNNING: S.WAITING}, finished(lambda t: outcome.returned(t, None, waits=True))),
    Way(
        states.SUSPEND,
        "finish",
        {S.RUNNING: S.SUSPENDED},
        finished(lambda t: outcome.suspended(t, Wait("sleep", "#1", 60.0))),
    ),
    Way(states.SUCCEED, "finish", {S.RUNNING: S.SUCCESS}, finished(make.succeeded)),
    Way(states.SUCCEED, "finish_own", {S.RUNNING: S.SUCCESS}, finished_its_own),
    Way(states.SUCCEED, "settle", {S.WAITING: S.SUCCESS}, settled(S.SUCCESS)),
    Way(states.FALL_SHORT, "settle", {S.WAITING: S.INCOMPLETE}, settled(S.FAILURE)),
    Way(
        states.RETRY_LATER,
        "finish",
        {S.RUNNING: S.RETRY},
        finished(lambda t: Outcome(t, states.RETRY_LATER, "error", delay=1.0, charge="retries")),
    ),
    Way(states.RETRY_LATER, "rescue", {S.RUNNING: S.RETRY}, lambda s: rescued(s, crashes=0)),
    Way(states.FAIL, "finish", {S.RUNNING: S.FAILURE}, finished(make.failed)),
    Way(states.LOSE, "rescue", {S.RUNNING: S.LOST}, lambda s: rescued(s, crashes=2)),
    Way(states.REFUSE, "refuse", {S.QUEUED: S.FAILURE}, refused),
    Way(states.REVOKE, "revoke", dict.fromkeys(states.UNFINISHED, S.REVOKED), revoked),
    Way(states.REVOKE, "parent", dict.fromkeys(states.UNFINISHED, S.REVOKED), revoked_from_above),
    Way(states.REVOKE, "fail_fast", dict.fromkeys(states.UNFINISHED, S.REVOKED), revoked_beside),
    Way(states.REVOKE, "predecessor", {S.PENDING: S.REVOKED}, revoked_from_before),
    Way(states.REOPEN, "reopen", dict.fromkeys(states.REOPEN.sources, S.QUEUED), reopened(S.QUEUED)),
    Way(states.REOPEN_PARENT, "reopen", dict.fromkeys(states.REOPEN_PARENT.sources, S.WAITING), reopened(S.WAITING)),
    Way(
        states.REOPEN_SUCCESSOR,
        "reopen",
        dict.fromkeys(states.REOPEN_SUCCESSOR.sources, S.PENDING),
        reopened(S.PENDING),
    ),
]


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_row_moves_as_the_table_says_or_stays_byte_for_byte(way: Way, status: Status) -> None:
    task_id = way.try_on(status)

    assert make.status(task_id) == way.moves.get(status, status)


@pytest.mark.parametrize("transition", [t for t in states.TRANSITIONS if t.sources], ids=lambda t: t.name)
def test_the_ways_of_a_transition_cover_it(transition: Transition) -> None:
    moves = [move for way in WAYS if way.transition is transition for move in way.moves.items()]
    assert {source for source, _ in moves} == transition.sources
    assert {target for _, target in moves} == transition.targets


@pytest.mark.parametrize("way", [way for way in WAYS if way.transition.targets <= states.TERMINAL], ids=str)
def test_whoever_ends_a_task_says_when(way: Way) -> None:
    task_id = way.try_on(next(iter(way.moves)))

    assert Task.objects.get(pk=task_id).finished_at is not None


@pytest.mark.parametrize("status", Status)
def test_a_row_in_every_status_satisfies_the_constraints(status: Status) -> None:
    task = row(status)

    assert task.status == status
    assert (task.process_id is not None) == (status == Status.RUNNING)
    assert Process.objects.filter(pk=task.process_id).exists() == (status == Status.RUNNING)
