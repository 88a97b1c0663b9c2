"""Bodies that still run although their tasks have moved on: no other attempt starts before they are gone."""

import pytest

from cq import engine, lingering, registry, settle
from cq.models import Process, Task
from cq.models.key import KeyRequest, Lingering
from cq.outcome import Outcome, interrupted
from cq.states import RETRY_LATER, Status
from tests.rows.elsewhere import elsewhere
from tests.rows.make import ago, held, process, row, rows, status, take

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def timed_out(task: Task) -> Outcome:
    """Return the outcome of a body that was given up: its task is tried again at once, it itself still runs."""
    return Outcome(
        held(task), RETRY_LATER, "timeout", error="late", charge="retries", delay=0, lingers_in=task.process_id
    )


def entries() -> set[tuple[object, object, bool]]:
    return set(Lingering.objects.values_list("task_id", "process_id", "terminate"))


def is_admitted(task: Task) -> bool:
    return Task.objects.get(pk=task.pk).admitted


@pytest.mark.parametrize("terminate", [False, True])
def test_a_revoked_running_task_lingers_and_no_other(terminate: bool) -> None:
    running, queued = row(Status.RUNNING), row(Status.QUEUED)

    engine.revoke([running.id, queued.id], reason="By a test.", terminate=terminate)

    assert entries() == {(running.id, running.process_id, terminate)}


@pytest.mark.parametrize("terminate", [False, True])
def test_a_revoke_that_goes_down_carries_along_how_strong_it_is(terminate: bool) -> None:
    parent = row(Status.WAITING)
    running, waiting = row(Status.RUNNING, parent=parent), row(Status.WAITING, parent=parent)
    below = row(Status.RUNNING, parent=waiting, key="k")
    engine.revoke([parent.id], reason="By a test.", terminate=terminate)

    settle.settle_all()

    assert entries() == {
        (running.id, running.process_id, terminate),
        (below.id, below.process_id, terminate),
    }
    assert Lingering.objects.get(task_id=below.id).key == "k"
    assert set(Task.objects.values_list("terminate", flat=True)) == {terminate}


def test_a_body_that_was_given_up_lingers_with_the_swap_that_moves_its_task_on() -> None:
    task = row(Status.RUNNING)

    engine.finish([timed_out(task)])

    assert status(task) == Status.RETRY
    assert entries() == {(task.id, task.process_id, False)}


def test_one_whose_swap_came_too_late_does_not() -> None:
    task = row(Status.RUNNING)
    outcome = timed_out(task)
    Task.objects.filter(pk=task.pk).update(claims=task.claims + 1)

    engine.finish([outcome])

    assert entries() == set()


def test_what_lingers_is_ready_only_when_it_is_gone() -> None:
    task, other = row(Status.RUNNING), row(Status.RETRY, run_after=ago(1))
    engine.finish([timed_out(task)])
    engine.promote()
    assert (status(task), is_admitted(task), is_admitted(other)) == (Status.QUEUED, False, True)
    assert [claimed.id for claimed in take(process(), 5)] == [other.id]

    assert lingering.end([task.process_id], [task.id]) == set()

    assert entries() == set()
    assert [claimed.id for claimed in take(process(), 5)] == [task.id]


def test_what_is_reopened_waits_for_it_too() -> None:
    task = row(Status.RUNNING)
    engine.revoke([task.id], reason="By a test.")
    engine.reopen(task.id)
    assert (status(task), is_admitted(task)) == (Status.QUEUED, False)

    lingering.end([task.process_id], [task.id])

    assert is_admitted(task)


def test_what_lingers_in_two_processes_waits_for_both() -> None:
    first, second = process(), process()
    task = row(Status.QUEUED, admitted=False)
    for one in (first, second):
        Lingering.objects.create(task_id=task.id, process_id=one)

    lingering.end([first], [task.id])
    assert not is_admitted(task)

    lingering.end([second], [task.id])
    assert is_admitted(task)


@pytest.mark.parametrize("key", [None, "k"])
def test_what_is_given_back_while_its_body_runs_on_waits_for_that_one(key: str | None) -> None:
    task = row(Status.RUNNING, key=key, admitted=key is None)
    outcome = interrupted(held(task))._replace(lingers_in=task.process_id)

    engine.finish([outcome])
    assert (status(task), is_admitted(task)) == ("QUEUED", False)
    assert entries() == {(task.id, task.process_id, False)}

    lingering.end([task.process_id], [task.id])
    assert is_admitted(task) == (key is None)


def test_one_with_a_key_is_asked_for_and_not_admitted_past_the_others() -> None:
    task = row(Status.QUEUED, admitted=False, key="k")
    KeyRequest.objects.all().delete()
    Lingering.objects.create(task_id=task.id, process_id=process(), key="k")

    lingering.end([Lingering.objects.get().process_id], [task.id])

    assert not is_admitted(task)
    assert set(KeyRequest.objects.values_list("key", flat=True)) == {"k"}


def test_one_whose_task_is_no_longer_stored_is_forgotten() -> None:
    task, process_id = row(Status.FAILURE), process()
    Lingering.objects.create(task_id=task.id, process_id=process_id)
    Task.objects.filter(pk=task.pk).delete()

    assert lingering.end([process_id], [task.id]) == set()

    assert entries() == set()


