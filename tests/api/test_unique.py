"""While a task with a unique key is unfinished, there is no other: whoever asks for one gets that one, or an error that has it."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.db import transaction

from cq import InvalidOption, UniqueConflict, aenqueue, enqueue, task
from cq.exceptions import TaskGone
from cq.ids import uuid7
from cq.models import KeyRequest, Task
from cq.states import TERMINAL, UNFINISHED, Status
from cq.testing import drain
from tests.rows import make
from tests.rows.make import ago, row, statuses
from tests.tasks import adds, sums

pytestmark = pytest.mark.django_db


def by_first(first, *args, **kwargs):
    return f"first-{first}"


@task("unique.by_args", unique="args")
def by_args(cqt, a, b=2):
    return [a, b]


@task("unique.by_function", unique=by_first, key=by_first)
def by_function(cqt, first, second=None):
    return [first, second]


@task("unique.makes")
def makes(cqt, *firsts):
    for first in firsts:
        cqt.subtask(by_function, (first,))


@task("unique.makes_if_free")
def makes_if_free(cqt, first):
    try:
        return str(cqt.subtask(by_function, (first,)).id)
    except UniqueConflict as conflict:
        return f"{conflict.task.id} has it"


@task("unique.makes_in_loop", retries=1, backoff=0)
async def makes_in_loop(cqt, first):
    cqt.subtask(by_function, (first,))
    return cqt.attempt


@task("unique.returns_found")
def returns_found(cqt, first):
    return by_function.delay(first)


# Standing alone


def test_the_unfinished_one_is_returned_until_it_ends():
    first = by_args.delay(1)
    second = by_args.delay(1)
    drain()
    third = by_args.delay(1)

    assert (second.id, second.created, second.status) == (first.id, False, "QUEUED")
    assert (first.created, third.created) == (True, True)
    assert third.id != first.id


@pytest.mark.parametrize("status", Status)
def test_any_unfinished_status_holds_the_key_and_no_other(status):
    holder = row(status, name=adds.name, unique_key="k")

    found = adds.using(unique_key="k").delay(1)

    assert (found.id == holder.id) == (status in UNFINISHED)
    assert found.created == (status in TERMINAL)


def test_arguments_are_the_same_however_they_are_passed():
    first = by_args.delay(1)

    same = [by_args.delay(1, 2), by_args.delay(1, b=2), by_args.delay(b=2, a=1), by_args.delay_args([1])]
    others = [by_args.delay(2), by_args.delay(1, 3), by_args.delay("1")]

    assert {found.id for found in same} == {first.id}
    assert [made.created for made in others] == [True] * 3


def test_model_instances_are_the_same_by_their_row():
    group = Group.objects.create(name="g")

    assert by_args.delay(group).id == by_args.delay(Group.objects.get()).id


def test_every_verb_finds_it():
    first = by_function.delay(1)

    found = [
        by_function.delay(1, 5),
        by_function.delay_args((1,), priority=3),
        *by_function.delay_many([(1,), (1, 2)]),
        by_function.using(queue="other").delay(1),
        enqueue("unique.by_function", 1),
    ]

    assert {(other.id, other.created) for other in found} == {(first.id, False)}
    assert Task.objects.count() == 1


@pytest.mark.django_db(transaction=True)
async def test_the_twins_find_it_too():
    first = await by_function.adelay(1)

    found = [
        await by_function.adelay(1),
        await by_function.adelay_args((1,)),
        *await by_function.adelay_many([(1,)]),
        await aenqueue("unique.by_function", 1),
    ]

    assert {(other.id, other.created) for other in found} == {(first.id, False)}


def test_a_key_belongs_to_one_function():
    first = adds.using(unique_key="k").delay(1)
    other = sums.using(unique_key="k").delay(1, 2)

    assert (first.created, other.created) == (True, True)


def test_a_key_of_the_call_beats_the_decorator():
    first = by_args.using(unique_key="k").delay(1)

    assert by_args.delay_args((2,), unique_key="k").id == first.id
    assert by_args.delay(1).created


def test_in_a_list_each_call_gets_its_own_task_or_the_one_there_is():
    there = by_function.delay(3)

    many = by_function.delay_many([(2,), (1,), (3,), (2,), (1, "other")])

    assert [found.created for found in many] == [True, True, False, False, False]
    assert [many[index].id for index in (2, 3, 4)] == [there.id, many[0].id, many[1].id]
    assert [found.args for found in many] == [(2,), (1,), (3,), (2,), (1,)]
    assert [found.key for found in many[:2]] == ["first-2", "first-1"]


def test_a_list_with_one_key_is_one_task():
    many = adds.delay_many([(1,), (2,)], unique_key="k")

    assert [found.created for found in many] == [True, False]
    assert Task.objects.get().args == (1,)


def test_more_than_a_slice_is_placed(settings):
    many = by_function.delay_many([(n % 1100,) for n in range(2200)])

    assert [found.created for found in many] == [True] * 1100 + [False] * 1100
    assert Task.objects.count() == 1100


def test_what_is_found_is_the_row():
    first = by_args.using(queue="own", priority=5).delay(1)
    Task.objects.filter(pk=first.pk).update(status=Status.SCHEDULED, run_after=ago(-60))

    found = by_args.delay(1)

    assert (found.queue, found.priority, found.status) == ("own", 5, "SCHEDULED")


def test_what_is_rolled_back_holds_no_key():
    with transaction.atomic():
        by_args.delay(1)
        transaction.set_rollback(True)

    assert by_args.delay(1).created


def test_a_body_may_not_return_what_it_only_found():
    by_function.using(run_after=60).delay(1)
    task = returns_found.delay(1)
    drain()

    task.refresh_from_db()
    assert task.exception == "cq.exceptions.ReturnedForeignTask"


def test_in_serial_mode_it_is_found_as_well(settings):
    held = by_args.using(submit=False, unique_key="k").delay(1)
    settings.CQ = {"SERIAL": True}

    found = by_args.using(unique_key="k").delay(2)

    assert (found.id, found.created, found.status) == (held.id, False, "PENDING")


# replace


def test_replace_takes_over_arguments():
    first = by_function.delay(1, "old")

    found = by_function.using(replace=("args",)).delay_args((1,), {"second": "new"})

    assert (found.id, found.created) == (first.id, False)
    assert (found.args, found.kwargs) == ((1,), {"second": "new"})
    drain()
    found.refresh_from_db()
    assert found.result == [1, "new"]


def test_replace_postpones_and_brings_forward():
    debounced = adds.using(unique_key="k", replace=("args", "run_after"))
    first = debounced.using(run_after=60).delay(1)

    later = debounced.using(run_after=3600).delay(2)
    now = debounced.delay(3)
    again = debounced.using(run_after=60).delay(4)

    assert {first.id, later.id, now.id, again.id} == {first.id}
    assert [found.status for found in (first, later, now, again)] == ["SCHEDULED", "SCHEDULED", "QUEUED", "SCHEDULED"]
    assert timedelta(minutes=58) < later.run_after - first.run_after < timedelta(minutes=60)
    assert [found.args for found in (later, now, again)] == [(2,), (3,), (4,)]
    assert drain() == 0


def test_replace_takes_over_only_what_it_names():
    first = adds.using(unique_key="k", run_after=60).delay(1)

    only_args = adds.using(unique_key="k", replace=["args"]).delay(2)
    only_due = adds.using(unique_key="k", replace=["run_after"]).delay(3)

    assert (only_args.status, only_args.run_after, only_args.args) == ("SCHEDULED", first.run_after, (2,))
    assert (only_due.status, only_due.args) == ("QUEUED", (2,))


def test_replace_counts_expiry_anew():
    late = adds.using(unique_key="k", expires=10, run_after=60, replace=("run_after",))
    late.delay(1)

    found = late.using(run_after=120).delay(1)

    assert found.start_by - found.run_after == timedelta(seconds=10)


def test_replace_takes_over_the_key_with_the_arguments():
    first = adds.using(unique_key="k", key="old", limit=1).delay(1)
    Task.objects.filter(pk=first.pk).update(admitted=True)
    KeyRequest.objects.all().delete()

    found = adds.using(unique_key="k", key="new", limit=5, rate="3/m", replace=("args",)).delay(1)

    assert (found.key, found.key_limit, found.rate_starts, found.rate_seconds) == ("new", 5, 3, 60)
    assert not found.admitted, "it has a place of the old key's"
    assert set(KeyRequest.objects.values_list("key", flat=True)) == {"old", "new"}


def test_replace_leaves_a_place_that_is_given():
    first = adds.using(unique_key="k", key="same").delay(1)
    Task.objects.filter(pk=first.pk).update(admitted=True)

    found = adds.using(unique_key="k", key="same", replace=("args",)).delay(2)

    assert (found.admitted, found.args) == (True, (2,))


def test_what_is_postponed_gives_its_place_back():
    first = adds.using(unique_key="k", key="same").delay(1)
    Task.objects.filter(pk=first.pk).update(admitted=True)
    KeyRequest.objects.all().delete()

    found = adds.using(unique_key="k", key="same", run_after=60, replace=("run_after",)).delay(2)

    assert (found.status, found.admitted) == ("SCHEDULED", False)
    assert set(KeyRequest.objects.values_list("key", flat=True)) == {"same"}


@pytest.mark.parametrize("status", sorted(UNFINISHED - {Status.PENDING, Status.SCHEDULED, Status.QUEUED}))
def test_what_has_started_is_returned_as_it_is(status):
    holder = row(status, unique_key="k", attempt=1)
    before = make.image(holder.id)

    found = adds.using(unique_key="k", replace=("args", "run_after"), run_after=60).delay(2)

    assert (found.id, found.created) == (holder.id, False)
    assert make.image(holder.id) == before


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SCHEDULED])
def test_what_is_to_be_run_again_is_returned_as_it_is(status):
    holder = row(status, unique_key="k", attempt=1)
    before = make.image(holder.id)

    adds.using(unique_key="k", replace=("args", "run_after"), run_after=60).delay(2)

    assert make.image(holder.id) == before


def test_what_is_held_back_takes_it_over_and_stays_held():
    held = adds.using(unique_key="k", submit=False).delay(1)

    found = adds.using(unique_key="k", run_after=60, replace=("args", "run_after")).delay(2)

    assert (found.id, found.status, found.args) == (held.id, "PENDING", (2,))
    found.submit()
    assert found.status == "SCHEDULED"


def test_what_is_passed_a_result_keeps_its_arguments():
    first = adds.delay(1)
    behind = first.chain(sums, (5,), unique_key="k")

    found = sums.using(unique_key="k", replace=("args",)).delay(1, 2)

    assert (found.id, found.args) == (behind.id, (5,))


def test_of_a_list_the_last_one_is_taken_over():
    first = adds.using(unique_key="k").delay(0)

    found = adds.delay_many([(1,), (2,), (3,)], unique_key="k", replace=("args",))

    assert {other.id for other in found} == {first.id}
    assert Task.objects.get().args == (3,)


def test_within_a_list_the_last_one_is_taken_over_too():
    adds.delay_many([(1,), (2,), (3,)], unique_key="k", replace=("args",))

    assert Task.objects.get().args == (3,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: adds.using(replace=("args",)).delay(1),
        lambda: adds.delay_args((1,), replace=("args",)),
        lambda: adds.delay_many([(1,)], replace=("args",)),
        lambda: by_args.using(replace=("args",), submit=False).delay(1),
    ],
)
def test_replace_without_a_unique_key_is_refused(call):
    with pytest.raises(
        InvalidOption, match=r"replace=\('args',\): .* has no unique key at this call\. Give unique_key="
    ):
        call()

    assert not Task.objects.exists()


# Behind others and below them


def test_a_chain_onto_a_taken_key_is_refused_with_the_task_that_has_it():
    first, holder = adds.delay(1), by_function.delay(1)

    with (
        transaction.atomic(),
        pytest.raises(UniqueConflict, match=f"'first-1' of unique.by_function is taken by task {holder.id}") as error,
    ):
        first.chain(by_function, (1,))

    assert error.value.task == holder
    assert error.value.task.created is False
    assert not first.next.exists(), "the caller's transaction goes on"
    assert first.chain(by_function, (2,)).status == "PENDING"


def test_a_chain_with_a_key_is_resolved_like_any_other():
    first = adds.delay(1)
    drain()

    assert first.chain(by_function, (1,)).status == "QUEUED"
    with pytest.raises(TaskGone):
        Task(pk=uuid7()).chain(by_function, (2,))


@task("unique.replaces_below")
def replaces_below(cqt):
    cqt.subtask(adds.using(unique_key="k", replace=("args",)), (1,))


def test_replace_is_refused_where_a_conflict_is_an_error():
    first = adds.delay(1)

    with pytest.raises(InvalidOption, match="replace= is for tasks that stand alone"):
        first.chain(adds, (1,), unique_key="k", replace=("args",))
    with pytest.raises(InvalidOption, match="replace= is for tasks that stand alone"):
        replaces_below()


def test_two_of_one_key_in_one_body_are_refused_at_once():
    task = makes.delay(1, 2, 1)
    drain()

    task.refresh_from_db()
    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.UniqueConflict")
    assert "'first-1' of unique.by_function is taken by task" in task.error
    assert not task.subtasks.exists()


def test_two_of_one_key_in_a_direct_call_are_refused_too():
    with pytest.raises(UniqueConflict):
        makes(1, 1)
    makes(1, 2)


def test_a_stored_one_is_refused_at_once_and_the_body_may_go_on():
    holder = by_function.using(run_after=60).delay(1)
    task, other = makes_if_free.delay(1), makes_if_free.delay(2)
    drain()

    task.refresh_from_db()
    other.refresh_from_db()
    assert (task.status, task.result) == ("SUCCESS", f"{holder.id} has it")
    assert other.result == str(other.subtasks.get().id)


def test_a_coroutine_fails_at_its_end_and_runs_again():
    by_function.using(run_after=60).delay(1)
    task = makes_in_loop.delay(1)
    drain()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.exception) == ("FAILURE", 2, "cq.exceptions.UniqueConflict")
    assert "'first-1' of unique.by_function" in task.error
    assert "duplicate key" not in task.error
    assert not task.subtasks.exists()


def test_a_coroutine_whose_key_is_free_by_its_next_attempt_succeeds():
    holder = by_function.using(run_after=60).delay(1)
    task = makes_in_loop.delay(1)
    drain(max_tasks=1)
    holder.revoke()
    drain()

    task.refresh_from_db()
    assert (task.status, task.result) == ("SUCCESS", 2)


# Held back and reopened


def test_what_is_held_back_is_unique_from_its_submit_on():
    held = by_function.using(submit=False).delay("second")
    by_function.delay(1)
    assert (held.unique_key, held.key) == (None, None)

    with pytest.raises(UniqueConflict) as error:
        held.submit(1)
    held.refresh_from_db()
    assert (error.value.task.args, held.status, held.args) == ((1,), "PENDING", ("second",))

    held.submit(2)
    assert (held.unique_key, held.key, held.args, held.status) == ("first-2", "first-2", (2, "second"), "QUEUED")
    assert by_function.delay(2).id == held.id


def test_what_was_given_at_the_call_stays_at_the_submit():
    held = by_function.using(submit=False, unique_key="own", key="mine", limit=3).delay()

    held.submit(1)

    assert (held.unique_key, held.key, held.key_limit, held.admitted) == ("own", "mine", 3, False)


def test_functions_are_given_model_instances_at_the_submit():
    group = Group.objects.create(name="the name")
    held = by_name.using(submit=False).delay(group)

    held.submit()

    assert held.unique_key == "the name"


def name_of(group):
    return group.name


@task("unique.by_name", unique=name_of)
def by_name(cqt, group):
    pass


def test_a_retry_is_refused_when_another_has_the_key_and_nothing_is_changed():
    failed = row(Status.FAILURE, name=by_function.name, unique_key="first-1")
    holder = by_function.delay(1)
    before = make.image(failed.id)

    with transaction.atomic(), pytest.raises(UniqueConflict, match=str(holder.id)) as error:
        failed.retry()

    assert error.value.task == holder
    assert make.image(failed.id) == before


def test_a_retry_of_a_tree_is_refused_as_a_whole():
    root = row(Status.INCOMPLETE)
    child = row(Status.FAILURE, parent=root, unique_key="k")
    other = row(Status.FAILURE, parent=root)
    holder = adds.using(unique_key="k").delay(1)

    with pytest.raises(UniqueConflict) as error:
        root.retry()

    assert error.value.task == holder
    assert statuses(root, child, other) == ["INCOMPLETE", "FAILURE", "FAILURE"]


def test_a_retry_of_two_with_one_key_is_refused():
    root = row(Status.INCOMPLETE)
    row(Status.FAILURE, parent=root, unique_key="k")
    row(Status.FAILURE, parent=root, unique_key="k")

    with pytest.raises(
        UniqueConflict, match="two of the tasks at, below or above it have the same unique key"
    ) as error:
        root.retry()

    assert error.value.task is None
