"""Making rows: in the caller's transaction, in lists, and with references that hold."""

from concurrent.futures import Future
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cq import database, engine, notifier, settle, sql
from cq.exceptions import TaskGone, TooLarge
from cq.ids import uuid7
from cq.models import SettleRequest, Task
from cq.new import NewTask
from cq.states import Status
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import process, row, status, take

committed = pytest.mark.django_db(transaction=True)


@committed
def test_what_is_rolled_back_never_existed() -> None:
    with transaction.atomic():
        tasks.adds.delay(1)
        transaction.set_rollback(True)

    assert not Task.objects.exists()


@committed
def test_what_a_savepoint_takes_back_never_existed() -> None:
    with transaction.atomic():
        kept = tasks.adds.delay(1)
        with transaction.atomic():
            tasks.adds.delay(2).chain(tasks.sums, (1,))
            transaction.set_rollback(True)

    assert [task.pk for task in Task.objects.all()] == [kept.pk]
    assert not SettleRequest.objects.exists()


@committed
def test_what_is_enqueued_in_a_row_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[set[str]] = []
    monkeypatch.setattr(notifier, "wake", lambda queues: told.append(set(queues)))
    with transaction.atomic():
        for queue in ("a", "b"):
            tasks.adds.using(queue=queue).delay(1)
        with transaction.atomic():
            tasks.adds.using(queue="c").delay(1)
        transaction.on_commit(lambda: told.append({"the project's own"}))
        tasks.adds.using(queue="d").delay(1)
        assert told == []

    assert told == [{"a", "b", "c"}, {"the project's own"}, {"d"}]


@committed
def test_what_is_enqueued_after_a_savepoint_that_was_taken_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[set[str]] = []
    monkeypatch.setattr(notifier, "wake", lambda queues: told.append(set(queues)))
    with transaction.atomic():
        with transaction.atomic():
            tasks.adds.using(queue="a").delay(1)
            transaction.set_rollback(True)
        tasks.adds.using(queue="b").delay(1)

    assert told == [{"b"}]


@committed
def test_nothing_starts_before_the_commit() -> None:
    with elsewhere() as worker:
        with transaction.atomic():
            task = tasks.adds.delay(1)
            too_early = worker(lambda: take(process()))
        in_time = worker(lambda: take(process()))

    assert too_early == []
    assert [claimed.id for claimed in in_time] == [task.id]


@pytest.mark.django_db
def test_a_long_list_is_inserted_a_thousand_a_statement() -> None:
    with CaptureQueriesContext(connection) as queries:
        made = tasks.adds.delay_many([(n,) for n in range(2500)])

    inserts = [query for query in queries if "INSERT INTO cq_task" in query["sql"]]
    assert len(inserts) == 3
    assert [task.args for task in Task.objects.all()] == [(n,) for n in range(2500)]
    assert [task.pk for task in made] == list(Task.objects.values_list("pk", flat=True))


@committed
def test_a_long_list_is_made_whole_or_not_at_all() -> None:
    used = NewTask(tasks.adds.name)
    engine.enqueue(used)
    rows = [*((uuid7(), "[]", None) for _ in range(1500)), (used.id, "[]", None)]

    with pytest.raises(Exception, match="cq_task_pkey"):
        engine.enqueue_many(used, rows, lambda *_: None)

    assert Task.objects.count() == 1


@pytest.mark.django_db
def test_more_than_the_fanout_at_once_is_refused(settings) -> None:
    settings.CQ = {"MAX_FANOUT": 10}

    with pytest.raises(TooLarge, match=r"11 tasks at once; CQ\['MAX_FANOUT'\] allows 10"):
        tasks.adds.delay_many([(n,) for n in range(11)])

    assert not Task.objects.exists()


