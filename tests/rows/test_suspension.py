"""Suspended bodies: the same attempt goes on, who lost the task can do nothing, and no event is missed by anybody."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from cq import database, engine, events, executor, settle, sql, task
from cq.exceptions import EventTimeout, Fenced
from cq.failpoints import failpoint as reach
from cq.interruption import Interruption
from cq.journal import Journal
from cq.models import Event, SettleRequest, Step, Task
from cq.outcome import Claimed, given_back, interrupted, suspended
from cq.running import RunningTask
from cq.states import Status
from cq.suspension import Wait
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import DEADLINE, elsewhere, together
from tests.rows.make import held, process, row, status, take
from tests.rows.test_guards import unhindered, waits
from tests.rows.test_races import pausing_at

pytestmark = pytest.mark.django_db(transaction=True)

NAP = Wait("sleep", "#1", 0.0)
GO = Wait("event", "go", None)


def move(task: Task) -> None:
    """Lock a row as whoever moves it does."""
    with transaction.atomic():
        Task.objects.select_for_update(no_key=True).get(pk=task.pk)


def suspend(claimed: Claimed, wait: Wait = NAP) -> engine.Finished:
    return engine.finish([suspended(claimed, wait)])


def resumed(process_id: UUID) -> Claimed:
    """Let a task sleep for no time, and claim it again."""
    tasks.adds.delay(1)
    (claimed,) = take(process_id)
    suspend(claimed)
    engine.promote()
    (again,) = take(process_id)
    return again


# The same attempt


def test_a_resume_is_another_claim_of_the_same_attempt() -> None:
    process_id = process()
    claimed = resumed(process_id)
    suspend(claimed, NAP._replace(name="#2"))
    engine.promote()
    (again,) = take(process_id)

    assert (claimed.attempt, claimed.claims, again.attempt, again.claims) == (1, 2, 1, 3)
    assert Task.objects.get().attempts.get().outcome is None


def hand_back(claimed: Claimed, process_id: UUID) -> None:
    Task.objects.update(started_at=make.ago(9))
    engine.hand_back(process_id, [], before=time.monotonic() - 1)


def rescue(claimed: Claimed, process_id: UUID) -> None:
    engine.end_process(process_id, [])
    engine.rescue()


def give_back(claimed: Claimed, process_id: UUID) -> None:
    engine.finish([given_back(claimed)])


@pytest.mark.parametrize("return_it", [give_back, hand_back, rescue], ids=lambda way: way.__name__)
def test_a_resume_that_did_not_start_is_one_still(return_it: Callable[[Claimed, UUID], None]) -> None:
    process_id = process()
    claimed = resumed(process_id)

    for _ in range(2):
        return_it(claimed, process_id)
        assert (status(claimed.id), Task.objects.get().attempt) == (Status.QUEUED, 1)
        process_id = process()
        (claimed,) = take(process_id)
        assert claimed.attempt == 1


@pytest.mark.parametrize("return_it", [give_back, hand_back, rescue], ids=lambda way: way.__name__)
def test_a_first_start_after_a_suspended_attempt_that_did_not_happen_is_none(
    return_it: Callable[[Claimed, UUID], None],
) -> None:
    process_id = process()
    engine.finish([interrupted(resumed(process_id))])
    (claimed,) = take(process_id)
    assert claimed.attempt == 2

    return_it(claimed, process_id)

    assert Task.objects.get().attempt == 1
    assert take(process())[0].attempt == 2


def crash(claimed: Claimed, process_id: UUID) -> None:
    engine.end_process(process_id, [claimed.id])
    engine.rescue()


def interrupt(claimed: Claimed, process_id: UUID) -> None:
    engine.finish([interrupted(claimed)])


@pytest.mark.parametrize(("end", "outcome"), [(crash, "crashed"), (interrupt, "interrupted")], ids=["crash", "stop"])
def test_an_attempt_that_ends_in_a_later_run_is_followed_by_another(
    end: Callable[[Claimed, UUID], None], outcome: str
) -> None:
    process_id = process()

    end(resumed(process_id), process_id)
    Task.objects.update(run_after=Now())
    engine.promote()
    (claimed,) = take(process(), suspects=outcome == "crashed")

    assert claimed.attempt == 2
    assert [attempt.outcome for attempt in Task.objects.get().attempts.all()] == [outcome, None]


def revoke_itself(above: Task, asleep: Task) -> None:
    asleep.revoke()


def revoke_above(above: Task, asleep: Task) -> None:
    above.revoke()


def fail_beside(above: Task, asleep: Task) -> None:
    row(Status.FAILURE, parent=above)
    settle.settle([above.id])


@pytest.mark.parametrize("stop", [revoke_itself, revoke_above, fail_beside], ids=lambda way: way.__name__)
def test_whoever_stops_what_is_suspended_ends_its_attempt(stop: Callable[[Task, Task], None]) -> None:
    above = row(Status.WAITING, fail_fast=True)
    asleep = row(Status.RUNNING, parent=above)
    suspend(held(asleep), GO)

    stop(above, asleep)

    asleep.refresh_from_db()
    assert asleep.status == Status.REVOKED
    assert [(attempt.number, attempt.outcome) for attempt in asleep.attempts.all()] == [(2, "revoked")]
    assert asleep.attempts.get().ended_at is not None


def test_a_revoke_of_what_is_about_to_be_resumed_ends_its_attempt() -> None:
    process_id = process()
    engine.finish([given_back(resumed(process_id))])
    task = Task.objects.get()

    task.revoke()
    assert [attempt.outcome for attempt in task.attempts.all()] == ["revoked"]
    task.retry()
    (claimed,) = take(process_id)

    assert claimed.attempt == 2
    engine.finish([make.failed(claimed)])
    assert [attempt.outcome for attempt in task.attempts.all()] == ["revoked", "error"]


def test_a_refusal_of_what_is_about_to_be_resumed_ends_its_attempt() -> None:
    task = row(name="nobody.knows", run_after=make.ago(10**6), claims=1, suspended_claim=1, attempt=1)

    engine.refuse(["nobody.knows"])

    assert [(attempt.outcome, attempt.ended_at is not None) for attempt in task.attempts.all()] == [("error", True)]


def test_what_is_to_run_runs_some_time() -> None:
    for free in (Status.SUSPENDED, Status.REVOKED):
        row(free, run_after=None)
    with pytest.raises(IntegrityError, match="cq_task_status"):
        row(Status.QUEUED, run_after=None)


# Who lost the task


def overtake(task_id: UUID) -> None:
    """Let another worker take the task over, and run it."""
    Task.objects.filter(pk=task_id).update(claims=99)


def revoke(task_id: UUID) -> None:
    engine.revoke([task_id], reason="By a test.")


@task(atomic=False)
def loses_itself_in_a_step(cqt: Any, how: str) -> str:
    def write() -> None:
        Group.objects.create(name="twice")
        with elsewhere() as other:
            other({"overtake": overtake, "revoke": revoke}[how], cqt.id)

    cqt.step("write", write)
    return "never"


@pytest.mark.parametrize("how", ["overtake", "revoke"])
def test_a_step_of_a_worker_that_lost_the_task_is_not_kept_and_its_writes_are_undone(how: str) -> None:
    loses_itself_in_a_step.delay(how)
    (claimed,) = take(process())

    assert executor.execute(claimed) == executor.Executed()

    assert not Group.objects.exists()
    assert not Step.objects.exists()


@pytest.mark.parametrize("verb", ["step", "sleep", "wait_event"])
def test_a_body_that_was_told_to_end_does_at_the_next_verb(verb: str) -> None:
    stop = Interruption()
    running = RunningTask(held(row(Status.RUNNING)), stop)
    use = {
        "step": lambda: running.step("one", tasks.adds, 1),
        "sleep": lambda: running.sleep(60),
        "wait_event": lambda: running.wait_event("go"),
    }[verb]

    stop.tell()

    with pytest.raises(Fenced, match="nothing of it is kept"):
        use()
    assert running.journal.wait is None


def keep(claimed: Claimed, name: str = "one") -> None:
    database.execute(sql.KEEP_STEP, claimed.id, claimed.claims, name, 0.0, "1")


def test_a_revoke_waits_for_a_step_that_is_being_committed_and_comes_after_it() -> None:
    running = row(Status.RUNNING)
    with elsewhere() as worker, elsewhere() as person:
        worker.open()
        worker(keep, held(running))

        revoking = person.begin(revoke, running.id)

        assert waits(revoking)
        worker.commit()
        revoking.result(DEADLINE)
    assert (status(running), running.steps.count()) == (Status.REVOKED, 1)


def test_a_step_of_an_atomic_body_holds_up_nobody_who_revokes() -> None:
    running = row(Status.RUNNING)
    claimed = held(running)
    with elsewhere() as worker, elsewhere() as person:
        worker.open()
        worker(database.execute, sql.KEEP_STEP_OWN, claimed.id, claimed.claims, "one", 0.0, "1")

        unhindered(person, partial(revoke, running.id))

        worker.rollback()


@task
def steps_atomically(cqt: Any) -> None:
    cqt.step("one", tasks.adds, 1)
    with elsewhere() as person:
        unhindered(person, partial(move, cqt.row))


def test_an_atomic_body_does_not_lock_its_row_by_a_step() -> None:
    task = steps_atomically.delay()
    (claimed,) = take(process())

    executed = executor.execute(claimed)

    assert (status(task), executed.outcome) == (Status.SUCCESS, None)


def late(claimed: Claimed) -> Claimed:
    return claimed._replace(claims=claimed.claims - 1)


@pytest.mark.parametrize("permission", [None, "auth.view_group"], ids=["pass", "refuse"])
def test_a_late_worker_can_neither_pass_a_wait_nor_refuse_an_event(permission: str | None) -> None:
    running = row(Status.RUNNING)
    running.send_event("go")

    with pytest.raises(Fenced):
        events.receive(late(held(running)), "go", permission)

    assert (running.steps.count(), running.events.get().outcome) == (0, "accepted")


def test_a_late_worker_cannot_suspend_the_task() -> None:
    running = row(Status.RUNNING)

    assert suspend(late(held(running))).moved == []
    with pytest.raises(Fenced):
        make.finish_own(suspended(late(held(running)), NAP))

    assert (status(running), running.steps.count()) == (Status.RUNNING, 0)


def test_a_suspension_that_is_written_twice_is_written_once() -> None:
    """As when nobody has heard of its commit: meanwhile it was resumed, and its event has been taken."""
    claimed = held(row(Status.RUNNING))
    suspend(claimed, GO)
    before = make.image(claimed.id)

    assert suspend(claimed, GO).moved == []

    assert make.image(claimed.id) == before


def test_a_body_that_ends_its_own_transaction_waits_for_whoever_has_its_row_also_to_sleep() -> None:
    running = row(Status.RUNNING)
    with elsewhere() as worker, elsewhere() as outsider:
        outsider.open()
        outsider(move, running)

        finishing = worker.begin(make.finish_own, suspended(held(running), NAP))

        assert waits(finishing)
        outsider.commit()
        assert [moved.status for moved in finishing.result(DEADLINE).moved] == [Status.SUSPENDED]


def test_what_ends_and_what_is_suspended_is_written_together() -> None:
    ends, sleeps, waits_on = (row(Status.RUNNING) for _ in range(3))

    finished = engine.finish(
        [suspended(held(sleeps), NAP), make.succeeded(held(ends)), suspended(held(waits_on), GO._replace(seconds=60.0))]
    )

    assert {moved.id: moved.status for moved in finished.moved} == {
        ends.id: Status.SUCCESS,
        sleeps.id: Status.SUSPENDED,
        waits_on.id: Status.SUSPENDED,
    }
    assert finished.asked == [waits_on.id], "a sleep has nothing to miss"


# Events and waits


def send(task_id: UUID, name: str = "go") -> bool:
    return events.send(task_id, name)


def send_and_settle(task_id: UUID) -> None:
    assert send(task_id)
    settle.settle_all()


def send_between_look_and_suspension() -> UUID:
    """A body looks for its event; that comes, and is settled; then the body is suspended."""
    running = row(Status.RUNNING)
    claimed = held(running)
    assert events.receive(claimed, "go", None) is None
    send_and_settle(running.id)
    suspend(claimed, GO)
    settle.settle_all()
    return running.id


def test_an_event_between_the_look_for_it_and_the_suspension_is_not_missed() -> None:
    assert status(send_between_look_and_suspension()) == Status.QUEUED


def test_without_a_request_of_its_own_a_suspended_task_would_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = "INSERT INTO cq_settlerequest (task_id) SELECT id FROM moved WHERE awaits IS NOT NULL RETURNING task_id"
    assert asks in sql.SUSPEND
    monkeypatch.setattr(sql, "SUSPEND", sql.SUSPEND.replace(asks, "SELECT id AS task_id FROM moved WHERE false"))

    assert status(send_between_look_and_suspension()) == Status.SUSPENDED


def look_first(ids: Sequence[UUID]) -> None:
    """Settle in the wrong order: look, then delete the requests."""
    with database.atomic():
        mine = [task_id for task_id, *_ in database.execute(sql.SETTLE_LOCK, list(ids))]
        database.execute(sql.SETTLE_RESUME, mine)
        reach("settle.looked")
        database.execute(sql.SETTLE_TAKE, mine, list(ids))


def send_while_settled(settle_with: Callable[[Sequence[UUID]], object], point: str) -> Task:
    """Send an event while somebody settles the suspended task for another reason."""
    waiting = row(Status.SUSPENDED, awaits="go", run_after=None)
    SettleRequest.objects.create(task_id=waiting.id)
    with elsewhere() as web, pausing_at(point, lambda: web(send_and_settle, waiting.id)):
        settle_with([waiting.id])
    settle.settle_all()
    return waiting


@pytest.mark.parametrize("point", ["settle.locked", "settle.taken", "settle.looked", "settle.before_commit"])
def test_an_event_at_any_point_of_a_settle_resumes_its_task(point: str) -> None:
    waiting = send_while_settled(settle.settle, point)

    assert status(waiting) == Status.QUEUED
    assert not SettleRequest.objects.exists()


def test_an_event_between_a_look_and_a_deletion_would_be_lost() -> None:
    waiting = send_while_settled(look_first, "settle.looked")

    assert status(waiting) == Status.SUSPENDED
    assert not SettleRequest.objects.exists()


def test_an_event_and_a_suspension_at_once_find_each_other() -> None:
    for _ in range(30):
        running = row(Status.RUNNING)
        claimed = held(running)

        def run(claimed: Claimed = claimed) -> None:
            if events.receive(claimed, "go", None) is None:
                while not suspend(claimed, GO).moved:  # who settles has the row locked
                    pass
            settle.settle_all()

        together(run, partial(send_and_settle, running.id))
        settle.settle_all()

        assert status(running) == Status.QUEUED or running.steps.get().ended_at is not None


def test_of_many_who_send_at_once_one_is_accepted() -> None:
    for _ in range(10):
        waiting = row(Status.SUSPENDED, awaits="go", run_after=None)

        accepted = together(*[partial(send, waiting.id)] * 4)

        assert sorted(accepted) == [False, False, False, True]


def test_a_sender_does_not_wait_for_whoever_moves_the_task() -> None:
    waiting = row(Status.SUSPENDED, awaits="go", run_after=None)
    with elsewhere() as outsider, elsewhere() as web:
        outsider.open()
        outsider(move, waiting)

        assert unhindered(web, partial(send, waiting.id))


def test_who_moves_a_task_does_not_wait_for_a_sender() -> None:
    waiting = row(Status.SUSPENDED, run_after=make.ago(1))
    with elsewhere() as web, elsewhere() as mover:
        web.open()
        web(send, waiting.id)

        unhindered(mover, engine.promote)

        assert status(waiting) == Status.QUEUED


def test_a_task_is_not_removed_under_a_sender() -> None:
    waiting = row(Status.SUSPENDED, awaits="go", run_after=None)
    with elsewhere() as web, elsewhere() as pruner:
        web.open()
        assert web(send, waiting.id)

        removing = pruner.begin(database.execute, "DELETE FROM cq_task WHERE id = %s", waiting.id)

        assert waits(removing)
        web.commit()
        with pytest.raises(IntegrityError):
            removing.result(DEADLINE)


def overdue() -> Task:
    """Make a running task whose wait is over its time."""
    running = row(Status.RUNNING)
    Step.objects.create(task=running, kind="event", name="go", attempt=1, started_at=Now(), until=make.ago(1))
    return running


@pytest.mark.parametrize("is_sent", [True, False], ids=["commits", "rolls back"])
def test_who_finds_the_time_over_waits_for_a_sender_and_holds_up_nobody(is_sent: bool) -> None:
    running = overdue()
    with elsewhere() as worker, elsewhere() as web, elsewhere() as outsider:
        web.open()
        assert web(send, running.id)

        receiving = worker.begin(events.receive, held(running), "go", None)

        assert waits(receiving)
        outsider.begin(move, running).result(DEADLINE)
        if is_sent:
            web.commit()
            assert receiving.result(DEADLINE).outcome == "accepted"
        else:
            web.rollback()
            with pytest.raises(EventTimeout):
                receiving.result(DEADLINE)
    assert running.events.get().outcome == ("accepted" if is_sent else "timeout")


def test_after_the_time_is_over_no_event_is_accepted() -> None:
    running = overdue()
    with pytest.raises(EventTimeout):
        events.receive(held(running), "go", None)

    assert send(running.id) is False
    with pytest.raises(EventTimeout):
        events.receive(held(running), "go", None)


def test_a_time_that_is_not_over_is_not_ended_by_anybody() -> None:
    running = overdue()
    Step.objects.update(until=make.ago(-60))

    database.execute(sql.EVENT_TIME_OUT, running.id, "go")

    assert not running.events.exists()


def test_an_event_that_was_awaited_once_does_not_wake_what_sleeps_or_is_tried_again() -> None:
    sleeping = row(Status.SUSPENDED, run_after=make.ago(-60))
    retrying = row(Status.RETRY, awaits="go", run_after=make.ago(-60))

    for one in (sleeping, retrying):
        send_and_settle(one.id)
    database.execute(sql.SETTLE_RESUME, [sleeping.id, retrying.id])

    assert [status(sleeping), status(retrying)] == [Status.SUSPENDED, Status.RETRY]


def test_what_a_resumed_task_is_due_since_is_when_its_event_came() -> None:
    waiting = row(Status.SUSPENDED, awaits="go", run_after=None)

    send_and_settle(waiting.id)

    waiting.refresh_from_db()
    assert waiting.run_after >= Event.objects.get().created_at


def test_an_event_commits_together_with_the_request_to_settle_its_task() -> None:
    waiting = row(Status.SUSPENDED, awaits="go", run_after=None)
    with elsewhere() as web:
        web.open()
        web(send, waiting.id)

        assert not SettleRequest.objects.exists()
        web.commit()
    assert SettleRequest.objects.get().task_id == waiting.id


def test_a_journal_asks_once_what_is_done() -> None:
    claimed = held(row(Status.RUNNING))
    keep(claimed)
    journal = Journal(claimed)

    with transaction.atomic():
        assert journal.step("one", lambda: 1 / 0, (), {}) == 1
        Step.objects.all().delete()
        assert journal.step("two", lambda: 2, (), {}) == 2

    assert [step.name for step in Step.objects.all()] == ["two"]
