"""Unique keys among many: one unfinished task, and all who asked for it get it; nobody's list or body is harmed by another's."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from cq import engine, executor, settle, task, unique
from cq.exceptions import UniqueConflict
from cq.models import KeyRequest, Task
from cq.new import NewTask
from cq.outcome import Outcome
from cq.states import Status
from cq.worker.options import WorkerOptions
from cq.worker.rounds import Rounds
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import DEADLINE, elsewhere, others, together
from tests.rows.make import held, row, status, subtask_of, succeeded
from tests.rows.test_guards import unhindered, waits
from tests.rows.test_races import pausing_at

pytestmark = pytest.mark.django_db(transaction=True)

one = tasks.adds.using(unique_key="k")


def end(task: Task) -> None:
    task.revoke()


def test_of_fifty_at_once_one_is_made_and_all_get_it() -> None:
    """T67."""
    found = together(*[partial(one.delay, number) for number in range(50)])

    assert len({task.id for task in found}) == 1
    assert [task.created for task in found].count(True) == 1
    assert Task.objects.count() == 1


def test_all_get_an_unfinished_one_while_they_end_all_the_time() -> None:
    """Whoever finds that the one in his way has ended meanwhile tries again."""

    def call_and_end() -> list[Task]:
        found = []
        for number in range(15):
            task = one.delay(number)
            found.append(task)
            if task.created:
                end(task)
        return found

    found = [*chain.from_iterable(together(*[call_and_end] * 4))]

    assert len(found) == 60
    made = [task.id for task in found if task.created]
    assert len(made) == len(set(made)) == Task.objects.count()


def test_one_that_ends_before_it_is_found_is_no_longer_in_the_way() -> None:
    holder = one.delay(1)

    with elsewhere() as other, pausing_at("unique.inserted", lambda: other(end, holder)):
        found = one.delay(2)

    assert (found.created, found.args) == (True, (2,))


def test_a_chain_behind_one_that_ends_before_it_is_found_is_made() -> None:
    first, holder = row(), one.delay(1)

    with elsewhere() as other, pausing_at("unique.inserted", lambda: other(end, holder)):
        behind = first.chain(tasks.adds, (2,), unique_key="k")

    assert behind.status == "PENDING"


def test_whoever_asks_waits_for_who_is_just_making_it() -> None:
    with elsewhere() as web, elsewhere() as late:
        web.open()
        made = web(one.delay, 1)
        asking = late.begin(one.delay, 2)
        assert waits(asking)
        web.commit()

        assert (asking.result(DEADLINE).id, asking.result(DEADLINE).created) == (made.id, False)


def test_whoever_asks_makes_it_when_the_other_takes_it_back() -> None:
    with elsewhere() as web, elsewhere() as late:
        web.open()
        web(one.delay, 1)
        asking = late.begin(one.delay, 2)
        assert waits(asking)
        web.rollback()

        assert asking.result(DEADLINE).created


def test_lists_of_the_same_keys_in_opposite_orders_do_not_deadlock() -> None:
    rows = [(number,) for number in range(300)]
    with others(2) as at_once:
        for _ in range(5):
            Task.objects.all().delete()

            found = at_once(lambda: by_args.delay_many(rows), lambda: by_args.delay_many(rows[::-1]))

            assert {task.id for task in found[0]} == {task.id for task in found[1]}


@task("unique.rows_by_args", unique="args")
def by_args(cqt: Any, n: int) -> int:
    return n


def test_a_replacement_waits_for_whoever_has_the_row_and_is_not_lost() -> None:
    holder = one.delay(1)
    with elsewhere() as other, elsewhere() as late:
        other.open()
        other(lambda: Task.objects.select_for_update(no_key=True).get(pk=holder.pk))
        asking = late.begin(one.using(replace=("args",)).delay, 2)
        assert waits(asking)
        other.commit()

        assert asking.result(DEADLINE).args == (2,)


def test_replacements_lock_in_id_order_as_all_do_who_wait() -> None:
    first, *_, last = by_args.delay_many([(number,) for number in range(20)])
    Task.objects.filter(pk=first.pk).update(unique_key="z")
    Task.objects.filter(pk=last.pk).update(unique_key="a")
    with elsewhere() as other, elsewhere() as web:
        other.open()
        other(lambda: Task.objects.select_for_update(no_key=True).get(pk=first.pk))
        asking = web.begin(replace_all, ["z", "a"])
        assert waits(asking)

        assert lock_at_once(last) == [last.id], "it has not been locked yet"

        other.commit()
        asking.result(DEADLINE)


def replace_all(keys: list[str]) -> None:
    calls = [NewTask(by_args.name, unique_key=key, replace=("args",)) for key in keys]
    unique.enqueue(calls)


def lock_at_once(task: Task) -> list[Any]:
    with transaction.atomic():
        return [found.id for found in Task.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=task.pk)]


def test_replacements_in_opposite_orders_do_not_deadlock() -> None:
    by_args.delay_many([(number,) for number in range(100)])
    debounced = by_args.using(replace=("run_after",))
    with others(2) as at_once:
        for _ in range(5):
            at_once(
                lambda: debounced.delay_many([(number,) for number in range(100)]),
                lambda: debounced.delay_many([(number,) for number in range(99, -1, -1)]),
            )

    assert Task.objects.count() == 100


def test_what_is_claimed_while_it_is_replaced_is_returned_as_it_is() -> None:
    holder, process_id = one.delay(1), make.process()
    with elsewhere() as worker, elsewhere() as web:
        worker.open()
        worker(make.take, process_id)
        asking = web.begin(one.using(replace=("args",)).delay, 2)
        assert waits(asking)
        worker.commit()

        found = asking.result(DEADLINE)

    assert (found.id, found.status, found.args) == (holder.id, "RUNNING", (1,))


@pytest.fixture
def repeatable_read() -> Any:
    """Make this the default of all new sessions, as a project or a server may."""
    before = connection.settings_dict["OPTIONS"]
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_isolation = "repeatable read"')
    connection.close()
    yield
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" RESET default_transaction_isolation')
    connection.close()
    assert connection.settings_dict["OPTIONS"] == before


@pytest.mark.usefixtures("repeatable_read")
def test_under_a_higher_isolation_by_default_all_get_it_too() -> None:
    found = together(*[partial(one.delay, number) for number in range(20)])

    assert len({task.id for task in found}) == 1


@pytest.mark.usefixtures("repeatable_read")
def test_in_a_transaction_of_a_higher_level_what_cannot_be_seen_is_a_serialization_failure() -> None:
    """PostgreSQL can do no other: the caller's snapshot says that there is no such task. Its transaction is to be run again."""
    with elsewhere() as other, transaction.atomic():
        Task.objects.count()
        other(one.delay, 1)
        with pytest.raises(OperationalError, match="could not serialize"):
            one.delay(2)
        transaction.set_rollback(True)

    assert not one.delay(3).created


