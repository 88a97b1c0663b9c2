"""What becomes of the tasks of the dead, and of names that nobody knows."""

import time
from functools import partial

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from cq import engine, settle, sql, states
from cq.models import Process, SettleRequest, Task, Worker
from cq.outcome import Outcome
from cq.states import Status
from cq.testing import failpoint
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import ago, held, process, row, status, succeeded
from tests.rows.test_races import pausing_at

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def dying(*, blamed: bool = True, **columns: object) -> Task:
    """Make a task whose process was declared dead."""
    task = row(Status.RUNNING, **columns)
    engine.end_process(task.process_id, [task.id] if blamed else [])
    return task


def test_a_body_that_had_started_is_charged_a_crash_and_tried_again() -> None:
    task = dying()

    (rescued,) = engine.rescue()

    task.refresh_from_db()
    assert (rescued.id, rescued.status) == (task.id, Status.RETRY)
    assert (task.crashes, task.retries, task.attempt, task.process_id) == (1, 0, 2, None)
    assert [(a.number, a.outcome, a.error) for a in task.attempts.all()] == [(2, "crashed", "The worker process died.")]


def test_a_body_that_had_not_started_is_handed_back_uncharged() -> None:
    task = dying(blamed=False, claims=5, attempt=1)

    engine.rescue()

    task.refresh_from_db()
    assert (task.status, task.crashes, task.attempt, task.claims) == (Status.QUEUED, 0, 0, 5)
    assert not task.attempts.exists()


def test_the_first_crash_is_tried_again_at_once_later_ones_after_a_pause() -> None:
    first, second = dying(), dying(crashes=1)

    engine.rescue()

    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.run_after - first.ended_at).total_seconds() == 0
    assert (second.run_after - second.ended_at).total_seconds() == 1


def test_too_many_crashes_are_the_end() -> None:
    parent = row(Status.WAITING)
    task = dying(crashes=2, parent=parent)
    after = row(Status.PENDING, previous=task, parent=parent)

    (rescued,) = engine.rescue()
    settle.settle_all()

    task.refresh_from_db()
    assert rescued.has_ended
    assert (task.status, task.crashes) == (Status.LOST, 3)
    assert task.reason == "Its worker process died 3 times while running it."
    assert status(after) == Status.SKIPPED
    assert status(parent) == Status.INCOMPLETE
    assert [a.outcome for a in task.attempts.all()] == ["crashed"]


def test_how_many_crashes_are_too_many_can_be_set(settings) -> None:
    settings.CQ = {"MAX_CRASHES": 1}
    task = dying()

    engine.rescue()

    task.refresh_from_db()
    assert (task.status, task.reason) == (Status.LOST, "Its worker process died 1 times while running it.")


def test_all_attempts_of_a_lost_task_are_kept() -> None:
    task = row()
    for _ in range(3):
        process_id = process()
        Task.objects.filter(pk=task.pk).update(run_after=ago(1))
        engine.promote()
        claimed = make.take(process_id) or make.take(process_id, suspects=True)
        engine.end_process(process_id, [claimed[0].id])
        engine.rescue()

    assert status(task) == Status.LOST
    assert [(a.number, a.outcome) for a in task.attempts.all()] == [(1, "crashed"), (2, "crashed"), (3, "crashed")]


def test_a_worker_is_dead_when_its_lease_is_over_and_all_it_held_is_charged() -> None:
    task = row(Status.RUNNING)
    make.let_lease_run_out(task.process_id)

    engine.rescue()

    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.RETRY, 1)
    assert not Worker.objects.exists()
    assert not Process.objects.exists()


def test_a_living_workers_tasks_are_left_alone() -> None:
    task = row(Status.RUNNING)
    before = make.image(task.id)

    assert engine.rescue() == []
    assert make.image(task.id) == before


def test_a_worker_that_was_declared_dead_cannot_renew_its_lease() -> None:
    process_id = process()
    worker_id = Process.objects.get(pk=process_id).worker_id
    assert engine.heartbeat(worker_id)
    make.let_lease_run_out(process_id)

    assert not engine.heartbeat(worker_id)


def test_a_renewed_lease_is_as_long_as_the_setting_says(settings) -> None:
    settings.CQ = {"LEASE": 7}
    process_id = process()
    make.let_lease_run_out(process_id)
    Worker.objects.update(lease_until=Now() + make.Value(make.timedelta(seconds=1)))

    engine.heartbeat(Process.objects.get(pk=process_id).worker_id)

    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM lease_until - statement_timestamp()) FROM cq_worker")
        assert 6 < cursor.fetchone()[0] <= 7


def test_a_worker_that_leaves_in_order_blames_nobody() -> None:
    task = row(Status.RUNNING)
    engine.leave(Process.objects.get(pk=task.process_id).worker_id)

    engine.rescue()

    task.refresh_from_db()
    assert (task.status, task.crashes) == (Status.QUEUED, 0)
    assert not Worker.objects.exists()


