"""Errorbacks: called once, in the transaction in which a task fails, however it fails; and they change nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now

from cq import chain, chord, database, engine, group, prune, settle, sql, task
from cq.exceptions import Fenced, InvalidArguments, InvalidOption, TaskGone
from cq.models import Errorback, SettleRequest, Task
from cq.states import Status
from cq.testing import drain
from tests.api.run import ended
from tests.rows import make
from tests.rows.elsewhere import elsewhere
from tests.tasks import adds, collects, echoes, raises, returns_none, spawns_failing

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


@task
def notes(cqt: Any, failed_id: Any, error: str, *more: Any) -> list[Any]:
    return [failed_id, error, *more, cqt.previous.status]


@task
def breaks(cqt: Any, failed_id: Any, error: str) -> None:
    raise ValueError("itself")


@task(unique="args")
def notes_one(cqt: Any, failed_id: Any, error: str) -> None: ...


@task(priority=7, retries=1, backoff=0)
def notes_at_last(cqt: Any, failed_id: Any, error: str) -> int:
    if cqt.attempt == 1:
        raise ValueError("not yet")
    return cqt.attempt


@task
def makes_failing(cqt: Any) -> None:
    cqt.errorback(notes, ("below",))
    cqt.subtask(raises).errorback(notes, ("itself",)).chain(adds, (1,)).errorback(notes, ("never",))


@task
def makes_and_raises(cqt: Any) -> None:
    cqt.errorback(notes)
    cqt.subtask(raises).errorback(notes)
    raise ValueError("own")


@task
def makes_group_with_errorbacks(cqt: Any) -> None:
    cqt.subtask(group(raises.s().on_error(notes.s("member")), adds.s(1)).on_error(notes.s("group")))


def called() -> list[Task]:
    return list(Task.objects.filter(name=notes.name).order_by("id"))


def test_an_errorback_is_passed_the_id_and_the_error_before_its_own_arguments() -> None:
    failing = raises.delay("no luck")

    assert failing.errorback(notes, ("more",), {}) is failing
    drain()

    (errorback,) = called()
    assert (errorback.status, errorback.result) == ("SUCCESS", [failing.id, "no luck", "more", "FAILURE"])
    assert (errorback.parent, errorback.previous, errorback.root) == (None, failing, failing)


def test_one_that_comes_after_the_end_is_called_at_once() -> None:
    failed = make.row(Status.FAILURE, error="why")

    failed.errorback(notes)

    assert [errorback.args for errorback in called()] == [(failed.id, "why")]


def test_there_is_no_trace_of_it_where_nothing_fails() -> None:
    fine = adds.delay(1).errorback(notes)

    drain()

    fine.refresh_from_db()
    assert fine.status == "SUCCESS"
    assert Task.objects.count() == 1


@pytest.mark.parametrize("status", Status)
def test_it_is_called_after_these_ends_and_no_others(status: Status) -> None:
    row = make.row(status, error="why", reason=None)

    row.errorback(notes)
    settle.settle_all()

    calls = status in (Status.FAILURE, Status.INCOMPLETE, Status.LOST, Status.EXPIRED)
    assert [errorback.args for errorback in called()] == [(row.id, "why")] * calls
    assert Errorback.objects.get().called is calls


def test_it_is_inserted_by_the_failing_transaction_itself() -> None:
    row = make.row(Status.RUNNING)
    row.errorback(notes)
    settle.settle_all()

    with transaction.atomic():
        engine.finish_own(make.failed(make.held(row)))
        assert [errorback.status for errorback in called()] == ["QUEUED"]
        transaction.set_rollback(True)
    assert called() == []
    engine.finish([make.failed(make.held(row))])

    assert [errorback.status for errorback in called()] == ["QUEUED"]


def lose(row: Task) -> None:
    engine.end_process(row.process_id, [row.id])
    assert engine.rescue()


def refuse(row: Task) -> None:
    assert engine.refuse([row.name]) == [row.id]


def expire(row: Task) -> None:
    assert engine.expire()


def fall_short(row: Task) -> None:
    make.row(Status.FAILURE, parent=row)
    assert settle.settle([row.id]).ended


@pytest.mark.parametrize(
    ("status", "columns", "fails", "error"),
    [
        (Status.RUNNING, {"crashes": 2}, lose, "Its worker process died 3 times while running it."),
        (
            Status.QUEUED,
            {"name": "nobody.knows", "run_after": make.ago(9999)},
            refuse,
            "No worker knows a task 'nobody.knows'",
        ),
        (Status.QUEUED, {"start_by": make.ago(9)}, expire, "It was not started"),
        (Status.WAITING, {}, fall_short, "Not all of its subtasks succeeded."),
    ],
)
def test_no_way_to_fail_forgets_it(status: Status, columns: Any, fails: Any, error: str) -> None:
    row = make.row(status, **columns)
    row.errorback(notes)
    SettleRequest.objects.all().delete()

    fails(row)

    (errorback,) = called()
    assert errorback.args[0] == row.id
    assert errorback.args[1].startswith(error)
    assert "default" in settle.settle_all().queues


@committed
def test_one_that_is_kept_while_the_task_fails_is_called_by_settling() -> None:
    row = make.row(Status.RUNNING)
    with elsewhere() as caller:
        caller.open()
        caller(lambda: Task.objects.get(pk=row.pk).errorback(notes))

        engine.finish([make.failed(make.held(row))])
        settle.settle_all()
        assert called() == []
        caller.commit()
    settled = settle.settle_all()

    assert [errorback.status for errorback in called()] == ["QUEUED"]
    assert settled.queues == {"default"}


@committed
def test_settling_twice_or_by_two_calls_it_once() -> None:
    row = make.row(Status.FAILURE, error="why")
    Errorback.objects.create(task_id=row.id, spec=spec(row))
    with elsewhere() as other:
        other.open()
        other(database.execute, sql.CALL_ERRORBACKS, row.id)
        SettleRequest.objects.create(task_id=row.id)
        settle.settle_all()
        assert called() == []
        other.commit()
    settle.settle([row.id])

    assert len(called()) == 1


def spec(row: Task) -> Any:
    import json

    from cq.call import call_of

    return json.loads(call_of(notes, (), {}, {}).errorback(row.id).as_json())


@committed
def test_a_task_is_not_removed_while_an_errorback_is_kept_for_it() -> None:
    row = make.row(Status.SUCCESS, result_ttl=0, prune_after=make.ago(9), finished_at=make.ago(9))
    with elsewhere() as caller:
        caller.open()
        caller(lambda: Task.objects.get(pk=row.pk).errorback(notes))

        prune.prune()
        assert Task.objects.filter(pk=row.pk).exists()
        caller.commit()

    settle.settle_all()
    Task.objects.update(prune_after=make.ago(9))
    prune.prune()
    assert not Errorback.objects.exists()


def test_a_retry_fails_anew_without_another_call() -> None:
    failing = raises.delay().errorback(notes)
    drain()

    failing.retry()
    drain()

    failing.refresh_from_db()
    assert (failing.status, failing.attempt, len(called())) == ("FAILURE", 2, 1)


def test_one_that_came_after_a_retry_is_called_at_the_next_failure() -> None:
    failing = raises.delay().errorback(notes, ("first",))
    drain()
    failing.retry()
    failing.errorback(notes, ("second",))

    drain()

    assert [errorback.args[2] for errorback in called()] == ["first", "second"]


def test_its_own_failure_changes_nothing_else() -> None:
    parent = spawns_failing.delay(2)
    parent.chain(adds, (1,), force_chain=True)
    parent.errorback(breaks)
    drain()

    parent.refresh_from_db()
    assert parent.status == "INCOMPLETE"
    errorback = parent.next.get(name=breaks.name)
    assert (errorback.status, errorback.error) == ("FAILURE", "itself")
    assert parent.next.get(name=adds.name).status == "SUCCESS"
    assert not SettleRequest.objects.exists()


def test_it_is_a_task_like_all_others() -> None:
    failing = raises.delay().errorback(notes_at_last.using(queue="alerts"))
    drain()
    Task.objects.filter(status="RETRY").update(run_after=Now())
    drain()

    errorback = failing.next.get()
    assert (errorback.queue, errorback.priority) == ("alerts", 7)
    assert (errorback.status, errorback.result) == ("SUCCESS", 2)


def test_a_delayed_one_is_scheduled() -> None:
    failing = raises.delay().errorback(notes.using(run_after=60, expires=5))

    drain()

    errorback = failing.next.get()
    assert (errorback.status, errorback.start_by - errorback.run_after) == ("SCHEDULED", make.timedelta(seconds=5))


def test_what_a_body_makes_carries_its_errorbacks() -> None:
    parent = makes_failing.delay()

    drain()

    found = {errorback.result[2]: errorback.result for errorback in called()}
    assert found.keys() == {"below", "itself"}
    assert found["below"][:2] == [parent.id, "Not all of its subtasks succeeded."]
    assert found["itself"][:2] == [parent.subtasks.get(name=raises.name).id, "broken"]


def test_a_body_that_raises_leaves_no_errorback() -> None:
    makes_and_raises.delay()

    drain()

    assert Task.objects.count() == 1
    assert not Errorback.objects.exists()


@committed
def test_a_fenced_body_leaves_no_errorback() -> None:
    row = make.row(Status.RUNNING, name=makes_failing.name, args=())
    new = make.subtask_of(make.held(row, claims=2))
    kept = make.NewTask(name=notes.name, errorback_of=new.id, maker_id=row.id, maker_claims=2)
    outcome = make.succeeded(make.held(row, claims=2), None, (new, kept))

    assert engine.finish([outcome]).moved == []
    with pytest.raises(Fenced):
        make.finish_own(outcome)

    assert not Errorback.objects.exists()


def test_signatures_carry_errorbacks() -> None:
    whole = chain(
        adds.s(1),
        group(raises.s("one").on_error(notes.s("member")), adds.s(2)).on_error(notes.s("group")),
        collects.s(),
    ).on_error(notes.s("chain"))

    whole.delay()
    drain()

    found = sorted((errorback.args[2], errorback.previous.name) for errorback in called())
    assert found == [("chain", "cq.group"), ("group", "cq.group"), ("member", raises.name)]


def test_a_chord_fails_with_its_header_or_its_callback() -> None:
    chord([raises.s()], collects.s()).on_error(notes.s("header")).delay()
    chord([adds.s(1)], raises.s().using(pass_result=False)).on_error(notes.s("callback")).delay()

    drain()

    assert sorted((errorback.args[2], errorback.previous.name) for errorback in called()) == [
        ("callback", raises.name),
        ("header", "cq.group"),
    ]


def test_a_composition_below_a_body_carries_errorbacks() -> None:
    makes_group_with_errorbacks.delay()

    drain()

    assert sorted(errorback.args[2] for errorback in called()) == ["group", "member"]


def test_revoking_the_workflow_stops_errorbacks_that_wait_in_it() -> None:
    failing = raises.delay().errorback(notes.using(run_after=60))
    drain()

    failing.revoke()

    assert [errorback.status for errorback in called()] == ["REVOKED"]


@pytest.mark.parametrize(
    ("func", "args", "error", "says"),
    [
        (returns_none, (), InvalidArguments, "too many positional"),
        (notes_one, (), InvalidOption, "its unique= is made from arguments that are known only when it is called"),
        (echoes.using(unique_key="k"), (), InvalidOption, "unique_key= is not possible for an errorback"),
        (echoes.using(submit=False), (), InvalidOption, "stand alone"),
    ],
)
def test_what_cannot_be_an_errorback_is_refused(func: Any, args: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        adds.delay(1).errorback(func, args)

    assert not Errorback.objects.exists()


def test_the_errorback_of_a_task_that_is_gone_is_refused() -> None:
    gone = adds.delay(1)
    Task.objects.all().delete()

    with pytest.raises(TaskGone, match="nothing can be called when it fails"):
        gone.errorback(notes)


@pytest.mark.django_db(transaction=True)
def test_the_async_twin_does_the_same() -> None:
    from asgiref.sync import async_to_sync

    failing = raises.delay()

    assert async_to_sync(failing.aerrorback)(notes) is failing
    assert ended(failing).next.get().status == "SUCCESS"
