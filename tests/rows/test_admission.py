"""Which tasks of a key may be claimed: never more than its limit and its rate, in order, and nobody is forgotten."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from cq import admission, database, engine, sql, wire
from cq.failpoints import failpoint as reach
from cq.models import Key, KeyRequest, Lingering, Task, Worker
from cq.models.attempt import PastAttempt
from cq.outcome import given_back
from cq.states import Status
from tests import tasks
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import ago, held, process, row, take
from tests.rows.test_guards import unhindered
from tests.rows.test_races import pausing_at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def places(transactional_db: None) -> None:
    """Have a living worker with many slots for functions and more for coroutines."""
    process()
    Worker.objects.update(slots=50, coroutines=70)


def keyed(status: Status = Status.QUEUED, key: str = "k", **columns: Any) -> Task:
    return row(status, key=key, **{"admitted": False} | columns)


def waiting(number: int, key: str = "k", **columns: Any) -> list[Task]:
    return [keyed(key=key, **columns) for _ in range(number)]


def admitted() -> list[Task]:
    """Settle all keys; return who may be claimed, in order of making."""
    admission.admit_all()
    return list(Task.objects.filter(status=Status.QUEUED, admitted=True).order_by("id"))


def queued() -> int:
    return Task.objects.filter(status=Status.QUEUED, admitted=False).count()


# Places


def test_no_more_are_admitted_than_the_limit() -> None:
    made = waiting(5, key_limit=2)

    assert admitted() == made[:2]
    assert admitted() == made[:2], "however often"


@pytest.mark.parametrize(
    "taken",
    [
        lambda: keyed(Status.RUNNING),
        lambda: keyed(admitted=True),
        lambda: Lingering.objects.create(task_id=uuid4(), process_id=uuid4(), key="k"),
    ],
    ids=["running", "admitted", "lingering"],
)
def test_places_are_taken_by_what_runs_is_admitted_or_may_still_run(taken: Any) -> None:
    taken()
    before = admitted()
    made = waiting(3, key_limit=2)

    assert admitted() == [*before, made[0]]


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.RUNNING, Status.QUEUED)])
def test_what_does_not_run_holds_no_place(status: Status) -> None:
    keyed(status)
    made = waiting(2, key_limit=1)

    assert admitted() == made[:1]


@pytest.mark.parametrize(("is_coroutine", "expected"), [(False, 50), (True, 70)])
def test_without_a_limit_there_are_as_many_places_as_slots(is_coroutine: bool, expected: int) -> None:
    make.rows(100, key="k", admitted=False, is_coroutine=is_coroutine)

    assert len(admitted()) == expected


def test_there_are_no_more_places_than_slots_whatever_the_limit() -> None:
    make.rows(100, key="k", admitted=False, key_limit=80)

    assert len(admitted()) == 50


def test_dead_workers_have_no_slots() -> None:
    Worker.objects.update(lease_until=ago(1))
    waiting(1)

    assert admitted() == []


def test_each_is_judged_by_its_own_limit_and_nobody_passes_one_that_must_wait() -> None:
    keyed(Status.RUNNING)
    made = [keyed(key_limit=9), keyed(key_limit=5), keyed(key_limit=2), keyed(key_limit=9)]

    assert admitted() == made[:2]


def test_a_lower_limit_in_front_does_not_keep_a_higher_one_out_for_ever() -> None:
    made = [keyed(key_limit=1), keyed(key_limit=5), keyed(key_limit=5), keyed(key_limit=5), keyed(key_limit=5)]

    while KeyRequest.objects.exists():
        admission.admit_all()

    assert admitted() == made


def test_keys_do_not_count_for_each_other() -> None:
    made = [*waiting(2, "one", key_limit=1), *waiting(2, "two", key_limit=1), row()]

    assert admitted() == [made[0], made[2], made[4]]


def test_the_best_are_admitted_first() -> None:
    late, early = keyed(run_after=ago(1), key_limit=2), keyed(run_after=ago(60), key_limit=2)
    important = keyed(priority=5, key_limit=2)

    assert set(admitted()) == {early, important}
    assert not Task.objects.get(pk=late.pk).admitted


@pytest.mark.parametrize(
    "better", [{"priority": 5, "run_after": ago(1)}, {"run_after": ago(90)}], ids=["priority", "age"]
)
def test_the_best_is_admitted_however_many_were_made_before_it(better: dict[str, Any]) -> None:
    waiting(10, key_limit=1, run_after=ago(60))
    best = keyed(key_limit=1, **better)

    assert admitted() == [best]


def test_a_task_whose_old_body_may_still_run_waits_and_lets_others_pass() -> None:
    old, other = waiting(2, key_limit=2)
    Lingering.objects.create(task_id=old.id, process_id=uuid4(), key="k")
    assert admitted() == [other]

    Lingering.objects.all().delete()

    assert admitted() == [old, other], "the end of the old body has asked for it"


def test_the_queues_of_what_is_admitted_are_said() -> None:
    keyed(queue="one")
    keyed(queue="two", key="other")

    assert admission.admit_all().queues == {"one", "two"}


# What asks for a key


MOVES: dict[str, Any] = {
    "made": lambda: keyed(),
    "promoted": lambda: (keyed(Status.SCHEDULED, run_after=ago(1)), engine.promote()),
    "ended": lambda: engine.finish([make.succeeded(held(keyed(Status.RUNNING)))]),
    "failed": lambda: engine.finish([make.failed(held(keyed(Status.RUNNING)))]),
    "given back": lambda: engine.finish([given_back(held(keyed(Status.RUNNING)))]),
    "revoked": lambda: engine.revoke([keyed(Status.RUNNING).id], reason=""),
    "revoked in the queue": lambda: engine.revoke([keyed().id], reason=""),
    "expired": lambda: (keyed(start_by=ago(1)), engine.expire()),
    "reopened": lambda: keyed(Status.FAILURE, attempt=1).retry(),
    "rescued": lambda: (engine.end_process(keyed(Status.RUNNING).process_id, []), engine.rescue()),
    "old body gone": lambda: Lingering.objects.create(task_id=uuid4(), process_id=uuid4(), key="k").delete(),
}


@pytest.mark.parametrize("move", MOVES)
def test_whatever_changes_what_runs_asks(move: str) -> None:
    MOVES[move]()

    assert set(KeyRequest.objects.values_list("key", flat=True)) == {"k"}


def test_a_claim_of_a_keyed_task_takes_its_admission() -> None:
    keyed(key_limit=1)
    admission.admit_all()
    (claimed,) = take(process())
    engine.finish([given_back(claimed)])

    assert not Task.objects.get().admitted
    assert claimed.key == "k"


@pytest.mark.parametrize("status", [Status.EXPIRED, Status.REVOKED, Status.FAILURE])
def test_what_is_reopened_is_admitted_anew(status: Status) -> None:
    """It may have been admitted when it ended, and another has its place now."""
    task = keyed(status, admitted=True, key_limit=1)
    keyed(Status.RUNNING)

    task.retry()

    assert admitted() == []


def test_a_worker_that_enters_asks_for_all_keys_that_have_tasks_waiting() -> None:
    waiting(3, "a")
    waiting(2, "b")
    keyed(Status.RUNNING, key="runs only")
    keyed(key="is admitted", admitted=True)
    KeyRequest.objects.all().delete()

    process()

    assert sorted(KeyRequest.objects.values_list("key", flat=True)) == ["a", "b"]


def test_a_key_is_known_for_as_long_as_it_has_tasks() -> None:
    task = keyed()
    admission.admit_all()
    assert Key.objects.get().name == "k"
    (claimed,) = take(process())
    assert admission.admit(["k"]).is_complete
    assert Key.objects.exists()

    engine.finish([make.succeeded(claimed)])
    admission.admit_all()

    assert not Key.objects.exists()
    assert not KeyRequest.objects.exists()
    assert make.status(task) == Status.SUCCESS


def test_a_key_stays_while_an_old_body_may_still_run() -> None:
    Key.objects.create(name="k", look_at=ago(5))
    Lingering.objects.create(task_id=uuid4(), process_id=uuid4(), key="k")

    admission.admit(["k"])

    assert Key.objects.get().look_at is None


# Rates


def started(seconds_ago: float, **columns: Any) -> Task:
    values = {"started_at": ago(seconds_ago), "attempt": 1, "outcome": "success"}
    return keyed(Status.SUCCESS, **values | columns)


def limited(number: int, rate: tuple[int, int] = (3, 60)) -> list[Task]:
    return waiting(number, rate_starts=rate[0], rate_seconds=rate[1])


def test_no_more_are_admitted_than_the_rate_lets_start() -> None:
    made = limited(5)

    assert admitted() == made[:3]
    assert admitted() == made[:3]


def test_starts_in_the_window_count_and_older_ones_do_not() -> None:
    started(59)
    started(61)
    made = limited(3)

    assert admitted() == made[:2]


def test_the_window_is_longer_by_what_a_task_may_wait_in_a_process() -> None:
    oldest = Task.objects.get(pk=started(40).pk)
    limited(1, (1, 60))

    admission.admit_all()

    assert Key.objects.get().look_at == oldest.started_at + timedelta(seconds=60.1)


def test_starts_of_those_that_have_no_rate_themselves_count() -> None:
    started(5, name=tasks.sums.name)
    keyed(Status.RUNNING, name=tasks.sums.name)

    assert len(admitted_of(limited(3))) == 1


def admitted_of(made: Sequence[Task]) -> list[Task]:
    return [task for task in admitted() if task in made]


def test_every_start_of_a_task_counts() -> None:
    task = started(5, attempt=2)
    PastAttempt.objects.create(task=task, number=1, started_at=ago(20), outcome="error")

    assert len(admitted_of(limited(3))) == 1


@pytest.mark.parametrize("status", [Status.RETRY, Status.QUEUED])
def test_a_start_counts_once_also_while_it_is_to_be_run_again(status: Status) -> None:
    task = keyed(status, started_at=ago(5), attempt=1, outcome="error", admitted=False, priority=-1)
    PastAttempt.objects.create(task=task, number=1, started_at=ago(5), outcome="error")

    assert len(admitted_of(limited(3))) == 2


def test_a_claim_that_was_given_back_is_no_start() -> None:
    limited(1, (1, 86_400))
    admission.admit_all()
    (claimed,) = take(process())
    engine.finish([given_back(claimed)])

    assert [task.id for task in admitted()] == [claimed.id]


def test_the_next_look_is_when_the_oldest_start_leaves_the_window() -> None:
    started(40)
    started(50)
    started(20)
    limited(1)

    found = admission.admit_all()

    assert found.queues == set()
    assert 9 < (found.next_look or 0) < 10.2
    _, seconds = engine.peek()
    assert 9 < (seconds or 0) < 10.2
    assert 9 < (engine.look(None, []).next_due or 0) < 10.2


def test_a_long_body_does_not_stop_the_rate() -> None:
    """Nothing has started when it is admitted; and nothing may end before the next one may start."""
    limited(2, (1, 2))

    found = admission.admit_all()

    assert 1 < (found.next_look or 0) <= 2.1


def test_when_it_is_time_the_next_one_is_admitted() -> None:
    first = started(5)
    (task,) = limited(1, (1, 60))
    assert admitted() == []
    Task.objects.filter(pk=first.pk).update(started_at=ago(61))
    assert admitted() == [], "nobody has asked, and it is not time"

    Key.objects.update(look_at=ago(0))

    assert admitted() == [task]
    assert Key.objects.get().look_at is None


def test_a_limit_and_a_rate_hold_both() -> None:
    waiting(9, key_limit=2, rate_starts=4, rate_seconds=60)

    assert len(admitted()) == 2


# Locks and orders


def test_a_key_that_somebody_is_on_is_left_to_the_next_look() -> None:
    waiting(1)
    waiting(1, "other")
    Key.objects.create(name="k")
    with elsewhere() as there, elsewhere() as here:
        there.open()
        there(lambda: Key.objects.select_for_update(no_key=True).get(name="k"))

        found = unhindered(here, admission.admit_all)
        asked = set(KeyRequest.objects.values_list("key", flat=True))
        there.commit()

    assert (found.is_complete, asked) == (False, {"k"})
    assert len(admitted()) == 2


def test_a_row_that_somebody_has_locked_holds_up_nobody_and_is_not_forgotten() -> None:
    first, second = waiting(2, key_limit=5)
    with elsewhere() as there:
        there.open()
        there(lambda: Task.objects.select_for_update(no_key=True).get(pk=first.pk))

        found = admission.admit_all()

        assert (found.is_complete, KeyRequest.objects.count()) == (False, 1)
        there.commit()

    assert admitted() == [first, second]


def test_a_row_that_has_moved_on_is_not_admitted() -> None:
    task = keyed()

    with elsewhere() as other, pausing_at("admission.taken", partial(other, engine.revoke, [task.id], reason="")):
        admission.admit_all()

    assert not Task.objects.get().admitted


def count_first(keys: Sequence[str]) -> None:
    """Settle keys in the wrong order: count, then delete the requests."""
    with database.atomic():
        locked = [key for (key,) in database.execute(sql.KEY_LOCK, list(keys))]
        database.execute(sql.ADMIT, locked)
        reach("admission.taken")
        database.execute(sql.KEY_TAKE, locked)


def end_while_another_admits(admit: Any, point: str) -> Task:
    """Let the only running body end while its key is settled; then look once more at what is asked for."""
    Key.objects.create(name="k")
    running = held(keyed(Status.RUNNING))
    task = keyed(key_limit=1)
    with elsewhere() as other, pausing_at(point, lambda: other(engine.finish, [make.succeeded(running)])):
        admit(["k"])
    admission.admit_all()
    return Task.objects.get(pk=task.pk)


@pytest.mark.parametrize("point", ["admission.locked", "admission.taken", "admission.before_commit"])
def test_an_end_at_any_point_of_an_admission_is_seen(point: str) -> None:
    assert end_while_another_admits(admission.admit, point).admitted


def test_an_end_between_a_count_and_a_deletion_would_be_lost() -> None:
    assert not end_while_another_admits(count_first, "admission.taken").admitted


@pytest.mark.parametrize("point", ["admission.locked", "admission.taken", "admission.before_commit"])
def test_a_task_that_is_made_at_any_point_of_an_admission_is_seen(point: str) -> None:
    Key.objects.create(name="k")
    waiting(1, key_limit=5)
    with elsewhere() as other, pausing_at(point, lambda: other(keyed, key_limit=5)):
        admission.admit(["k"])

    assert len(admitted()) == 2


def test_two_who_admit_at_once_do_not_admit_too_many() -> None:
    """The second counts what the first has admitted: each counts after it has the key to itself."""
    for _ in range(20):
        waiting(5, key_limit=2)

        together(*[admission.admit_all] * 4)
        while not admission.admit_all().is_complete:
            pass

        assert Task.objects.filter(admitted=True).count() == 2
        Task.objects.all().delete()


def test_many_keys_in_any_order_do_not_deadlock() -> None:
    keys = [f"k{number}" for number in range(40)]
    for key in keys:
        keyed(key=key)

    for _ in range(10):
        Key.objects.all().delete()
        together(*[partial(settle, order) for order in (keys, keys[::-1], keys[20:] + keys[:20])])
    admission.admit_all()

    assert queued() == 0


def settle(keys: Sequence[str]) -> None:
    database.execute(sql.KEY_MAKE, keys)
    admission.admit(keys)


def test_an_admission_that_breaks_off_admits_nothing_and_is_made_up_for() -> None:
    (task,) = waiting(1)
    with pytest.raises(InterruptedError), pausing_at("admission.before_commit", interrupt):
        admission.admit_all()
    assert not Task.objects.get().admitted

    assert admitted() == [task]


def interrupt() -> None:
    raise InterruptedError


def test_limits_hold_under_a_storm_of_claims_ends_and_admissions() -> None:
    """Whenever somebody looks, no more than the limit run or are about to."""
    make.rows(120, key="k", admitted=False, key_limit=3)
    process_id = process()
    most: list[int] = []

    def work() -> None:
        while Task.objects.filter(finished_at=None).exists():
            admission.admit_all()
            for claimed in take(process_id, 2):
                most.append(taken())
                # Whoever claimed at the same time may have locked the row.
                while not engine.finish([make.succeeded(claimed)]).written:
                    pass

    together(*[work] * 3)

    assert Task.objects.filter(status=Status.SUCCESS).count() == 120
    assert max(most) <= 3


def taken() -> int:
    ((number,),) = database.execute(
        "SELECT count(*) FROM cq_task WHERE key = 'k' AND (status = 'RUNNING' OR status = 'QUEUED' AND admitted)"
    )
    return int(number)


def test_admission_under_a_higher_isolation_by_default_sees_what_is_committed() -> None:
    running = held(keyed(Status.RUNNING))
    task = keyed(key_limit=1)
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    try:
        with (
            elsewhere() as other,
            pausing_at("admission.locked", lambda: other(engine.finish, [make.succeeded(running)])),
        ):
            admission.admit_all()
    finally:
        connection.close()

    assert Task.objects.get(pk=task.pk).admitted


# Cost


def test_a_list_of_keys_is_settled_in_as_few_statements_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    send = wire.RoundTrip.send
    monkeypatch.setattr(
        wire.RoundTrip, "send", lambda trip, text, *given: (sent.append(text), send(trip, text, *given))[1]
    )
    for number in range(150):
        keyed(key=f"k{number}")

    admission.admit_all()

    assert sent == [sql.KEY_LOCK, sql.KEY_TAKE, sql.ADMIT]
    assert queued() == 0


@pytest.mark.slow
def test_admission_of_many_is_linear() -> None:
    """What one admission reads depends on the places there are, not on who is waiting."""

    def read(number: int) -> int:
        Task.objects.all().delete()
        make.many(number, Status.QUEUED, key="k", admitted=False, key_limit=10)
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE cq_task")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql.ADMIT}", [["k"]])
            (((found,),),) = cursor.fetchall()
            return int(found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"])

    few, many = read(1000), read(20_000)

    assert many < few * 1.5 + 20


@pytest.mark.parametrize("status", [Status.SUSPENDED, Status.QUEUED], ids=["sleeps", "is about to go on"])
def test_the_start_of_what_sleeps_counts(status: Status) -> None:
    keyed(status, started_at=ago(5), attempt=1, claims=1, suspended_claim=1, admitted=False)
    made = limited(1, (1, 60))

    assert [task for task in admitted() if task in made] == []