def test_a_dead_process_is_blamed_once() -> None:
    task = row(Status.RUNNING)
    engine.end_process(task.process_id, [])
    engine.end_process(task.process_id, [task.id])

    engine.rescue()

    assert status(task) == Status.QUEUED


def test_an_end_by_rescue_asks_for_what_follows() -> None:
    parent = row(Status.WAITING)
    dying(crashes=2, parent=parent)

    engine.rescue()

    assert [request.task_id for request in SettleRequest.objects.all()] == [parent.id]


@committed
def test_a_body_that_is_just_committing_is_not_rescued() -> None:
    task = row(Status.RUNNING)
    with elsewhere() as worker:
        worker.open()
        worker(make.finish_own, succeeded(held(task), "done"))
        engine.end_process(task.process_id, [task.id])

        assert engine.rescue() == []
        assert Process.objects.filter(pk=task.process_id).exists()
        worker.commit()
    engine.rescue()
    task.refresh_from_db()
    assert (task.status, task.result, task.crashes) == (Status.SUCCESS, "done", 0)
    assert not Process.objects.exists()


@committed
def test_a_rescue_that_dies_rescues_nothing_by_halves() -> None:
    task = dying(crashes=2, parent=row(Status.WAITING))
    before = make.image(task.id)

    with failpoint("rescue.swapped=raise"), pytest.raises(Exception, match=r"rescue\.swapped"):
        engine.rescue()
    assert make.image(task.id) == before
    engine.rescue()

    assert status(task) == Status.LOST


@committed
def test_many_rescuers_rescue_once() -> None:
    tasks = [dying() for _ in range(30)]

    rescued = together(*[engine.rescue] * 4)
    rescued.append(engine.rescue())

    assert sorted(moved.id for one in rescued for moved in one) == sorted(task.id for task in tasks)
    assert set(Task.objects.values_list("crashes", flat=True)) == {1}


@committed
def test_rescue_ends_what_the_dead_have_open_in_the_database() -> None:
    task = dying()
    name = f"cq:{task.process_id}"
    with elsewhere() as dead:

        def lock() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = %s", [name])
            Worker.objects.select_for_update(of=("self",)).get(processes=task.process_id)

        dead.open()
        dead(lock)

        engine.rescue()

        with transaction.atomic():
            assert Worker.objects.select_for_update().get()  # would wait as long as the lock is held
        with pytest.raises(Exception, match=r"terminat|closed"):
            dead(Worker.objects.count)
        dead._blocks.clear()
        dead(lambda: connection.close())


def test_unstarted_claims_of_a_process_that_hangs_are_handed_back() -> None:
    process_id = process()
    older, started = make.row(), make.row()
    make.take(process_id, 2)
    Task.objects.update(started_at=ago(5))
    fresh = make.row()
    make.take(process_id)

    handed = engine.hand_back(process_id, [started.id], before=time.monotonic() - 0.5)

    assert [moved.id for moved in handed] == [older.id]
    assert make.statuses(older, started, fresh) == [Status.QUEUED, Status.RUNNING, Status.RUNNING]
    older.refresh_from_db()
    assert (older.attempt, older.claims) == (0, 1)
    assert not older.attempts.exists()


def test_what_a_process_has_claimed_since_it_was_asked_is_not_handed_back_however_late_that_is_done() -> None:
    """Whoever asked knows nothing of what has started since."""
    process_id = process()
    make.row()
    make.take(process_id)
    asked = time.monotonic()
    Task.objects.update(started_at=ago(0.3))

    with pausing_at("hand_back.clock_read", partial(time.sleep, 0.5)):
        assert engine.hand_back(process_id, [], before=asked - 0.4) == []
    assert len(engine.hand_back(process_id, [], before=asked - 0.1)) == 1