@pytest.mark.django_db
def test_ids_are_in_the_order_of_making() -> None:
    made = [tasks.adds.delay(n) for n in range(50)]

    assert sorted(made, key=lambda task: task.id) == made


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("before", "force", "expected", "asks"),
    [
        *((s, False, Status.PENDING, True) for s in Status if s not in make.states.TERMINAL),
        *((s, True, Status.PENDING, True) for s in Status if s not in make.states.TERMINAL),
        (Status.SUCCESS, False, Status.QUEUED, False),
        *((s, False, Status.SKIPPED, False) for s in sorted(make.states.UNSUCCESSFUL)),
        *((s, True, Status.QUEUED, False) for s in sorted(make.states.UNSUCCESSFUL - {Status.REVOKED})),
        (Status.REVOKED, True, Status.SKIPPED, False),
    ],
)
def test_a_successor_is_resolved_at_once_or_asks(before: Status, force: bool, expected: Status, asks: bool) -> None:
    first = row(before)

    (inserted,) = engine.enqueue_next([NewTask(tasks.adds.name, "[1]", previous_id=first.id, force_chain=force)])

    assert inserted.status == expected == status(inserted.id)
    assert SettleRequest.objects.filter(task_id=first.id).exists() is asks
    assert (inserted.reason is not None) is (expected == Status.SKIPPED)


@pytest.mark.django_db
def test_a_successor_of_nothing_is_refused_and_leaves_nothing() -> None:
    with pytest.raises(TaskGone, match="no longer stored"), transaction.atomic():
        engine.enqueue_next([NewTask(tasks.adds.name, previous_id=uuid4())])

    assert not Task.objects.exists()
    assert not SettleRequest.objects.exists()


@pytest.mark.django_db
def test_a_successor_of_an_unfinished_subtask_is_a_subtask_of_the_same_parent() -> None:
    parent = row(Status.WAITING)
    first = row(Status.QUEUED, parent=parent, workflow=parent, depth=1)

    after = Task.objects.get(pk=first.chain(tasks.adds, (1,)).pk)

    assert (after.status, after.parent_id, after.workflow_id, after.depth) == ("PENDING", parent.pk, parent.pk, 1)


@pytest.mark.django_db
def test_a_successor_is_inserted_without_a_scan_of_a_short_table_for_its_plan_stays_when_that_is_long() -> None:
    def scans() -> int:
        ((number,),) = database.execute("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'cq_task'")
        return int(number)

    database.execute("TRUNCATE cq_task CASCADE")
    first = row(Status.QUEUED)
    database.execute("ANALYZE cq_task")
    before = scans()
    for _ in range(10):
        first.chain(tasks.adds, (1,))

    assert scans() == before


@pytest.mark.django_db
def test_a_skipped_successor_of_a_subtask_asks_for_their_parent() -> None:
    parent = row(Status.WAITING)
    first = row(Status.FAILURE, parent=parent)

    (inserted,) = engine.enqueue_next([NewTask(tasks.adds.name, previous_id=first.id)])

    assert inserted.parent_id == parent.id
    assert SettleRequest.objects.filter(task_id=parent.id).exists()
    settle.settle_all()
    assert status(parent) == Status.INCOMPLETE


def delete(task: Task) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM cq_task WHERE id = %s", [task.pk])


def waits(future: "Future[object]") -> bool:
    """Say whether a statement waits for a lock: PostgreSQL knows."""
    while not future.done():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return True
    return False


@committed
@pytest.mark.parametrize("before", [Status.SUCCESS, Status.QUEUED])
def test_a_chain_onto_what_is_just_being_deleted_waits_and_finds_it_gone(before: Status) -> None:
    first = row(before)
    with elsewhere() as prune, elsewhere() as web:
        prune.open()
        prune(delete, first)

        chaining = web.begin(first.chain, tasks.adds, (1,))

        assert waits(chaining)
        prune.commit()
        with pytest.raises(TaskGone):
            chaining.result(10)


