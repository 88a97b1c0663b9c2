"""`t.explain()`: for whatever a claim wants of a task there is a sentence when it is not so, and none when all is."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from cq import engine, queues
from cq.engine import Wish
from cq.exceptions import TaskGone
from cq.explain import IS_NEXT, explain
from cq.models import Lingering, Step, Task, Worker
from cq.states import DELAYED, TERMINAL, Status
from cq.testing import drain
from tests import tasks
from tests.rows import make
from tests.rows.make import ago, process, row, take

pytestmark = pytest.mark.django_db


def reason(task: Task) -> str:
    (only,) = task.explain()
    return only


def nothing(task: Task) -> None:
    pass


def pause(task: Task) -> None:
    queues.pause(task.queue)


def let_leases_run_out(task: Task) -> None:
    Worker.objects.update(lease_until=ago(5))


def serve(*names: str) -> Callable[[Task], None]:
    def act(task: Task) -> None:
        Worker.objects.update(queues=list(names))

    return act


def know(*names: str) -> Callable[[Task], None]:
    def act(task: Task) -> None:
        Worker.objects.update(names=list(names))

    return act


LATER = Now() + timedelta(hours=1)

# What a claim wants, one after the other: columns of a task and what happens, so that only this one is not so; and what is said.
WANTS: dict[str, tuple[dict[str, Any], Callable[[Task], None], str]] = {
    "status": ({"status": Status.SCHEDULED, "run_after": LATER}, nothing, "It is due at .*, in 59 min"),
    "admitted": ({"key": "k", "admitted": False}, nothing, "waits for its turn among the tasks of its key 'k'"),
    "queue": ({}, serve("other"), "No living worker serves its queue default"),
    "name": (
        {},
        know("other"),
        r"No living worker knows the name tests.tasks.adds. If that stays so, it fails in 9 min 59",
    ),
    "name long unknown": ({"run_after": ago(9999)}, know("other"), "If that stays so, it fails soon"),
    "start_by": ({"start_by": ago(5)}, nothing, "Its time to start was over at .*, 5.* ago: it expires in a moment"),
    "crashes": ({"crashes": 2}, nothing, "process died under it 2 times: it runs alone"),
    "lease": ({}, let_leases_run_out, "No living worker serves its queue default"),
    "paused": ({}, pause, "Its queue default was paused at .*, .* ago"),
}


@pytest.mark.parametrize("wanted", WANTS)
def test_what_cannot_be_claimed_has_its_sentence(wanted: str) -> None:
    columns, act, said = WANTS[wanted]
    process_id = process(names=[make.ADDS])
    task = row(**columns)
    assert columns or explain(task.pk) == [IS_NEXT]

    act(task)

    known = [name for worker in Worker.objects.all() for name in worker.names]
    served = "default" if Worker.objects.get().queues is None else Worker.objects.get().queues[0]
    assert engine.claim(Wish(process_id, {served: 5}, known)) == []
    assert re.search(said, reason(task)), task.explain()


@pytest.mark.parametrize(
    "columns", [{}, {"start_by": LATER}, {"start_by": ago(5), "attempt": 1}, {"key": "k"}], ids=str
)
def test_what_can_be_claimed_is_next(columns: dict[str, Any]) -> None:
    process_id = process()
    task = row(**columns)

    first, *others = task.explain()

    assert first == IS_NEXT
    assert all("it expires" in other for other in others)
    assert [claimed.id for claimed in take(process_id, 5)] == [task.id]
    assert task.explain() == []


@pytest.mark.parametrize("status", [*sorted(TERMINAL), Status.RUNNING])
def test_of_what_runs_or_has_ended_there_is_nothing_to_say(status: Status) -> None:
    assert row(status).explain() == []


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL - {Status.RUNNING}))
def test_of_everything_else_there_is(status: Status) -> None:
    assert row(status).explain()


def test_one_that_is_gone_is_an_error() -> None:
    task = tasks.adds.delay(1)
    Task.objects.all().delete()

    with pytest.raises(TaskGone):
        task.explain()


def test_a_task_says_how_many_are_before_it() -> None:
    process()
    row(priority=1)
    row(run_after=ago(60))
    task = row()
    row(priority=-1)
    row(priority=5, queue="other")

    assert reason(task) == "2 tasks of its queue are before it."


@pytest.mark.django_db(transaction=True)
def test_far_back_in_the_queue_it_does_not_count_them_all() -> None:
    process()
    make.many(1200, Status.QUEUED)
    task = row(priority=-1)

    assert reason(task) == "More than 1,000 tasks of its queue are before it."


def test_all_slots_may_be_busy() -> None:
    busy = process()
    row(Status.RUNNING, process_id=busy)

    assert reason(row()) == "All slots of the workers that may run it are busy: 1 of 1."


def test_slots_that_are_busy_elsewhere_do_not_count() -> None:
    process()
    elsewhere = process(names=["other"])
    row(Status.RUNNING, process_id=elsewhere)

    assert reason(row()) == IS_NEXT


def test_a_queue_may_be_paused_by_the_settings(settings: Any) -> None:
    settings.CQ = {"QUEUES": {"default": {"paused": True}}}
    process()

    assert reason(row()) == "Its queue default is paused by CQ['QUEUES']."


def test_a_worker_of_another_queue_may_know_it() -> None:
    process(names=["other"])
    process()
    Worker.objects.exclude(names=["other"]).update(queues=["mail"])

    assert reason(row()) == (
        "No living worker of its queue default knows the name tests.tasks.adds; one of other queues does."
    )


def test_all_that_is_in_the_way_is_said() -> None:
    queues.pause("default")
    task = row(crashes=1)

    assert [sentence.split(" ")[1] for sentence in task.explain()] == ["queue", "living", "worker"]


def test_one_that_will_be_tried_again_says_what_went_wrong_and_when() -> None:
    task = row(
        Status.RETRY, attempt=2, outcome="error", exception="builtins.ValueError", error="not\nyet", run_after=LATER
    )

    failed, again = task.explain()

    assert failed == "Attempt 2 failed with ValueError: not yet."
    assert re.match(r"It is tried again at .*, in 59 min \d+ s\.", again)


def test_a_long_error_is_cut() -> None:
    task = row(Status.RETRY, attempt=1, outcome="error", exception="builtins.ValueError", error="x" * 9999)

    assert len(task.explain()[0]) < 300


def test_after_a_crash_it_says_so() -> None:
    task = row(Status.RETRY, attempt=1, outcome="crashed", crashes=1, run_after=LATER)

    assert task.explain()[0] == "In attempt 1 its worker process died."


@pytest.mark.parametrize("status", sorted(DELAYED))
def test_what_is_due_waits_for_a_worker_to_see_it(status: Status) -> None:
    task = row(status, run_after=ago(5))

    *_, due, nobody = task.explain()

    assert due.startswith("It was due at")
    assert nobody == "No living worker serves its queue default."


def test_one_that_is_held_back_says_until_when() -> None:
    task = tasks.adds.using(submit=False, result_ttl=7200).delay(1)

    assert re.match(r"It is held back until submit\(\) is called; at .*, in 1 h 59 min it is revoked\.", reason(task))


def test_a_successor_names_its_predecessor() -> None:
    first = tasks.adds.delay(1)
    plain, forced = first.chain(tasks.adds, (1,)), first.chain(tasks.adds, (1,), force_chain=True)
    short = str(first.id)[-12:]

    assert reason(plain) == (
        f"It waits for its predecessor tests.tasks.adds {short}, which is QUEUED, and starts when that has ended in SUCCESS."
    )
    assert reason(forced).endswith("and starts when that has ended.")


def test_a_successor_of_what_has_ended_is_seen_to() -> None:
    first = row(Status.FAILURE)

    assert "has ended in FAILURE: a worker looks in a moment" in reason(row(Status.PENDING, previous=first))


def test_a_parent_says_what_it_waits_for_and_what_that_waits_for() -> None:
    parent = tasks.spawns.delay(5)
    drain(max_tasks=1)

    head, *subtasks = parent.explain()

    assert head == "Its body has returned; it waits for 5 subtasks, the first 3 are:"
    first = parent.subtasks.first()
    assert first is not None
    assert (
        subtasks[0] == f"tests.tasks.adds {str(first.id)[-12:]} is QUEUED: No living worker serves its queue default."
    )
    assert len(subtasks) == 3


def test_a_deep_tree_is_not_walked_down(django_assert_max_num_queries: Any) -> None:
    top = above = row(Status.WAITING)
    for _ in range(20):
        above = row(Status.WAITING, parent=above)

    with django_assert_max_num_queries(4):
        assert len(top.explain()) == 2


def test_a_parent_whose_subtasks_have_ended_is_seen_to() -> None:
    parent = row(Status.WAITING)
    row(Status.SUCCESS, parent=parent)

    assert reason(parent) == "Its body has returned and all its subtasks have ended: a worker ends it in a moment."


def test_an_earlier_body_may_still_run() -> None:
    process()
    task = row(admitted=False)
    Lingering.objects.create(task_id=task.pk, process_id=uuid4())

    assert reason(task) == "An earlier body of it still runs; it starts again when that is gone."


def test_the_places_of_a_key_are_named_with_those_who_have_them() -> None:
    process()
    running = row(Status.RUNNING, key="k", key_limit=3)
    admitted = row(key="k", key_limit=3)
    lingering = uuid4()
    Lingering.objects.create(task_id=lingering, process_id=uuid4(), key="k")
    row(Status.RUNNING, key="other")
    task = row(key="k", key_limit=3, admitted=False)

    said = reason(task)

    assert said.startswith("3 of 3 places of its key 'k' are taken, by ")
    assert all(str(task_id)[-12:] in said for task_id in (running.id, admitted.id, lingering))


def test_a_rate_that_is_used_up_says_when_it_goes_on() -> None:
    process()
    rate = {"key": "k", "rate_starts": 2, "rate_seconds": 60}
    for seconds in (51, 30, 90):
        row(Status.SUCCESS, started_at=ago(seconds), outcome="success", **rate)
    task = row(admitted=False, **rate)

    assert re.match(
        r"The rate of its key 'k' is used up: 2 starts in the last 1 min; the next one may start at .*, in [89].* s\.",
        reason(task),
    )


def test_a_key_with_places_left_waits_for_its_turn() -> None:
    process()
    row(Status.RUNNING, key="k", key_limit=2)
    task = row(key="k", key_limit=2, rate_starts=5, rate_seconds=60, admitted=False)

    assert reason(task) == "It waits for its turn among the tasks of its key 'k'."


def test_one_that_may_expire_says_so() -> None:
    process()
    task = row(start_by=LATER)

    assert re.match(r"If it has not started at .*, in 59 min \d+ s, it expires\.", task.explain()[1])


SLEEPERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"run_after": LATER}, [r"It sleeps, and goes on at .*, in 59 min .*\."]),
    ({"run_after": None, "awaits": "go"}, [r"It waits for the event 'go'\."]),
    (
        {"run_after": LATER, "awaits": "asked for"},
        [
            r"It waits for the event 'asked for', which takes the permission shop\.approve\.",
            r"It goes on without one at .*, in 59 min .*\.",
        ],
    ),
]


@pytest.mark.parametrize(("columns", "said"), SLEEPERS, ids=["sleeps", "waits", "waits for somebody until"])
def test_what_is_suspended_says_for_what_and_until_when(columns: dict[str, Any], said: list[str]) -> None:
    process()
    task = row(Status.SUSPENDED, **columns)
    Step.objects.create(
        task=task, kind="event", name="asked for", attempt=1, started_at=ago(5), permission="shop.approve"
    )

    found = task.explain()

    assert len(found) == len(said)
    assert all(re.fullmatch(pattern, sentence) for pattern, sentence in zip(said, found, strict=True)), found
