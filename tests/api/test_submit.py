"""A task that is held back until it is submitted."""

from datetime import timedelta
from functools import partial

import pytest

from cq import task
from cq.exceptions import DuplicateSubmitError, InvalidArguments, NotSerializable, TaskFinished, TaskGone, TooLarge
from cq.models import Task
from cq.testing import drain
from tests.api.run import ended, states
from tests.rows.elsewhere import together
from tests.tasks import adds, echoes, sums

pytestmark = pytest.mark.django_db


@task
def takes_two(cqt, first, second):
    return [first, second]


def test_it_is_pending_until_it_is_submitted():
    held = echoes.using(submit=False).delay(1)
    assert drain() == 0
    assert states(held) == ["PENDING"]

    held.submit()

    assert held.status == "QUEUED"
    assert ended(held).result == [[1], {}]


def test_what_is_submitted_comes_before_its_own_arguments():
    held = echoes.using(submit=False).delay("own", x=1)

    held.submit("first", (2, 3))

    assert held.args == ("first", (2, 3), "own")
    assert ended(held).result == [["first", (2, 3), "own"], {"x": 1}]


def test_it_is_bound_when_it_is_submitted():
    held = takes_two.using(submit=False).delay(second=2)
    nothing_yet = takes_two.delay_args((), submit=False)

    held.submit(1)
    nothing_yet.submit(3, 4)

    drain()
    assert [ended(t).result for t in (held, nothing_yet)] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("first", "error"),
    [((), InvalidArguments), ((1, 2), InvalidArguments), ((object(),), NotSerializable), (("x" * 300,), TooLarge)],
)
def test_what_does_not_fit_is_refused_and_it_stays_held(settings, first, error):
    settings.CQ = {"MAX_ARGS_SIZE": 200}
    held = takes_two.using(submit=False).delay(second=2)

    with pytest.raises(error):
        held.submit(*first)

    assert states(held) == ["PENDING"]
    held.submit(1)
    assert ended(held).result == [1, 2]


def test_it_is_submitted_once():
    held = adds.using(submit=False).delay(1)
    again = Task.objects.get(pk=held.pk)
    held.submit()

    for stale in (held, again):
        with pytest.raises(DuplicateSubmitError, match=f"Task {held.id} is QUEUED"):
            stale.submit(5)

    assert ended(held).result == 1
    with pytest.raises(TaskFinished, match="SUCCESS"):
        held.submit()


@pytest.mark.django_db(transaction=True)
def test_of_two_who_submit_at_once_one_is_told():
    def submit(task, value):
        try:
            task.submit(value)
        except DuplicateSubmitError:
            return None
        return value

    for _ in range(10):
        held = echoes.using(submit=False).delay()

        told = together(*(partial(submit, Task.objects.get(pk=held.pk), n) for n in (1, 2)))

        assert sorted(told, key=str) in ([1, None], [2, None])
        held.refresh_from_db()
        assert held.args == (next(n for n in told if n),)


def test_a_revoked_one_cannot_be_submitted():
    held = adds.using(submit=False).delay(1)
    held.revoke()

    with pytest.raises(TaskFinished, match="REVOKED"):
        held.submit()


def test_one_that_is_gone_cannot_be_submitted():
    held = adds.using(submit=False).delay(1)
    Task.objects.all().delete()

    with pytest.raises(TaskGone):
        held.submit()


@pytest.mark.parametrize(
    "make", [lambda: adds.delay(1), lambda: adds.delay(1).chain(adds, (1,))], ids=["queued", "successor"]
)
def test_only_what_is_held_back_can_be_submitted(make):
    made = make()

    with pytest.raises(DuplicateSubmitError):
        made.submit()


def test_a_chain_can_hang_on_it():
    held = adds.using(submit=False).delay()
    after = held.chain(sums, (1,))
    drain()

    held.submit(4)

    assert ended(after).result == 5


def test_when_it_is_due_holds_from_the_submit_on():
    past = adds.using(submit=False, run_after=-60).delay(1)
    later = adds.using(submit=False, run_after=timedelta(hours=1)).delay(1)

    past.submit()
    later.submit()

    assert (past.status, later.status) == ("QUEUED", "SCHEDULED")


def test_submit_true_is_nothing_special():
    assert adds.using(submit=True).delay(1).status == "QUEUED"


def test_many_can_be_held_back_at_once():
    held = echoes.delay_many([(1,), (2,)], submit=False)

    held[1].submit("x")

    assert states(*held) == ["PENDING", "QUEUED"]