@committed
@pytest.mark.parametrize("before", [Status.SUCCESS, Status.QUEUED])
def test_a_chain_keeps_its_predecessor_from_being_deleted(before: Status) -> None:
    first = row(before)
    with elsewhere() as prune, elsewhere() as web:
        web.open()
        web(first.chain, tasks.adds, (1,))

        deleting = prune.begin(delete, first)

        assert waits(deleting)
        web.commit()
        with pytest.raises(Exception, match="foreign key"):
            deleting.result(10)
    assert Task.objects.count() == 2


@committed
def test_a_chain_onto_a_subtask_and_the_end_of_their_parent_see_each_other() -> None:
    """Whoever commits first: no parent ends before its subtasks."""
    for _ in range(40):
        parent = row(Status.WAITING)
        last = row(Status.SUCCESS, parent=parent)
        SettleRequest.objects.create(task_id=parent.id)

        chained, _ = together(lambda last=last: last.chain(tasks.adds, (1,)), settle.settle_all)

        chained.refresh_from_db()
        assert (chained.parent_id, status(parent)) in [(parent.id, Status.WAITING), (None, Status.SUCCESS)]
        Task.objects.filter(previous=last).update(status=Status.SUCCESS, finished_at=make.Now())
        SettleRequest.objects.create(task_id=parent.id)
        settle.settle_all()
        assert status(parent) == Status.SUCCESS


@committed
def test_a_chain_onto_a_subtask_waits_for_the_parent_to_be_settled() -> None:
    parent = row(Status.WAITING)
    last = row(Status.SUCCESS, parent=parent)
    with elsewhere() as worker, elsewhere() as web:
        worker.open()
        worker(settle.settle, [parent.id])

        chaining = web.begin(last.chain, tasks.adds, (1,))

        assert waits(chaining)
        worker.commit()
        assert chaining.result(10).parent_id is None
    assert status(parent) == Status.SUCCESS


@committed
def test_a_chain_onto_a_subtask_holds_up_the_end_of_their_parent() -> None:
    parent = row(Status.WAITING)
    last = row(Status.SUCCESS, parent=parent)
    SettleRequest.objects.create(task_id=parent.id)
    with elsewhere() as web:
        web.open()
        chained = web(last.chain, tasks.adds, (1,))

        settle.settle_all()

        assert status(parent) == Status.WAITING
        web.commit()
    settle.settle_all()
    assert (status(parent), status(chained)) == (Status.WAITING, Status.QUEUED)


@committed
def test_a_chain_and_the_end_of_its_predecessor_do_not_miss_each_other() -> None:
    for _ in range(60):
        process_id = process()
        first = tasks.adds.delay(1)
        (claimed,) = take(process_id)

        chained, _ = together(
            lambda first=first: first.chain(tasks.adds, (1,)),
            lambda claimed=claimed: engine.finish([make.succeeded(claimed)]),
        )
        settle.settle_all()

        assert status(chained) == Status.QUEUED
        Task.objects.all().delete()


@pytest.mark.parametrize("first_to_commit", ["chain", "end"])
@committed
def test_either_order_of_a_chain_and_an_end_releases_the_successor(first_to_commit: str) -> None:
    first = tasks.adds.delay(1)
    (claimed,) = take(process())
    with elsewhere() as web, elsewhere() as worker:
        web.open()
        worker.open()
        chained = web(first.chain, tasks.adds, (1,))
        worker(engine.finish, [make.succeeded(claimed)])

        for session in [web, worker] if first_to_commit == "chain" else [worker, web]:
            session.commit()
            settle.settle_all()

    assert status(chained) == Status.QUEUED
    assert not SettleRequest.objects.exists()


@pytest.mark.django_db
def test_a_task_made_by_an_overtaken_body_is_not_inserted() -> None:
    task = row(Status.WAITING, claims=4)
    stale = make.subtask_of(make.held(task, claims=3))

    database.execute(sql.ENQUEUE_MADE, f"[{stale.as_json()}]")

    assert not Task.objects.filter(parent=task).exists()