# At the end of a body


def makes_k(claimed: Any, result: object = None) -> Outcome:
    return succeeded(claimed, result, (subtask_of(claimed, unique_key="k"),))


def running() -> Any:
    return held(row(Status.RUNNING))


def write(thread: Any, *outcomes: Outcome) -> set[Any]:
    finished = engine.Finished()
    locked: set[Any] = thread._write(outcomes, None, finished)
    return locked


@pytest.fixture
def thread(transactional_db: None) -> Any:
    """Give an engine thread that does not run."""

    return Rounds(make.process(), WorkerOptions(None))


def test_a_body_whose_key_is_taken_harms_no_neighbour_in_its_batch(thread: Any) -> None:
    one.delay(1)
    before, loser, after = running(), running(), running()

    locked = write(thread, succeeded(before, 1), makes_k(loser), succeeded(after, 3))

    assert locked == set()
    assert [status(claimed.id) for claimed in (before, loser, after)] == ["SUCCESS", "FAILURE", "SUCCESS"]
    failed = Task.objects.get(pk=loser.id)
    assert failed.exception == "cq.exceptions.UniqueConflict"
    assert "'k' of tests.tasks.adds" in failed.error
    assert "duplicate key" not in failed.error


def test_of_two_bodies_in_one_batch_with_one_key_the_first_has_it(thread: Any) -> None:
    first, second = running(), running()

    write(thread, makes_k(first), makes_k(second))

    assert [status(claimed.id) for claimed in (first, second)] == ["WAITING", "FAILURE"]


