"""Retention: whole finished workflows go when their time is over, and never a part of one."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection
from django.db.models.functions import Now

from cq import engine, prune, settle
from cq.exceptions import NotAllowedHere, TaskGone
from cq.failpoints import FailpointReached
from cq.models import Event, Lingering, PastAttempt, SettleRequest, Statistic, Step, Task
from cq.prune import prune_now
from cq.states import TERMINAL, UNFINISHED, Status
from cq.testing import drain, failpoint
from tests import tasks
from tests.models import Refers
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import ago, row, status
from tests.rows.test_guards import waits
from tests.rows.test_races import pausing_at
from tests.work import work

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def root(state: Status = Status.SUCCESS, **columns: Any) -> Task:
    """Make a root whose time has been over for long."""
    return row(state, **{"result_ttl": 60, "prune_after": ago(3600), "finished_at": ago(7200)} | columns)


def member(of: Task, state: Status = Status.SUCCESS, **columns: Any) -> Task:
    values = {"workflow": of, "parent": of} | ({"finished_at": ago(7200)} if state in TERMINAL else {})
    return row(state, **values | columns)


def there(*made: Task) -> list[bool]:
    ids = set(Task.objects.values_list("pk", flat=True))
    return [task.pk in ids for task in made]


def test_a_workflow_goes_with_all_that_belongs_to_it() -> None:
    top = root()
    child = member(top)
    behind = row(Status.SKIPPED, workflow=top, previous=child, finished_at=ago(7200))
    other = row(Status.SUCCESS)
    for task in (top, child, behind, other):
        PastAttempt.objects.create(task=task, number=1, outcome="error")

    pruned = prune.prune()

    assert (pruned.workflows, pruned.tasks, pruned.is_complete) == (1, 3, True)
    assert there(top, child, behind, other) == [False, False, False, True]
    assert [attempt.task_id for attempt in PastAttempt.objects.all()] == [other.pk]


@pytest.mark.parametrize("columns", [{"prune_after": None}, {"prune_after": Now() + timedelta(minutes=1)}], ids=str)
def test_what_is_to_be_kept_is_kept(columns: dict[str, Any]) -> None:
    kept = root(**columns)

    assert prune.prune().workflows == 0
    assert there(kept) == [True]


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_with_an_unfinished_task_nothing_of_the_workflow_goes(state: Status) -> None:
    top = root()
    made = [top, member(top), member(top, state), row(Status.SUCCESS, workflow=top, previous=top)]

    assert prune.prune().workflows == 0
    assert there(*made) == [True] * 4


def test_an_unfinished_workflow_is_looked_at_again_before_long_and_is_not_in_the_way() -> None:
    for _ in range(3):
        member(root(), Status.RUNNING)
    due = root(prune_after=ago(60))

    first, second = prune.prune(3), prune.prune(3)

    assert (first.workflows, second.workflows) == (0, 1)
    assert there(due) == [False]
    assert set(
        Task.objects.filter(workflow=None, prune_after__gt=Now() + timedelta(seconds=50)).values_list(
            "status", flat=True
        )
    ) == {"SUCCESS"}


def test_the_last_end_in_a_workflow_counts_and_the_roots_time() -> None:
    top = root(result_ttl=3600)
    last = member(top, finished_at=ago(600), result_ttl=1)

    assert prune.prune().workflows == 0

    top.refresh_from_db()
    last.refresh_from_db()
    assert top.prune_after == last.finished_at + timedelta(hours=1)
    Task.objects.filter(pk=last.pk).update(finished_at=ago(3601))
    Task.objects.filter(pk=top.pk).update(prune_after=ago(0))
    assert prune.prune().workflows == 1


def test_a_member_with_a_time_of_its_own_does_not_go_alone() -> None:
    top = root(prune_after=None, result_ttl=None)
    child = member(top, prune_after=ago(5), result_ttl=1)

    prune.prune()

    assert there(top, child) == [True, True]


@pytest.mark.parametrize("part", ["root", "member"])
def test_while_a_body_lingers_its_workflow_stays(part: str) -> None:
    top = root()
    child = member(top)
    Lingering.objects.create(task_id={"root": top, "member": child}[part].pk, process_id=uuid4())

    assert prune.prune().workflows == 0
    with pytest.raises(NotAllowedHere, match="a body of it may still run"):
        prune_now(top.pk)
    assert there(top, child) == [True, True]


def test_while_something_is_to_be_settled_a_workflow_stays() -> None:
    top = root()
    child = member(top)
    SettleRequest.objects.create(task_id=child.pk)

    assert prune.prune().workflows == 0
    settle.settle_all()
    prune_now(top.pk)
    assert there(top, child) == [False, False]


def test_what_a_rate_counts_is_kept_for_its_time() -> None:
    top = root(key="k", rate_starts=1, rate_seconds=86_400, started_at=ago(7300))

    assert prune.prune().workflows == 0
    top.refresh_from_db()
    assert top.prune_after == top.started_at + timedelta(days=1)


def test_a_result_that_is_kept_for_no_time_goes_at_once() -> None:
    task = tasks.adds.using(result_ttl=0).delay(1)
    drain()

    assert prune.prune().workflows == 1
    for verb in (task.wait, task.get, task.retry, lambda: task.chain(tasks.adds, (1,))):
        with pytest.raises(TaskGone):
            verb()
    assert task.revoke() is False


def test_what_was_never_submitted_is_revoked_with_what_follows() -> None:
    task = tasks.adds.using(submit=False, result_ttl=60).delay(1)
    behind = task.chain(tasks.adds, (1,))
    Task.objects.filter(pk=task.pk).update(prune_after=ago(1))

    pruned = prune.prune()
    settle.settle_all()

    task.refresh_from_db()
    assert pruned.revoked == 1
    assert (task.status, task.reason) == ("REVOKED", "It was not submitted in time.")
    assert task.prune_after > task.finished_at
    assert status(behind) == Status.REVOKED


def test_what_waits_to_be_submitted_stays_until_its_time_is_over() -> None:
    task = tasks.adds.using(submit=False).delay(1)

    assert prune.prune().revoked == 0
    assert status(task) == Status.PENDING


def test_what_became_a_subtask_has_no_time_of_its_own() -> None:
    tasks.returns_delayed_chain.delay(3)
    drain()

    assert set(Task.objects.exclude(workflow=None).values_list("prune_after", "result_ttl")) == {(None, None)}


@committed
def test_a_workflow_that_somebody_is_chaining_onto_stays() -> None:
    top = root()
    child = member(top)
    with elsewhere() as web:
        web.open()
        web(child.chain, tasks.adds, (1,))

        assert prune.prune().workflows == 0
        with pytest.raises(NotAllowedHere, match="just being added to"):
            prune_now(top.pk)
        web.commit()

    assert there(top, child) == [True, True]
    assert child.next.get().status == Status.QUEUED


@committed
def test_what_is_chained_on_between_the_look_and_the_lock_is_seen() -> None:
    top = root()
    child = member(top)
    with elsewhere() as web, pausing_at("prune.locked_roots", lambda: web(child.chain, tasks.adds, (1,))):
        assert prune.prune().workflows == 0

    assert there(top, child) == [True, True]
    assert child.next.get().status == Status.QUEUED


@committed
@pytest.mark.parametrize("end", [False, True], ids=["unfinished", "finished and newer"])
def test_what_is_chained_on_after_the_first_look_is_seen_by_the_second(end: bool) -> None:
    top = root()
    child = member(top)

    def add() -> None:
        new = child.chain(tasks.adds, (1,))
        if end:
            Task.objects.filter(pk=new.pk).update(status="SUCCESS", finished_at=Now())

    with elsewhere() as web, pausing_at("prune.looked", lambda: web(add)):
        assert prune.prune().workflows == 0

    assert there(top, child) == [True, True]


@committed
def test_what_is_reopened_after_the_first_look_is_seen_by_the_second() -> None:
    top = root(Status.INCOMPLETE)
    child = member(top)
    behind = row(Status.FAILURE, workflow=top, previous=top, finished_at=ago(7200))

    with elsewhere() as web, pausing_at("prune.looked", lambda: web(engine.reopen, behind.pk)):
        assert prune.prune().workflows == 0

    assert make.statuses(top, child, behind) == [Status.INCOMPLETE, Status.SUCCESS, Status.QUEUED]


@committed
def test_whoever_chains_onto_what_is_being_removed_finds_it_gone() -> None:
    top = root()
    child = member(top)
    with elsewhere() as web, elsewhere() as watcher:
        chaining = []

        def chain() -> None:
            chaining.append(web.begin(child.chain, tasks.adds, (1,)))
            assert watcher(waits, chaining[0])

        with pausing_at("prune.deleted", chain):
            assert prune.prune().workflows == 1
        with pytest.raises(TaskGone, match="no longer stored, so nothing can follow it"):
            chaining[0].result(10)

    assert not Task.objects.exists()


@committed
def test_whoever_retries_what_is_being_removed_finds_it_gone() -> None:
    top = root(Status.INCOMPLETE)
    member(top, Status.FAILURE)
    with elsewhere() as web, elsewhere() as watcher:
        retrying = []

        def retry() -> None:
            retrying.append(web.begin(top.retry))
            assert watcher(waits, retrying[0])

        with pausing_at("prune.deleted", retry):
            assert prune.prune().workflows == 1
        with pytest.raises(TaskGone):
            retrying[0].result(10)

    assert not Task.objects.exists()


@committed
def test_what_is_being_reopened_stays() -> None:
    top = root(Status.INCOMPLETE)
    child = member(top, Status.FAILURE)
    with elsewhere() as web:
        web.open()
        web(engine.reopen, child.pk)

        assert prune.prune().workflows == 0
        web.commit()

    assert make.statuses(top, child) == [Status.WAITING, Status.QUEUED]


@committed
def test_tasks_are_added_while_workflows_are_removed_and_none_is_torn() -> None:
    """T74: with every chain either its whole workflow is there, or the caller was told that it is gone."""
    tops = [root(result_ttl=0) for _ in range(60)]
    for top in tops:
        member(top)
    added: list[UUID] = []

    def add() -> None:
        for top in tops:
            try:
                added.append(top.chain(tasks.adds, (1,)).pk)
            except TaskGone:
                continue

    def remove() -> int:
        removed = 0
        while not (this := prune.prune(3)).is_complete:
            removed += this.workflows
        return removed

    with failpoint("prune.locked=sleep:0.5:2ms,prune.deleted=sleep:0.5:2ms"):
        _, *removed = together(add, remove, remove)

    assert sum(removed) + len(added) == 60
    assert Task.objects.count() == 3 * len(added)
    assert Task.objects.filter(pk__in=added, previous__isnull=False, status="QUEUED").count() == len(added)
    connection.check_constraints(["cq_task"])


@committed
def test_two_who_prune_share_the_work() -> None:
    for _ in range(40):
        member(root())

    with failpoint("prune.deleted=sleep:3ms"):
        together(*[lambda: [prune.prune(2) for _ in range(30)]] * 3)

    assert not Task.objects.exists()


@committed
def test_a_death_in_the_middle_leaves_whole_workflows() -> None:
    for _ in range(3):
        member(root())

    with failpoint("prune.deleted=raise"), pytest.raises(FailpointReached):
        prune.prune()

    assert Task.objects.count() == 6
    assert prune.prune().tasks == 6


def test_a_batch_takes_no_more_tasks_than_fit_but_at_least_one_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "_TASKS", 4)
    big = root(prune_after=ago(9000))
    for _ in range(5):
        member(big)
    for _ in range(3):
        member(root())

    batches = [prune.prune() for _ in range(4)]

    assert [batch.tasks for batch in batches] == [6, 4, 2, 0]
    assert [batch.is_complete for batch in batches] == [False, False, True, True]


@committed
@pytest.mark.parametrize("shape", ["lone", "wide", "chain"])
def test_ten_thousand_go_in_linear_time(shape: str) -> None:
    def remove() -> None:
        while not prune.prune().is_complete:
            pass
        assert not Task.objects.exists()

    took = []
    for number in (1000, 10_000):
        make_shape(shape, number)
        took.append(work(remove))
    assert took[1] / took[0] < 13, took  # quadratic would be a hundred times


def make_shape(shape: str, number: int) -> None:
    columns = "name, args, kwargs, status, finished_at, result_ttl, prune_after"
    old = "'tests.tasks.adds', '[1]', '{}', 'SUCCESS', now() - interval '1 h', 1, now() - interval '1 h'"
    ids = "md5(n::text)::uuid"
    references = {
        "lone": ("", ""),
        "wide": (", parent_id, workflow_id", f", CASE WHEN n > 1 THEN {ids.replace('n::', '1::')} END"),
        "chain": (", previous_id, workflow_id", ", CASE WHEN n > 1 THEN md5((n - 1)::text)::uuid END"),
    }[shape]
    top = ", CASE WHEN n > 1 THEN md5('1')::uuid END" if references[0] else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO cq_task (id, {columns}{references[0]}) "
            f"SELECT {ids}, {old}{references[1]}{top} FROM generate_series(1, %s) AS n",
            [number],
        )
        cursor.execute("ANALYZE cq_task")


@pytest.mark.parametrize("how", ["cascades", "is_set_null"])
def test_rows_of_the_project_that_refer_to_tasks_are_treated_as_they_say(how: str) -> None:
    top = root()
    child = member(top)
    refers = Refers.objects.create(**{how: child})

    assert prune.prune().tasks == 2

    assert list(Refers.objects.filter(pk=refers.pk).values_list("is_set_null")) == (
        [] if how == "cascades" else [(None,)]
    )


@committed
@pytest.mark.parametrize("how", ["protects", "does_nothing"])
def test_a_workflow_that_a_row_of_the_project_protects_stays_and_is_not_in_the_way(how: str) -> None:
    tops = [root(prune_after=ago(9000 - number)) for number in range(5)]
    Refers.objects.create(**{how: member(tops[1])})

    removed = sum(prune.prune().workflows for _ in range(5))

    assert removed == 4
    assert there(*tops) == [False, True, False, False, False]
    assert Task.objects.get(pk=tops[1].pk).prune_after > tops[1].prune_after + timedelta(hours=1)
    with pytest.raises(IntegrityError):
        prune_now(tops[1].pk)
    Refers.objects.all().delete()


def test_by_hand_a_workflow_goes_whatever_its_time() -> None:
    top = root(prune_after=None, result_ttl=None, key="k", rate_starts=1, rate_seconds=86_400, started_at=ago(1))
    member(top)

    assert prune_now(top.pk) == 2
    with pytest.raises(TaskGone):
        prune_now(top.pk)


def test_by_hand_too_an_unfinished_workflow_stays() -> None:
    top = root()
    made = [top, member(top), member(top, Status.SCHEDULED)]

    with pytest.raises(NotAllowedHere, match=r"1 of 3 tasks of workflow .* have not ended"):
        prune_now(top.pk)

    assert there(*made) == [True] * 3


@committed
def test_by_hand_what_somebody_has_locked_stays() -> None:
    top = root()
    with elsewhere() as web:
        web.open()
        web(top.chain, tasks.adds, (1,))
        with pytest.raises(NotAllowedHere, match="just being added to"):
            prune_now(top.pk)


def test_statistics_are_kept_for_ninety_days() -> None:
    for days in (1, 89, 91, 400):
        count = {"queue": "q", "name": "n", "outcome": "success", "bucket": 1, "count": 1}
        Statistic.objects.create(minute=ago(days * 86_400), process_id=uuid4(), run_seconds=1, wait_seconds=1, **count)

    assert prune.prune_statistics() == 2
    assert Statistic.objects.filter(minute__lt=ago(90 * 86_400)).count() == 0
    assert Statistic.objects.count() == 2


@pytest.mark.parametrize("refers", [False, True], ids=["by itself", "with a row of the project that refers to it"])
def test_steps_events_and_attempts_go_with_their_tasks(refers: bool) -> None:
    top = root()
    child = member(top)
    other = row(Status.SUCCESS)
    for task in (top, child, other):
        PastAttempt.objects.create(task=task, number=1, outcome="error")
        Step.objects.create(task=task, kind="step", name="one", attempt=1, started_at=Now())
        Event.objects.create(task=task, name="go", outcome="accepted")
    if refers:
        Refers.objects.create(cascades=child)

    pruned = prune.prune()

    assert pruned.tasks == 2
    for model in (PastAttempt, Step, Event):
        assert [row.task_id for row in model.objects.all()] == [other.pk]
