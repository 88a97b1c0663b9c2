"""The verbs that make tasks, their async twins, and what the task is then."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

import cq
from cq import TaskFunction, aenqueue, enqueue, get_task, task
from cq.exceptions import InvalidArguments
from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.api.run import ended

pytestmark = pytest.mark.django_db


@task("tests.named", queue="mail", priority=3, retries=2, backoff=[1, 2])
def named(cqt, *args, **kwargs):
    return [cqt.name, list(args), kwargs]


@task(takes_task=False)
def adds_alone(a, b=1):
    return a + b


def test_delay_makes_a_task_of_the_call():
    made = named.delay("a@b.org", n=5)

    made.refresh_from_db()
    assert (made.name, made.status, made.queue, made.priority) == ("tests.named", "QUEUED", "mail", 3)
    assert (made.args, made.kwargs) == (("a@b.org",), {"n": 5})
    assert not made.is_done
    assert ended(made).result == ["tests.named", ["a@b.org"], {"n": 5}]


def test_what_delay_returns_is_what_the_row_says():
    made = named.using(run_after=60).delay(1)
    stored = Task.objects.get(pk=made.pk)

    for field in Task._meta.concrete_fields:
        if field.attname != "delay":  # of which `run_after` tells what came of it
            assert getattr(made, field.attname) == getattr(stored, field.attname), field.attname


def test_delay_args_takes_the_arguments_as_data_and_options():
    made = named.delay_args((1, 2), {"x": 3}, priority=9)

    assert (made.args, made.kwargs, made.priority, made.queue) == ((1, 2), {"x": 3}, 9, "mail")


@pytest.mark.parametrize(
    ("given", "args"),
    [("abc", ("abc",)), ({"a": 1}, ({"a": 1},)), (5, (5,)), (None, (None,)), ([1, 2], (1, 2)), ((), ())],
)
def test_what_is_neither_tuple_nor_list_is_one_argument(given, args):
    assert named.delay_args(given).args == args
    assert named.delay_many([given])[0].args == args


def test_delay_many_makes_one_of_each_in_order():
    made = adds_alone.using(queue="q").delay_many([(1,), (2, 2), [3], 4], priority=1)

    drain()

    assert [t.result for t in Task.objects.order_by("id")] == [2, 4, 4, 5]
    assert {(t.queue, t.priority) for t in made} == {("q", 1)}


def test_delay_many_of_nothing_makes_nothing():
    with CaptureQueriesContext(connection) as queries:
        assert adds_alone.delay_many([]) == []

    assert len(queries) == 0


def test_delay_many_takes_a_generator():
    assert len(adds_alone.delay_many((n,) for n in range(3))) == 3


def test_one_wrong_call_of_many_leaves_no_row():
    with pytest.raises(InvalidArguments):
        adds_alone.delay_many([(1,), (1, 2, 3)])

    assert not Task.objects.exists()


def test_enqueue_and_get_task_know_the_registered_name():
    one = enqueue("tests.named", "a", name="b", args=1)
    two = get_task("tests.named").using(priority=-1).delay("a")

    assert (one.args, one.kwargs, one.name) == (("a",), {"name": "b", "args": 1}, "tests.named")
    assert (two.priority, two.queue) == (-1, "mail")


def test_using_adds_up_and_leaves_the_function_as_it_was():
    mine = named.using(queue="a", priority=1).using(queue="b")

    made = mine.delay()

    assert isinstance(mine, TaskFunction)
    assert (made.queue, made.priority) == ("b", 1)
    assert named.delay().queue == "mail"


def test_settings_that_have_changed_count_from_the_next_call_on(settings):
    before = tasks.adds.delay(1)
    settings.CQ = {"ROUTES": {"tests.tasks.adds": "elsewhere"}, "RESULT_TTL": 60}

    after = tasks.adds.delay(1)

    assert (before.queue, after.queue, after.result_ttl) == ("default", "elsewhere", 60)


def test_options_of_the_verb_beat_those_of_using():
    assert named.using(priority=1).delay_args((), priority=2).priority == 2
    assert named.using(priority=1).delay_many([()], priority=2)[0].priority == 2


async def twins() -> list[Task]:
    many = await named.adelay_many([(1,), (2,)])
    return [
        await named.adelay(1, x=2),
        await named.adelay_args((1,), {"x": 2}),
        *many,
        await aenqueue("tests.named", 1),
        await named.using(priority=7).adelay(1),
    ]


@pytest.mark.django_db(transaction=True)
async def test_every_verb_that_makes_tasks_has_an_async_twin():
    made = await twins()

    assert await Task.objects.acount() == 6
    assert made[-1].priority == 7
    after = await made[0].achain(tasks.adds, (1,), {"b": 2})
    assert after.previous_id == made[0].id
    held = await named.using(submit=False).adelay()
    await held.asubmit(5)
    assert (held.status, held.args) == ("QUEUED", (5,))
    assert await held.arevoke()
    assert held.status == "REVOKED"
    assert await held.await_done(0) is held
    with pytest.raises(cq.TaskFailed):
        await held.aget()
    await sync_to_async(drain)()
    assert await made[2].aget(1) == ["tests.named", [1], {}]


def test_the_ids_are_uuids_of_version_7_in_order():
    ids = [named.delay().id for _ in range(100)]

    assert {i.version for i in ids} == {7}
    assert ids == sorted(ids)
    assert abs((ids[0].int >> 80) - datetime.now(UTC).timestamp() * 1000) < 60_000


def test_a_task_function_looks_like_its_function():
    assert named.__name__ == "named"
    assert named.__wrapped__ is not None
    assert repr(named) == "<task function tests.named>"
    assert adds_alone.name == "tests.api.test_calling.adds_alone"


def test_a_new_task_has_all_the_attributes_of_the_contract():
    made = named.delay(1)

    assert isinstance(made.id, uuid.UUID)
    assert (made.result, made.error, made.exception, made.traceback, made.reason) == (None,) * 5
    assert (made.parent, made.previous, made.root, made.attempt) == (None, None, made, 0)
    assert (made.started_at, made.finished_at, made.created_by, made.subject) == (None,) * 4
    assert made.created_at <= made.run_after
    assert made.created is True
    assert [*made.attempts.all(), *made.subtasks.all(), *made.next.all()] == []


def test_statuses_are_named_on_the_task():
    assert Task.STATUS_COMPLETE == Task.STATUS_SUCCESS == Task.Status.SUCCESS == "SUCCESS"
    assert {getattr(Task, f"STATUS_{s.name}") for s in Task.Status} == set(Task.Status)


def test_a_finished_task_says_when():
    made = ended(tasks.adds.delay(1))

    assert made.is_done
    assert made.created_at <= made.started_at <= made.finished_at
    assert (made.attempt, made.result) == (1, 1)


ARGUMENTS = [
    (1, 2.5, "ä", None, True),
    ((1, 2), {3}, frozenset({4}), b"\x00\xff"),
    (datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1), uuid.UUID(int=5)),
    ({"a": [{"b": ()}]},),
    (Task.Status.SUCCESS,),
]


@task
def keeps(cqt, *args):
    return args


@pytest.mark.parametrize("args", ARGUMENTS, ids=repr)
def test_arguments_and_results_come_back_as_what_they_were(args):
    made = ended(keeps.delay(*args))

    assert made.args == args
    assert made.result == args
    assert [type(value) for value in made.result] == [type(value) for value in args]


@task
def names_user(cqt, user, *more):
    return user.username


def test_a_model_instance_goes_by_reference_and_is_read_again():
    user = User.objects.create(username="ann")
    made = names_user.delay(user)
    User.objects.update(username="bea")

    ended(made)

    assert made.result == "bea"
    assert made.args == (cq.ModelRef("auth.user", user.pk),)
    assert isinstance(made.args, tuple)


@task(retries=5, backoff=0)
def needs_user(cqt, user):
    return user.pk


def test_a_model_row_that_is_gone_fails_without_another_attempt():
    user = User.objects.create(username="ann")
    made = needs_user.delay(user)
    user.delete()

    ended(made)

    assert (made.status, made.attempt, made.exception) == ("FAILURE", 1, "cq.exceptions.ModelGone")
    assert "auth.user" in made.error
