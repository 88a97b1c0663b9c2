"""Coroutines: the same verbs, on the event loop."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User

from cq import task
from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.api.run import ended, ended_in_time
from tests.tasks import adds, sums


@task
async def awaits_and_adds(cqt, a, b=0):
    await asyncio.sleep(0)
    return a + b


@task(takes_task=False)
async def awaits_alone(a):
    return a


@task(retries=2, backoff=0)
async def succeeds_at(cqt, attempt):
    if cqt.attempt < attempt:
        raise ValueError(f"attempt {cqt.attempt}")
    return cqt.attempt


@task
async def makes(cqt, n):
    cqt.subtask_many(awaits_and_adds, range(n))
    cqt.subtask(adds, (5,)).chain(sums, (1,))
    cqt.chain(awaits_and_adds)
    return n


@task
async def adds_a_sibling(cqt):
    cqt.parent.subtask(awaits_and_adds, (9,))


@task
async def has_a_growing_family(cqt):
    cqt.subtask(adds_a_sibling)


@task
async def names(cqt, user):
    return [user.username, await User.objects.acount()]


@task
async def writes(cqt, name):
    await Group.objects.acreate(name=name)


@task
async def writes_and_raises(cqt, name):
    await Group.objects.acreate(name=name)
    raise ValueError


@pytest.mark.django_db
class TestInsideOfATestsTransaction:
    """As users' own tests would run them."""

    def test_they_run_and_return(self):
        made = awaits_and_adds.delay(1, b=2)
        alone = awaits_alone.delay(3)

        drain()

        assert [ended(made).result, ended(alone).result] == [3, 3]
        assert Task.objects.count() == 2

    def test_they_are_tried_again(self):
        done = ended(succeeds_at.delay(3))

        assert (done.status, done.result) == ("SUCCESS", 3)
        assert [a.outcome for a in done.attempts.all()] == ["error", "error", "success"]

    def test_they_make_subtasks_and_successors(self):
        parent = ended(makes.delay(3))

        assert (parent.status, parent.result) == ("SUCCESS", 3)
        assert sorted(t.result for t in parent.subtasks.all()) == [0, 1, 2, 5, 6]
        assert parent.next.get().result == 3

    def test_they_add_siblings(self):
        parent = ended(has_a_growing_family.delay())

        assert sorted(t.result or 0 for t in parent.subtasks.all()) == [0, 9]

    def test_they_see_what_the_test_has_written(self):
        user = User.objects.create(username="ann")

        assert ended(names.delay(user)).result == ["ann", 1]

    def test_they_write_where_the_test_sees_it(self):
        ended(writes.delay("written"))

        assert Group.objects.get().name == "written"


@pytest.mark.django_db
def test_what_a_coroutine_wrote_in_a_test_is_gone_after_it():
    assert not Group.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_they_commit_as_they_go():
    failed = ended(writes_and_raises.delay("kept"))

    assert (failed.status, Group.objects.get().name) == ("FAILURE", "kept")


@pytest.mark.django_db(transaction=True)
def test_a_coroutine_that_raises_leaves_no_subtasks():
    failed = ended(makes_and_raises.delay())

    assert failed.status == "FAILURE"
    assert Task.objects.count() == 1


@task
async def makes_and_raises(cqt):
    cqt.subtask(adds, (1,))
    raise ValueError


@task
async def delays(cqt):
    made = await adds.adelay(3)
    after = await made.achain(sums, (1,))
    return str(after.id)


@pytest.mark.django_db(transaction=True)
def test_what_a_coroutine_delays_stands_alone():
    done = ended_in_time(delays.delay())

    assert Task.objects.get(pk=done.result).result == 4
    assert done.subtasks.count() == 0


@task
async def calls_directly(cqt):
    return await awaits_and_adds(3, 4)


@pytest.mark.django_db(transaction=True)
def test_a_direct_call_inside_of_a_coroutine_is_a_direct_call():
    assert ended(calls_directly.delay()).result == 7
    assert Task.objects.count() == 1


@task
async def returns_object(cqt):
    return object()


@pytest.mark.django_db(transaction=True)
def test_a_result_of_a_coroutine_that_cannot_be_stored_is_a_failure():
    assert ended(returns_object.delay()).exception == "cq.exceptions.NotSerializable"


@task
async def knows_its_previous(cqt):
    return (await sync_to_async(lambda: cqt.previous.result)(), cqt.parent is None, cqt.attempt, cqt.queue)


@pytest.mark.django_db(transaction=True)
def test_what_reads_the_row_is_read_in_a_thread():
    assert ended(tasks.adds.delay(4).chain(knows_its_previous)).result == (4, True, 1, "default")