def test_a_look_for_overdue_bodies_walks_past_nothing_that_runs() -> None:
    """Children look every second: with many of them, who have just claimed all there was, it was half of what PostgreSQL did."""
    make.many(8000, Status.QUEUED)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task")
        for _ in range(64):
            make.many(100, Status.RUNNING, process_id=process(), worker="test/1")
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql.OVERDUE}", [[make.ADDS]])
        ((explained,),) = cursor.fetchall()

    plan = explained[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20, plan


UNKNOWN = "nobody.knows"


def test_a_name_that_no_living_worker_has_known_for_long_is_refused() -> None:
    parent = row(Status.WAITING)
    task = row(name=UNKNOWN, run_after=ago(601), parent=parent)

    refused = engine.refuse(engine.unknown_names())
    settle.settle_all()

    task.refresh_from_db()
    assert refused == [task.id]
    assert (task.status, task.exception) == (Status.FAILURE, "cq.exceptions.TaskNotRegistered")
    assert task.error == (
        "No worker knows a task 'nobody.knows'. Is its module imported? Installed apps are searched for tasks.py."
    )
    assert status(parent) == Status.INCOMPLETE


@pytest.mark.parametrize(
    "columns",
    [{"run_after": ago(590)}, {"run_after": ago(10**6), "name": make.ADDS}, {"status": Status.SCHEDULED}],
    ids=["not for long", "known", "not due"],
)
def test_other_tasks_are_not_refused(columns) -> None:
    process()
    row(**{"name": UNKNOWN, "run_after": ago(10**6)} | columns)

    assert engine.refuse(engine.unknown_names()) == []


def test_what_only_a_dead_worker_knew_is_refused() -> None:
    make.let_lease_run_out(process(names=[UNKNOWN]))
    task = row(name=UNKNOWN, run_after=ago(601))

    assert engine.refuse(engine.unknown_names()) == [task.id]


def test_how_long_a_name_may_be_unknown_can_be_set(settings) -> None:
    settings.CQ = {"UNKNOWN_TASK_TIMEOUT": 5}
    task = row(name=UNKNOWN, run_after=ago(6))

    assert engine.refuse(engine.unknown_names()) == [task.id]


def test_a_body_that_may_start_only_once_is_lost_with_its_process() -> None:
    died = dying(at_most_once=True)
    stopped = row(Status.RUNNING, at_most_once=True)
    engine.end_process(stopped.process_id, [stopped.id], was_stopped=True)

    engine.rescue()

    died.refresh_from_db()
    stopped.refresh_from_db()
    assert (died.status, died.crashes, died.outcome) == (Status.LOST, 1, "crashed")
    assert died.reason == 'Its worker died while running it, and on_lost="fail" allows no other start.'
    assert (stopped.status, stopped.crashes, stopped.outcome) == (Status.LOST, 0, "interrupted")
    assert stopped.reason == 'Its worker was stopped while running it, and on_lost="fail" allows no other start.'


def test_one_that_had_not_started_is_handed_back_all_the_same() -> None:
    task = dying(blamed=False, at_most_once=True)

    engine.rescue()

    task.refresh_from_db()
    assert (task.status, task.crashes, task.attempt) == (Status.QUEUED, 0, 1)


def test_one_that_nobody_could_look_after_is_taken_to_have_started() -> None:
    task = row(Status.RUNNING, at_most_once=True)
    make.let_lease_run_out(task.process_id)

    engine.rescue()

    assert status(task) == Status.LOST


def test_a_process_that_does_not_answer_keeps_what_may_start_only_once() -> None:
    process_id = process()
    task = row(Status.RUNNING, process_id=process_id, started_at=ago(5), at_most_once=True)

    assert engine.hand_back(process_id, [], before=time.monotonic() - 1) == []
    assert [moved.id for moved in engine.hand_back(process_id, [], before=time.monotonic() - 1, is_own=True)] == [
        task.id
    ]


def overdue(**columns: object) -> tuple[Task, Task]:
    """Make a task whose process was killed because its time was over, and one that ran beside it."""
    late = row(Status.RUNNING, **columns)
    beside = row(Status.RUNNING, process_id=late.process_id)
    engine.end_process(late.process_id, [late.id, beside.id], was_stopped=True, overdue=[late.id])
    return late, beside


def test_what_was_overdue_is_left_to_those_who_know_whether_it_is_tried_again() -> None:
    late, beside = overdue()

    engine.rescue()

    beside.refresh_from_db()
    assert (beside.status, beside.crashes) == (Status.QUEUED, 0)
    assert status(late) == Status.RUNNING
    (claimed,) = engine.overdue([late.name])
    assert (claimed.id, claimed.claims, claimed.attempt, claimed.retries) == (late.id, late.claims, late.attempt, 0)
    assert engine.overdue(["nobody.knows"]) == []


def test_its_outcome_is_written_once_and_its_process_struck_off_then() -> None:
    late, _ = overdue()
    engine.rescue()
    outcome = Outcome(held(late), states.FAIL, "timeout", error="late")

    assert [moved.id for moved in engine.finish([outcome]).moved] == [late.id]
    assert engine.finish([outcome]).moved == []

    engine.rescue()
    assert status(late) == Status.FAILURE
    assert not Process.objects.filter(pk=late.process_id).exists()


def test_after_a_minute_it_ends_without_being_tried_again() -> None:
    parent = row(Status.WAITING)
    late, _ = overdue(parent=parent, crashes=2, at_most_once=True)
    Process.objects.filter(pk=late.process_id).update(ended_at=ago(61))

    engine.rescue()

    late.refresh_from_db()
    assert (late.status, late.outcome, late.crashes, late.reason) == (Status.FAILURE, "timeout", 2, None)
    assert late.exception == "cq.exceptions.TaskTimeout"
    assert late.error == "The body ran longer than its timeout, and its process was killed."
    settle.settle_all()
    assert status(parent) == Status.INCOMPLETE