def test_a_list_does_not_wait_for_who_is_just_making_one_and_no_neighbour_does(thread: Any) -> None:
    neighbour, mine = running(), running()
    with elsewhere() as web, elsewhere() as engine_thread:
        web.open()
        web(one.delay, 1)

        locked = engine_thread(write, thread, succeeded(neighbour), makes_k(mine))

        assert locked == {mine.id}
        assert [status(neighbour.id), status(mine.id)] == ["SUCCESS", "RUNNING"]
        web.rollback()

    assert write(thread, makes_k(mine)) == set()
    assert status(mine.id) == Status.WAITING


def test_a_body_that_writes_its_own_end_fails_with_the_conflict() -> None:
    """A stored one is found at once; here somebody takes the key after that."""
    claimed = running()._replace(name=makes_and_lets_another.name, args="[]", kwargs="{}")

    executed = executor.execute(claimed)

    assert executed.outcome is not None
    assert executed.outcome.exception == "cq.exceptions.UniqueConflict"
    assert not Task.objects.filter(parent_id=claimed.id).exists()


@task("unique.makes_and_lets_another")
def makes_and_lets_another(cqt: Any) -> None:
    Task.objects.exists()
    cqt.subtask(tasks.adds, (1,), unique_key="k")
    with elsewhere() as other:
        other(one.delay, 2)


def test_a_conflict_is_only_that_of_the_unique_key() -> None:
    error = Exception()

    assert not unique.is_conflict(error)
    assert not unique.is_busy(error)
    assert executor.conflicted(succeeded(running()), error) is None


# What a person does


def test_a_submit_behind_one_in_flight_is_refused() -> None:
    held_back = by_args.using(submit=False).delay()
    with elsewhere() as web, elsewhere() as late:
        web.open()
        made = web(by_args.delay, 1)
        submitting = late.begin(held_back.submit, 1)
        assert waits(submitting)
        web.commit()

        with pytest.raises(UniqueConflict) as error:
            submitting.result(DEADLINE)

    assert error.value.task == made
    assert status(held_back) == Status.PENDING


def test_a_refused_submit_leaves_the_callers_transaction_whole() -> None:
    held_back = by_args.using(submit=False).delay()
    by_args.delay(1)

    with transaction.atomic():
        with pytest.raises(UniqueConflict):
            held_back.submit(1)
        tasks.sums.delay(1, 2)

    assert Task.objects.filter(name=tasks.sums.name).exists()


def test_finding_waits_for_nobody_who_has_only_locked_the_row() -> None:
    holder = one.delay(1)
    with elsewhere() as other, elsewhere() as web:
        other.open()
        other(lambda: Task.objects.select_for_update(no_key=True).get(pk=holder.pk))

        found: Task = unhindered(web, lambda: one.delay(2))

        other.commit()

    assert found.id == holder.id


@pytest.mark.parametrize("make_it", [lambda: one.delay(1), lambda: row().chain(tasks.adds, (1,), unique_key="k")])
def test_nobody_hears_of_what_is_not_committed(make_it: Callable[[], Task], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr("cq.notifier.wake", lambda queues: said.append(set(queues)))

    with transaction.atomic():
        make_it()
        early = list(said)

    assert early == []
    assert said == [{"default"}]


def test_what_settles_a_released_successor_leaves_a_request_for_its_key() -> None:
    first = row(Status.SUCCESS)
    row(Status.PENDING, previous=first, key="k", admitted=False)

    settle.settle([first.id])

    assert list(KeyRequest.objects.values_list("key", flat=True)) == ["k"]
