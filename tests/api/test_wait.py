"""Waiting for an end: woken or by a look, never for ever, and never where it could not come."""

import asyncio
import time
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction

from cq import task
from cq.exceptions import InvalidOption, NotAllowedHere, TaskFailed, TaskGone, WaitTimeout
from cq.models import Task
from cq.states import Status
from cq.testing import drain
from tests import tasks
from tests.api.run import ended
from tests.rows.make import row
from tests.tasks import adds, raises

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def worker():
    """Run what is ready in another thread, as a worker would, until the block ends."""
    stop = []

    def work():
        try:
            while not stop:
                drain()
        finally:
            connections.close_all()

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.append(True)
        thread.join()


@pytest.fixture(params=["hints", "no hints"])
def hints(request, settings):
    if request.param == "no hints":
        settings.CQ = {"CHANNEL_LAYER": "there is none"}


@pytest.mark.usefixtures("hints")
def test_wait_returns_the_task_once_it_has_ended():
    made, failing = adds.delay(1), raises.delay()
    with worker():
        assert made.wait(20) is made
        assert failing.wait(20) is failing

    assert (made.status, made.result, failing.status) == ("SUCCESS", 1, "FAILURE")


@pytest.mark.usefixtures("hints")
def test_get_returns_the_result_or_raises():
    made, failing = tasks.hands_on.delay(5), raises.delay("no luck")
    with worker():
        assert made.get(20) == 16
        with pytest.raises(TaskFailed, match="no luck"):
            failing.get(timeout=20)


async def test_the_async_twins_do_the_same():
    made = await adds.adelay(2)
    also = await tasks.awaits.adelay(1)
    failing = await raises.adelay()
    waiting = asyncio.gather(made.await_done(20), also.aget(20), failing.aget(20), return_exceptions=True)
    await asyncio.sleep(0)

    await sync_to_async(drain)()

    found = await waiting
    assert found[0] is made
    assert found[1] == 2
    assert isinstance(found[2], TaskFailed)


@pytest.mark.parametrize("timeout", [0, 0.0, 0.05])
def test_the_time_that_it_waits_is_limited(timeout):
    made = adds.delay(1)
    began = time.monotonic()

    with pytest.raises(WaitTimeout, match=f"{made.id}.*QUEUED after {timeout} seconds") as error:
        made.wait(timeout)

    assert isinstance(error.value, TimeoutError)
    assert timeout <= time.monotonic() - began < timeout + 2
    with pytest.raises(WaitTimeout):
        made.get(timeout=timeout)


async def test_the_time_that_a_coroutine_waits_is_limited():
    made = await adds.adelay(1)

    for wait in (made.await_done, made.aget):
        with pytest.raises(WaitTimeout):
            await wait(0)
        with pytest.raises(WaitTimeout):
            await wait(timeout=0.05)


def test_zero_asks_once():
    made = adds.delay(1)
    drain()

    assert made.status == "QUEUED"
    assert made.wait(0).result == 1


def test_on_an_unfinished_task_it_is_refused_in_a_transaction():
    made = adds.delay(1)

    with transaction.atomic():
        for wait in (made.wait, made.get, lambda: made.wait(0)):
            with pytest.raises(NotAllowedHere, match="open transaction"):
                wait()


def test_on_a_task_of_the_same_transaction_it_is_refused():
    with transaction.atomic(), pytest.raises(NotAllowedHere, match="open transaction"):
        adds.delay(1).get()


def test_on_a_done_task_it_returns_at_once_anywhere():
    made = ended(adds.delay(1))
    stale = Task.objects.get(pk=made.pk)
    Task.objects.filter(pk=made.pk).update(result=2)

    with transaction.atomic():
        assert made.wait() is made
        assert made.get() == 1
        assert stale.get(0) == 1


def test_a_done_task_that_this_instance_does_not_know_to_be_done_returns_in_a_transaction_too():
    made = adds.delay(1)
    drain()

    with transaction.atomic():
        assert made.get() == 1


@task(atomic=False)
def waits_for_its_subtask(cqt, how):
    made = cqt.subtask(adds, (1,))
    after = made.chain(adds, (1,))
    own = cqt.chain(adds, (1,))
    for one in (made, after, own, cqt.row):
        with pytest.raises(NotAllowedHere, match=r"cannot wait"):
            getattr(one, how)(timeout=5)
    return "refused"


@pytest.mark.parametrize("how", ["wait", "get"])
def test_a_body_cannot_wait_for_its_own_subtask(how):
    assert ended(waits_for_its_subtask.delay(how)).result == "refused"


@task
async def waits_for_its_subtask_in_a_coroutine(cqt):
    made = cqt.subtask(adds, (1,))
    with pytest.raises(NotAllowedHere, match="cannot wait"):
        await made.aget(timeout=5)
    return "refused"


def test_a_coroutine_cannot_wait_for_its_own_subtask():
    assert ended(waits_for_its_subtask_in_a_coroutine.delay()).result == "refused"


@task(atomic=False)
def waits_for_another(cqt):
    return adds.delay(7).get(timeout=20) + 1


def test_a_body_that_is_not_atomic_can_wait_for_another_task():
    made = waits_for_another.delay()
    with worker(), worker():
        assert made.get(20) == 8


@task
def waits_in_a_transaction(cqt):
    adds.delay(7).get(timeout=20)


def test_an_atomic_body_cannot_wait():
    failed = ended(waits_in_a_transaction.delay())

    assert (failed.status, failed.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")


def test_a_task_that_is_gone_says_so():
    made = adds.delay(1)
    Task.objects.all().delete()

    for wait in (made.wait, made.get, made.refresh_from_db):
        with pytest.raises(TaskGone, match=str(made.id)):
            wait()


def test_a_task_that_was_rolled_back_says_so():
    with transaction.atomic():
        made = adds.delay(1)
        transaction.set_rollback(True)

    with pytest.raises(TaskGone):
        made.wait(5)


@pytest.mark.parametrize("status", ["FAILURE", "INCOMPLETE", "REVOKED", "SKIPPED", "LOST", "EXPIRED"])
def test_get_raises_after_every_end_but_success(status):
    over = row(Task.Status(status), reason="because")

    with pytest.raises(TaskFailed, match=f"ended in {status}: because") as error:
        over.get()

    assert (error.value.task, error.value.status) == (over, status)


@pytest.mark.parametrize("timeout", ["10", -1, float("nan"), True, [5]])
@pytest.mark.parametrize("wait", [Task.get, async_to_sync(Task.aget)], ids=["function", "coroutine"])
def test_a_timeout_that_is_none_is_refused_before_anybody_waits(wait, timeout):
    with pytest.raises(InvalidOption, match=r"^timeout=.*expected None, or seconds or a timedelta from 0"):
        wait(row(Status.SUCCESS), timeout)


def test_a_timeout_may_be_a_timedelta():
    with pytest.raises(WaitTimeout):
        adds.delay(1).wait(timedelta(milliseconds=20))
