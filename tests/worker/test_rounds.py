"""The engine thread: what wakes it, what it asks for, and whom it tells."""

import time
from collections.abc import Callable, Iterator

import pytest
from django.db.models import Sum

from cq import engine, notifier
from cq.models import Statistic, Task
from cq.models.key import Lingering
from cq.states import Status
from cq.worker import statistics
from cq.worker.rounds import Rounds
from tests import fault_tasks, tasks
from tests.processes import query, until
from tests.rows.elsewhere import Elsewhere, elsewhere
from tests.rows.make import ago, row


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the times at which an engine thread went to the database."""
    times: list[float] = []

    def noted(do: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            times.append(time.monotonic())
            return do(*args)

        return call

    monkeypatch.setattr(engine, "exchange", noted(engine.exchange))
    monkeypatch.setattr(engine, "ready_queues", noted(engine.ready_queues))
    return times


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Give what was said about queues with new work."""
    said: list[set[str]] = []
    wake = notifier.wake

    def noted(queues: object) -> None:
        said.append(set(queues))
        wake(queues)

    monkeypatch.setattr(notifier, "wake", noted)
    return said


def are_done(*tasks: Task) -> bool:
    return Task.objects.filter(pk__in=[task.pk for task in tasks], finished_at=None).count() == 0


def test_a_body_that_has_ended_is_written_at_once(rounds):
    task = fault_tasks.process_id.delay(0.3)
    rounds("default")

    until(lambda: are_done(task), 5)

    task.refresh_from_db()
    assert (task.finished_at - task.started_at).total_seconds() < 1


def test_bodies_that_have_written_their_end_wake_the_engine_thread_only_to_claim(rounds, monkeypatch):
    """Each is announced, counted and unmarked all the same."""
    begun, announced = [], set()
    round_, announce = Rounds._round, notifier.announce
    monkeypatch.setattr(Rounds, "_round", lambda self: (begun.append(1), round_(self)))
    monkeypatch.setattr(notifier, "announce", lambda ids: (announced.update(ids), announce(ids)))
    made = tasks.writes_group.delay_many([(f"{number}",) for number in range(200)])

    worker = rounds("default", threads=1, ahead=50)
    until(lambda: are_done(*made), 20)
    until(lambda: len(announced) == len(made), 5)

    assert len(begun) < len(made) / 2
    assert worker.bodies.marks.started() == []
    worker.stop(0.0)
    assert worker.is_done.wait(5)
    assert Statistic.objects.aggregate(n=Sum("count"))["n"] == len(made)


def test_a_process_looks_for_claims_that_it_does_not_know_of_only_if_there_may_be_any(
    rounds, monkeypatch, settings, tmp_path
):
    settings.CQ = {"LEASE": 0.3}
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    monkeypatch.setattr(statistics, "_EVERY", 0.2)  # else its counts keep it awake for so long
    calls, unknown = [], engine.unknown
    monkeypatch.setattr(engine, "unknown", lambda *args, **kwargs: (calls.append(args), unknown(*args, **kwargs))[1])
    thread = rounds("default")
    task = fault_tasks.until_loose.delay(str(tmp_path / "go"))
    thread.wake()
    until(lambda: len(calls) > 2, 5)  # as long as a body runs
    (tmp_path / "go").touch()
    until(lambda: are_done(task), 5)
    calls.clear()

    until(lambda: calls, 5)  # once more
    until(lambda: thread._pause() > 10, 5)

    thread._broke_at = thread._reconcile_at = time.monotonic()  # as after a lost connection: for ever
    thread.check()
    calls.clear()
    until(lambda: len(calls) > 3, 10)


def test_what_a_process_holds_without_knowing_is_given_back_and_what_lingers_is_forgotten(rounds):
    thread = rounds("default")
    until(lambda: thread.wake_ups.vain)
    held = row(Status.RUNNING, process_id=thread.process_id, started_at=ago(5), queue="elsewhere")
    lingering = row(Status.QUEUED, queue="elsewhere")
    Lingering.objects.create(task_id=lingering.id, process_id=thread.process_id, since=ago(5))

    thread._reconcile_at = time.monotonic()
    thread.check()

    until(lambda: Task.objects.get(pk=held.pk).status == "QUEUED", 5)
    until(lambda: not Lingering.objects.exists(), 5)


