"""Writing outcomes: fenced by the claim, together with what follows, around rows that somebody has locked."""

import threading

import pytest
from django.db import transaction
from django.db.models.functions import Now

from cq import engine, outcome, settle, sql, states
from cq.engine import finishing
from cq.exceptions import Fenced
from cq.models import PastAttempt, SettleRequest, Task
from cq.new import GROUP
from cq.outcome import Outcome
from cq.states import Status
from cq.testing import failpoint
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import failed, held, image, process, row, status, subtask_of, succeeded, take

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True, params=["as it comes", "as a link", "among many"])
def statements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone success, and what follows a lone link, have statements of their own, which must do what those for lists do."""
    if request.param == "as a link":
        monkeypatch.setattr(finishing, "_is_link", lambda outcome: True)
    if request.param == "among many":
        monkeypatch.setattr(finishing, "_is_lone", lambda outcome: False)


def overtaken() -> tuple[Task, outcome.Claimed, outcome.Claimed]:
    """Let a worker lose a task to another one; return the task, the lost claim and the one that holds."""
    task = tasks.adds.delay(1)
    late_process = process()
    (late,) = take(late_process)
    engine.end_process(late_process, [task.id])
    engine.rescue()
    engine.promote()
    (now,) = take(process(), suspects=True)
    return task, late, now


OUTCOMES = {
    "finish": succeeded,
    "fail": failed,
    "retry": lambda claimed: Outcome(claimed, states.RETRY_LATER, "error", delay=0, charge="retries"),
    "give_back": outcome.given_back,
    "interrupt": outcome.interrupted,
    "add_subtasks": lambda claimed: succeeded(claimed, None, (subtask_of(claimed),)),
}


@pytest.mark.parametrize("ended", OUTCOMES.values(), ids=OUTCOMES)
def test_a_late_worker_can_do_nothing_to_a_rescued_task(ended) -> None:
    task, late, _ = overtaken()
    before = image(task.id)
    SettleRequest.objects.all().delete()

    finished = engine.finish([ended(late)])

    assert finished.moved == []
    assert image(task.id) == before
    assert Task.objects.count() == 1
    assert PastAttempt.objects.count() == 1
    assert not SettleRequest.objects.exists()
    assert engine.still_mine([ended(late)]) == set()


@pytest.mark.parametrize("ended", OUTCOMES.values(), ids=OUTCOMES)
def test_a_late_worker_can_do_nothing_to_a_finished_task(ended) -> None:
    task, late, now = overtaken()
    engine.finish([succeeded(now)])
    before = image(task.id)

    engine.finish([ended(late)])

    assert image(task.id) == before
    assert Task.objects.count() == 1


def test_a_late_body_that_ends_its_own_transaction_is_told() -> None:
    task, late, now = overtaken()

    with pytest.raises(Fenced, match=str(task.id)), transaction.atomic():
        make.finish_own(succeeded(late))

    assert [row.id for row in make.finish_own(succeeded(now)).moved] == [task.id]


def test_a_rescue_is_fenced_by_the_claim_even_within_one_process() -> None:
    task = tasks.adds.delay(1)
    process_id = process()
    (first,) = take(process_id)
    engine.finish([outcome.given_back(first)])
    (second,) = take(process_id)

    late = engine.finish([succeeded(first, "late")])
    in_time = engine.finish([succeeded(second, "in time")])

    task.refresh_from_db()
    assert (late.moved, len(in_time.moved)) == ([], 1)
    assert task.result == "in time"


def test_a_list_is_written_with_its_late_ones_left_out() -> None:
    task, late, _ = overtaken()
    others = [row(Status.RUNNING) for _ in range(3)]

    finished = engine.finish(
        [succeeded(held(others[0])), succeeded(late), failed(held(others[1])), succeeded(held(others[2]))]
    )

    assert {moved.id for moved in finished.moved} == {task.id for task in others}
    assert make.statuses(*others, task) == [Status.SUCCESS, Status.FAILURE, Status.SUCCESS, Status.RUNNING]


@committed
def test_a_row_that_an_outsider_has_locked_holds_up_no_other_outcome() -> None:
    locked, free = row(Status.RUNNING), row(Status.RUNNING)
    outcomes = [succeeded(held(locked)), succeeded(held(free))]
    with elsewhere() as outsider:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=locked.pk))

        finished = engine.finish(outcomes)

        assert [moved.id for moved in finished.moved] == [free.id]
        assert engine.still_mine([outcomes[0]]) == {locked.id}
    assert [moved.id for moved in engine.finish([outcomes[0]]).moved] == [locked.id]
    assert engine.still_mine(outcomes) == set()


@committed
def test_a_row_that_somebody_is_chaining_onto_can_be_finished() -> None:
    task = row(Status.RUNNING)
    with elsewhere() as web:
        web.open()
        web(task.chain, tasks.adds, (1,))

        finished = engine.finish([succeeded(held(task))])

    assert [moved.id for moved in finished.moved] == [task.id]


@committed
def test_a_body_that_ends_its_own_transaction_waits_for_an_outsiders_lock() -> None:
    task = row(Status.RUNNING)
    with elsewhere() as outsider, elsewhere() as worker:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=task.pk))
        finishing = worker.begin(make.finish_own, succeeded(held(task)))
        outsider.commit()

        assert [moved.id for moved in finishing.result(10).moved] == [task.id]


@committed
def test_a_revoke_and_a_finish_at_once_leave_one_end() -> None:
    for _ in range(40):
        task = row(Status.RUNNING)
        claimed = held(task)

        finished, revoked = together(
            lambda claimed=claimed: engine.finish([succeeded(claimed)]).moved,
            lambda task=task: engine.revoke([task.id], reason="By a test."),
        )

        assert (bool(finished), bool(revoked)) in [(True, False), (False, True)]
        assert status(task) == (Status.SUCCESS if finished else Status.REVOKED)


@committed
@pytest.mark.parametrize("point", ["finish.swapped", "finish.made", "finish.asked"])
def test_outcome_subtasks_and_requests_are_written_together_or_not_at_all(point: str) -> None:
    parent = row(Status.WAITING)
    task = row(Status.RUNNING, parent=parent)
    claimed = held(task)
    before = image(task.id)

    with failpoint(f"{point}=raise"), pytest.raises(Exception, match=point):
        engine.finish([succeeded(claimed, 1, (subtask_of(claimed),))])

    assert image(task.id) == before
    assert Task.objects.count() == 2
    assert not SettleRequest.objects.exists()
    assert engine.finish([succeeded(claimed, 1, (subtask_of(claimed),))]).moved


def test_who_ends_releases_its_successors_and_asks_for_its_parent() -> None:
    parent = row(Status.WAITING)
    task, lone = row(Status.RUNNING, parent=parent), row(Status.RUNNING)
    after = row(Status.PENDING, previous=task, queue="another")

    finished = engine.finish([succeeded(held(task)), succeeded(held(lone))])

    assert {(moved.id, moved.status) for moved in finished.moved} == {
        (task.id, Status.SUCCESS),
        (lone.id, Status.SUCCESS),
        (after.id, Status.QUEUED),
    }
    assert finished.queues == {"another"}
    assert finished.asked == [parent.id]
    assert set(SettleRequest.objects.values_list("task_id", flat=True)) == {parent.id}


def test_who_fails_skips_its_successors_and_asks_for_what_comes_after_them() -> None:
    parent = row(Status.WAITING)
    task = row(Status.RUNNING, parent=parent)
    after = row(Status.PENDING, previous=task, parent=parent)
    forced = row(Status.PENDING, previous=task, parent=parent, force_chain=True)

    finished = engine.finish([failed(held(task))])

    assert [Task.objects.get(pk=made.id).status for made in (after, forced)] == ["SKIPPED", "QUEUED"]
    assert set(finished.asked) == {parent.id, after.id, task.id}  # itself: for its errorbacks


def test_a_late_worker_releases_no_successor() -> None:
    task, late, _ = overtaken()
    after = row(Status.PENDING, previous=task)
    SettleRequest.objects.all().delete()

    finished = engine.finish([succeeded(late)])

    assert (finished.moved, status(after)) == ([], Status.PENDING)
    assert finished.asked in ([], [task.id])  # to ask in vain does no harm


def test_a_group_that_follows_waits_and_is_asked_for() -> None:
    task = row(Status.RUNNING)
    group = row(Status.PENDING, name=GROUP, previous=task)

    finished = engine.finish([succeeded(held(task))])
    settle.settle_all()

    assert finished.asked in ([group.id], [task.id])
    assert status(group) == Status.SUCCESS


@committed
def test_a_successor_that_somebody_has_locked_is_asked_for() -> None:
    task = row(Status.RUNNING)
    after = row(Status.PENDING, previous=task)
    with elsewhere() as outsider:
        outsider.open()
        outsider(lambda: Task.objects.select_for_update().get(pk=after.pk))

        finished = engine.finish([succeeded(held(task))])

    assert finished.asked == [task.id]
    settle.settle_all()
    assert Task.objects.get(pk=after.id).status == Status.QUEUED


@pytest.mark.parametrize("others", [0, 1])
def test_successors_that_have_ended_already_are_left_alone(others: int) -> None:
    task = row(Status.RUNNING)
    after = row(Status.REVOKED, previous=task)

    finished = engine.finish([succeeded(held(each)) for each in (task, *(row(Status.RUNNING) for _ in range(others)))])

    assert finished.asked == []
    assert Task.objects.get(pk=after.id).status == Status.REVOKED


@committed
@pytest.mark.parametrize("others", [0, 1])
def test_a_successor_that_is_revoked_between_the_look_and_the_lock_stays_revoked(
    others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = row(Status.RUNNING)
    ended = [task, *(row(Status.RUNNING) for _ in range(others))]
    after = row(Status.PENDING, previous=task)
    slow = sql.FOLLOW.replace("ARRAY(SELECT id FROM after))", "ARRAY(SELECT id FROM after, pg_sleep(0.6)))")
    slow_lone = sql.FOLLOW_LONE.replace("FROM cq_task n", "FROM (SELECT pg_sleep(0.6)) AS nap, cq_task n", 1)
    monkeypatch.setattr(sql, "FOLLOW", slow)
    monkeypatch.setattr(sql, "FOLLOW_LONE", slow_lone)
    with elsewhere() as web:
        soon = threading.Timer(0.2, lambda: web(engine.revoke, [after.id], reason="by hand"))
        soon.start()

        engine.finish([succeeded(held(each)) for each in ended])

        soon.join()
    assert Task.objects.get(pk=after.id).reason == "by hand"
    assert Task.objects.get(pk=after.id).status == Status.REVOKED


def test_more_successors_than_one_statement_takes_are_asked_for() -> None:
    task = row(Status.RUNNING)
    make.many(1001, Status.PENDING, previous_id=task.id)

    finished = engine.finish([succeeded(held(task))])

    assert finished.asked == [task.id]
    settle.settle_all()
    assert not Task.objects.filter(status=Status.PENDING).exists()


def test_who_waits_for_subtasks_asks_for_itself() -> None:
    task = row(Status.RUNNING)
    claimed = held(task)

    finished = engine.finish([succeeded(claimed, 1, (subtask_of(claimed),))])

    assert finished.asked == [task.id]
    assert status(task) == Status.WAITING


def test_who_is_tried_again_asks_for_nobody() -> None:
    task = row(Status.RUNNING, parent=row(Status.WAITING))
    row(Status.PENDING, previous=task)

    engine.finish([Outcome(held(task), states.RETRY_LATER, "error", delay=5, charge="retries")])

    assert not SettleRequest.objects.exists()


def test_made_tasks_are_in_the_tree_of_their_maker() -> None:
    root = row(Status.WAITING)
    task = row(Status.RUNNING, parent=root, workflow=root, depth=1)
    claimed = held(task)
    child = subtask_of(claimed)
    then = subtask_of(claimed, previous_id=child.id)
    sibling = subtask_of(claimed, parent_id=root.id, queue="elsewhere")
    after = subtask_of(claimed, parent_id=root.id, previous_id=task.id)

    finished = engine.finish([succeeded(claimed, None, (child, then, sibling, after))])

    columns = {t.id: (t.parent_id, t.workflow_id, t.depth, t.status) for t in Task.objects.all()}
    assert columns[child.id] == (task.id, root.id, 2, Status.QUEUED)
    assert columns[then.id] == (task.id, root.id, 2, Status.PENDING)
    assert columns[sibling.id] == (root.id, root.id, 1, Status.QUEUED)
    assert columns[after.id] == (root.id, root.id, 1, Status.PENDING)
    assert finished.queues == {"default", "elsewhere"}


def test_many_made_tasks_are_inserted_a_thousand_a_statement() -> None:
    task = row(Status.RUNNING)
    claimed = held(task)

    engine.finish([succeeded(claimed, None, tuple(subtask_of(claimed) for _ in range(2500)))])

    assert task.subtasks.count() == 2500


def test_a_result_replaces_the_error_of_the_attempt_before() -> None:
    task = row(Status.RUNNING, error="old", exception="builtins.ValueError", traceback="old")

    engine.finish([succeeded(held(task), 5)])

    task.refresh_from_db()
    assert (task.result, task.error, task.exception, task.traceback, task.outcome) == (5, None, None, None, "success")


def test_a_claim_given_back_leaves_no_trace_but_the_fence() -> None:
    task = row(error="old", attempt=1)
    claimed = take(process())[0]

    engine.finish([outcome.given_back(claimed)])

    task.refresh_from_db()
    assert (task.status, task.claims, task.attempt, task.error, task.process_id) == (Status.QUEUED, 1, 1, "old", None)
    assert not PastAttempt.objects.exists()


def test_an_interrupted_body_was_an_attempt_that_charges_nothing() -> None:
    task = row()
    claimed = take(process())[0]

    engine.finish([outcome.interrupted(claimed)])

    task.refresh_from_db()
    assert (task.status, task.attempt, task.retries, task.crashes, task.transients) == (Status.QUEUED, 1, 0, 0, 0)
    assert [a.outcome for a in task.attempts.all()] == ["interrupted"]


def test_a_claim_that_came_back_keeps_its_place_in_the_queue() -> None:
    task = row(run_after=make.ago(9))
    claimed = take(process())[0]
    row(run_after=make.ago(5))

    engine.finish([outcome.given_back(claimed)])

    assert take(process())[0].id == task.id


def test_a_finish_in_a_transaction_that_is_rolled_back_never_was() -> None:
    task = row(Status.RUNNING)
    before = image(task.id)

    with transaction.atomic():
        make.finish_own(succeeded(held(task)))
        transaction.set_rollback(True)

    assert image(task.id) == before


@pytest.mark.parametrize("taken", ["claimed anew", "revoked"])
def test_of_a_list_of_lone_successes_those_that_are_no_longer_ours_stay_as_they_are(taken: str) -> None:
    mine, other = row(Status.RUNNING), row(Status.RUNNING)
    outcomes = [succeeded(held(mine)), succeeded(held(other))]
    change = (
        {"claims": other.claims + 1}
        if taken == "claimed anew"
        else {"status": Status.REVOKED, "process": None, "finished_at": Now()}
    )
    Task.objects.filter(pk=other.pk).update(**change)
    before = image(other.id)

    moved = engine.finish(outcomes).moved

    assert [one.id for one in moved] == [mine.id]
    assert image(other.id) == before