@committed
def test_whoever_promotes_while_the_body_ends_is_waited_for() -> None:
    """He saw it linger; whoever forgets it must see what he made of that."""
    task = row(Status.RETRY, run_after=ago(1))
    Lingering.objects.create(task_id=task.id, process_id=process())
    process_id = Lingering.objects.get().process_id
    with elsewhere() as keeper:
        keeper.open()
        keeper(engine.promote)

        assert lingering.end([process_id], [task.id]) == {task.id}
        keeper.commit()

    assert not is_admitted(task)
    assert lingering.end([process_id], [task.id]) == set()
    assert is_admitted(task)


@committed
def test_whoever_promotes_after_it_was_locked_sees_that_the_body_is_gone() -> None:
    task = row(Status.RETRY, run_after=ago(1))
    Lingering.objects.create(task_id=task.id, process_id=process())
    process_id = Lingering.objects.get().process_id
    with elsewhere() as child:
        child.open()
        child(lingering.end, [process_id], [task.id])
        assert engine.promote() == set()
        child.commit()

    engine.promote()
    assert (status(task), is_admitted(task)) == (Status.QUEUED, True)


def test_a_dead_process_is_struck_off_together_with_what_lingers_in_it() -> None:
    task = row(Status.RUNNING)
    engine.revoke([task.id], reason="By a test.")
    engine.reopen(task.id)
    engine.end_process(task.process_id, [task.id], was_stopped=True)

    engine.rescue()

    assert (status(task), is_admitted(task), entries()) == (Status.QUEUED, True, set())
    assert not Process.objects.filter(pk=task.process_id).exists()


@committed
def test_a_dead_process_stays_on_the_register_while_somebody_has_what_lingers_in_it() -> None:
    task = row(Status.RUNNING)
    engine.revoke([task.id], reason="By a test.")
    engine.end_process(task.process_id, [task.id], was_stopped=True)
    with elsewhere() as person:
        person.open()
        person(lambda: Task.objects.select_for_update().get(pk=task.pk))
        engine.rescue()
        assert Process.objects.filter(pk=task.process_id).exists()
        assert entries() == {(task.id, task.process_id, False)}
        person.rollback()

    engine.rescue()

    assert not Process.objects.filter(pk=task.process_id).exists()
    assert entries() == set()


def test_what_a_process_does_not_know_of_is_found_after_a_while() -> None:
    process_id = process()
    known, fresh, forgotten = rows(3)
    for task, seconds in ((known, 5), (fresh, 0), (forgotten, 5)):
        Lingering.objects.create(task_id=task.id, process_id=process_id, since=ago(seconds))
        Lingering.objects.create(task_id=task.id, process_id=process(), since=ago(5))

    assert engine.unknown(process_id, [known.id], after=1) == (False, [forgotten.id])


def test_claims_that_a_process_does_not_know_of_are_found() -> None:
    process_id = process()
    known, unknown, _elsewhere = (row(Status.RUNNING, process_id=id) for id in (process_id, process_id, process()))

    assert engine.unknown(process_id, [known.id, unknown.id], after=1) == (False, [])
    assert engine.unknown(process_id, [known.id], after=1) == (True, [])


def test_claims_that_no_longer_hold_are_told_with_how_strong_they_are_stopped() -> None:
    process_id = process()
    mine, revoked, terminated, later = (row(Status.RUNNING, process_id=process_id) for _ in range(4))
    engine.revoke([revoked.id], reason="By a test.")
    engine.revoke([terminated.id], reason="By a test.", terminate=True)
    Task.objects.filter(pk=later.pk).update(claims=99)
    tasks = [mine, revoked, terminated, later]

    found = lingering.overtaken(process_id, [task.id for task in tasks], [task.claims for task in tasks])

    assert found == {revoked.id: False, terminated.id: True, later.id: False}


def test_processes_that_do_not_interrupt_are_found_after_a_while() -> None:
    deaf, fresh, plain, elsewhere_ = (process() for _ in range(4))
    worker_id = Process.objects.get(pk=deaf).worker_id
    Process.objects.exclude(pk=elsewhere_).update(worker_id=worker_id)
    for process_id, terminate, seconds in ((deaf, True, 4), (fresh, True, 1), (plain, False, 4), (elsewhere_, True, 4)):
        task = row()
        Lingering.objects.create(task_id=task.id, process_id=process_id, terminate=terminate, since=ago(seconds))

    assert engine.look(None, [], worker_id=worker_id).unheard == [deaf]


def test_a_worker_that_drains_waits_for_what_lingers() -> None:
    task = row(Status.QUEUED, admitted=False)
    assert not engine.is_busy(None, [task.name])

    Lingering.objects.create(task_id=task.id, process_id=process())

    assert engine.is_busy(None, [task.name])


def test_a_worker_that_drains_waits_for_keys_that_are_to_be_settled() -> None:
    KeyRequest.objects.create(key="k")

    assert engine.is_busy(None, registry.names())


def test_who_insists_on_a_revoke_interrupts_what_went_on_below_it_and_nothing_else() -> None:
    top, other = row(Status.WAITING), row(Status.RUNNING)
    middle = row(Status.WAITING, parent=top)
    below, mine = row(Status.RUNNING, parent=middle), row(Status.RUNNING)
    engine.revoke([top.id, other.id, mine.id], reason="By a test.")
    settle.settle_all()

    lingering.terminate([top.id, mine.id])

    assert set(Lingering.objects.filter(terminate=True).values_list("task_id", flat=True)) == {below.id, mine.id}