def test_a_process_that_has_retired_claims_nothing_more_and_ends_with_what_it_runs(rounds, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    running = fault_tasks.until_loose.delay(str(tmp_path / "end"))
    worker = rounds("default", threads=2)
    until(lambda: (tmp_path / f"{running.pk}-1").exists(), 5)

    worker.retire()
    later = fault_tasks.dry.delay()
    worker.wake()
    (tmp_path / "end").touch()

    assert worker.is_done.wait(5)
    assert are_done(running)
    assert not worker.has_room
    later.refresh_from_db()
    assert (later.status, later.claims) == ("QUEUED", 0)


@pytest.fixture
def locked(transactional_db: None) -> Iterator[Callable[[Task], Elsewhere]]:
    """Give a function that has a task's row locked by somebody, until his transaction is rolled back."""
    with elsewhere() as outsider:

        def lock(task: Task) -> Elsewhere:
            outsider.open()
            outsider(lambda: Task.objects.select_for_update().get(pk=task.pk))
            return outsider

        yield lock


@pytest.mark.parametrize("is_revoked", [False, True], ids=["its end", "its place, when it was revoked"])
def test_what_is_left_of_a_body_whose_row_somebody_has_locked_is_written_when_he_has_gone(
    rounds, locked, tmp_path, monkeypatch, settings, is_revoked
):
    settings.CQ = {"POLL_INTERVAL": 60}
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    task = fault_tasks.until_loose.delay(str(tmp_path / "end"))
    thread = rounds("default")
    until(lambda: (tmp_path / f"{task.pk}-1").exists(), 5)
    if is_revoked:
        task.revoke()
    outsider = locked(task)

    (tmp_path / "end").touch()
    until(lambda: thread._gone_but_locked if is_revoked else thread.counts["locked"], 5)
    outsider.rollback()

    until(lambda: are_done(task) and not Lingering.objects.exists(), 2)


def test_a_process_for_suspects_ends_as_soon_as_they_have(rounds):
    suspect = tasks.writes_group.delay("once")
    Task.objects.filter(pk=suspect.pk).update(crashes=1)

    worker = rounds("default", threads=2, suspects=True)

    assert worker.is_done.wait(2)
    assert are_done(suspect)


@pytest.mark.parametrize("queues", [["default"], []], ids=["one queue", "any queue"])
def test_a_flood_of_wake_ups_costs_few_looks(rounds, looks, queues):
    thread = rounds(*queues)
    until(lambda: looks)
    began = time.monotonic()

    while time.monotonic() < began + 1:
        thread.wake()
    seen = len(looks)
    task = fault_tasks.dry.delay()
    thread.wake()
    until(lambda: are_done(task), 2)

    assert seen < 30, "at first every few milliseconds, then every 0.1 s"


def test_the_first_wake_ups_after_a_pause_are_heard_at_once(rounds):
    thread = rounds("default")
    took = []

    for _ in range(10):
        task = fault_tasks.dry.delay()
        began = time.monotonic()
        thread.wake()
        until(lambda task=task: are_done(task), 5)
        took.append(time.monotonic() - began)

    assert sorted(took)[5] < 0.05


def test_what_is_claimed_in_the_round_that_released_it_is_hinted_to_nobody(rounds, hints):
    task = fault_tasks.dry.delay()
    links = [task]
    for _ in range(10):
        links.append(links[-1].chain(fault_tasks.dry))
    hints.clear()

    rounds("default")
    until(lambda: are_done(*links))

    assert len(hints) <= 1, "what follows the first one is released by settling it"


def test_what_is_released_and_does_not_fit_is_hinted(rounds, hints):
    first = fault_tasks.dry.delay()
    links = [first, *(first.chain(fault_tasks.dry) for _ in range(5))]
    links += [links[1].chain(fault_tasks.dry) for _ in range(5)]
    hints.clear()

    rounds("default", threads=1)
    until(lambda: are_done(*links))

    assert len(hints) == 3, "what the first wake-up left, the successors of the first, those of the second"


def test_a_queue_that_was_empty_so_far_is_found_by_one_wake_up(rounds):
    thread = rounds()
    for queue in ("a", "b", "c"):
        task = fault_tasks.dry.using(queue=queue).delay()
        thread.wake()
        until(lambda task=task: are_done(task), 5, what=f"queue {queue}")


def test_more_queues_than_free_slots_are_all_asked_after_one_wake_up(rounds):
    queues = ["a", "b", "c", "d", "e"]
    thread = rounds(*queues, threads=1)
    for queue in ("a", "e", "c", "c", "b", "d", "a"):
        task = fault_tasks.dry.using(queue=queue).delay()
        thread.wake()
        until(lambda task=task: are_done(task), 5, what=f"queue {queue}")


def test_queues_share_what_is_free_even_when_there_are_more_of_them(rounds):
    queues = ["a", "b", "c", "d", "e"]
    tasks = [fault_tasks.dry.using(queue=queue).delay() for queue in queues for _ in range(20)]

    rounds(threads=1)
    until(lambda: are_done(*tasks))

    order = query("SELECT queue FROM cq_task ORDER BY started_at, id LIMIT 25")
    assert {queue for (queue,) in order} == set(queues)


def test_a_successor_released_for_later_starts_when_it_is_due(rounds):
    link = fault_tasks.dry.delay().chain(fault_tasks.dry)
    later = link.chain(fault_tasks.dry, run_after=0.5)

    rounds("default")
    until(lambda: are_done(later), 5)

    later.refresh_from_db()
    assert 0 <= (later.started_at - later.run_after).total_seconds() < 0.3


@pytest.fixture
def refuses_thirteen(transactional_db):
    """Let the database refuse one result, as a project's own trigger may."""
    query("""
        CREATE FUNCTION refuses_thirteen() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE check_violation USING MESSAGE = 'no thirteen'; END $$
    """)
    query("""
        CREATE TRIGGER refuses_thirteen BEFORE UPDATE ON cq_task FOR EACH ROW WHEN (NEW.result = '13')
        EXECUTE FUNCTION refuses_thirteen()
    """)
    yield
    query("DROP FUNCTION refuses_thirteen CASCADE")


def test_one_outcome_that_the_database_refuses_spoils_no_other_of_its_batch(refuses_thirteen, rounds):
    tasks = fault_tasks.dry.delay_many([(n,) for n in range(10, 20)])

    thread = rounds("default", threads=1)
    until(lambda: are_done(*tasks))
    thread.stop(5)
    until(thread.is_done.is_set, 5)

    assert {task.result for task in Task.objects.filter(status="SUCCESS")} == {*range(10, 20)} - {13}
    failed = Task.objects.get(status="FAILURE")
    assert (failed.args, failed.attempt, failed.exception) == ((13,), 1, "cq.exceptions.NotSerializable")
    assert failed.error.startswith("What the body left cannot be stored: no thirteen")
    counts = Statistic.objects.values_list("outcome").annotate(Sum("count")).order_by("outcome")
    assert list(counts) == [("error", 1), ("success", 9)]
