"""Direct calls: here and now, without a row; subtasks afterwards, in order."""

import asyncio

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection, transaction

from cq import task
from cq.exceptions import NotAllowedHere, TaskFailed
from cq.models import Task
from tests import tasks
from tests.tasks import adds

pytestmark = pytest.mark.django_db

said: list[object] = []


@pytest.fixture(autouse=True)
def nothing_said():
    said.clear()


@task
def says(cqt, word, *more):
    said.append(word)
    return word


@task
def fails(cqt, word):
    said.append(word)
    raise ValueError(word)


@pytest.fixture
def no_row():
    yield
    assert not Task.objects.exists()


@pytest.mark.usefixtures("no_row")
class TestWithoutARow:
    def test_it_returns_what_the_body_returns(self):
        assert adds(1, b=2) == 3
        assert tasks.doubles(4) == 8

    def test_the_value_itself_goes_in_and_comes_out(self):
        value, user = object(), User(username="unsaved")

        assert says(value) is value
        assert says(user) is user

    def test_the_bodys_exception_comes_out_as_it_is(self):
        with pytest.raises(ValueError, match=r"^broken$"):
            tasks.raises()
        with pytest.raises(TypeError):
            adds()

    def test_there_are_no_retries(self):
        with pytest.raises(ValueError, match="attempt 1"):
            tasks.succeeds_at(2)

    def test_options_of_using_do_not_matter(self):
        assert adds.using(queue="x", run_after=60, submit=False)(1) == 1

    def test_subtasks_run_afterwards_in_order(self):
        @_top
        def body(cqt):
            cqt.subtask(says, (1,))
            cqt.subtask(says, ("two",)).chain(says, ("three",))
            cqt.subtask_many(says, [4, 5])
            said.append(0)
            return "own"

        assert body() == "own"
        assert said == [0, 1, "two", "three", 4, 5]

    def test_if_one_fails_all_run_and_then_it_is_said(self):
        @_top
        def body(cqt):
            cqt.subtask(says, (1,))
            cqt.subtask(fails, (2,)).chain(says, ("skipped",)).chain(says, ("forced",), force_chain=True)
            cqt.subtask(fails, (3,))
            cqt.subtask(says, (4,))

        with pytest.raises(TaskFailed, match="2") as error:
            body()

        assert said == [1, 2, "forced", 3, 4]
        assert isinstance(error.value.__cause__, ValueError)
        assert (error.value.status, error.value.error) == ("FAILURE", "2")

    def test_a_chain_is_passed_results(self):
        @_top
        def body(cqt):
            return cqt.subtask(adds, (1,)).chain(tasks.sums, (2,)).chain(tasks.sums, (3,))

        assert body() == 6

    def test_a_result_that_is_passed_need_not_be_storable(self):
        @_top
        def body(cqt):
            return cqt.subtask(_makes_an_object).chain(_names_the_type)

        assert body() == "object"

    def test_a_returned_subtask_gives_its_result(self):
        assert tasks.hands_on(5) == 16

    def test_subtasks_of_subtasks_run_too(self):
        @_top
        def body(cqt):
            cqt.subtask(_has_subtasks)
            cqt.subtask(says, ("last",))

        body()

        assert said == ["inner", "last"]

    def test_a_subtask_that_fails_below_another_fails_that_too(self):
        @_top
        def body(cqt):
            cqt.subtask(_has_failing_subtask).chain(says, ("skipped",))

        with pytest.raises(TaskFailed):
            body()
        assert said == ["inner"]

    def test_a_sibling_runs_too(self):
        @_top
        def body(cqt):
            cqt.subtask(_adds_a_sibling)

        body()

        assert sorted(said) == ["own", "sibling"]

    def test_what_follows_the_call_itself_gets_its_result(self):
        @_top
        def body(cqt):
            cqt.chain(says)
            return "result"

        assert body() == "result"
        assert said == ["result"]

    def test_what_follows_the_call_itself_comes_after_its_subtasks(self):
        @_top
        def body(cqt):
            cqt.chain(says, ("after",))
            cqt.subtask(says, ("subtask",))

        body()

        assert said == ["subtask", "after"]

    def test_what_follows_the_call_itself_is_skipped_if_a_subtask_failed(self):
        @_top
        def body(cqt):
            cqt.subtask(fails, ("subtask",))
            cqt.chain(says, ("after",))

        with pytest.raises(TaskFailed):
            body()
        assert said == ["subtask"]

    def test_a_body_that_raises_leaves_no_subtasks(self):
        @_top
        def body(cqt):
            cqt.subtask(says, (1,))
            raise KeyError

        with pytest.raises(KeyError):
            body()
        assert said == []

    def test_the_stand_in_has_no_row(self):
        @_top
        def body(cqt):
            with pytest.raises(NotAllowedHere, match="direct call has no row"):
                _ = cqt.row
            return (cqt.attempt, cqt.parent, cqt.previous, cqt.root is cqt, cqt.queue, cqt.id is not None)

        assert body() == (1, None, None, True, "default", True)

    def test_a_coroutine_function_returns_its_coroutine(self):
        coroutine = tasks.awaits(1)

        assert asyncio.iscoroutine(coroutine)
        assert asyncio.run(coroutine) == 2


def _top(function):
    """Make a task of a function inside a test, as if it stood at the top level."""
    function.__qualname__ = f"body_of_line_{function.__code__.co_firstlineno}"
    return task(function)


@task
def _makes_an_object(cqt):
    return object()


@task
def _names_the_type(cqt, value):
    return type(value).__name__


@task
def _has_subtasks(cqt):
    cqt.subtask(says, ("inner",))


@task
def _has_failing_subtask(cqt):
    cqt.subtask(fails, ("inner",))


@task
def _adds_a_sibling(cqt):
    cqt.parent.subtask(says, ("sibling",))
    said.append("own")


@pytest.mark.django_db(transaction=True)
def test_an_atomic_body_rolls_back_when_it_raises():
    with pytest.raises(ValueError, match="x"):
        tasks.writes_and_raises("x")

    assert not Group.objects.exists()
    assert tasks.writes_group("y") == "y"
    assert [group.name for group in Group.objects.all()] == ["y"]


@task(atomic=False)
def writes_plainly_and_raises(cqt):
    Group.objects.create(name="kept")
    said.append(connection.in_atomic_block)
    raise ValueError


@pytest.mark.django_db(transaction=True)
def test_a_body_that_is_not_atomic_keeps_what_it_wrote():
    with pytest.raises(ValueError):  # noqa: PT011
        writes_plainly_and_raises()

    assert Group.objects.count() == 1
    assert said == [False]


@task
def has_a_hook(cqt):
    transaction.on_commit(lambda: said.append("hook"))
    cqt.subtask(says, ("subtask",))


@pytest.mark.django_db(transaction=True)
def test_subtasks_run_after_the_commit():
    has_a_hook()

    assert said == ["hook", "subtask"]


@task
def delays(cqt):
    return adds.delay(5).id


def test_delay_inside_stays_a_delay():
    task_id = delays()

    made = Task.objects.get()
    assert (made.id, made.status, made.parent) == (task_id, "QUEUED", None)


@task
async def has_subtasks_in_a_coroutine(cqt, n):
    cqt.subtask(says, (n,))
    await asyncio.sleep(0)
    return cqt.subtask(tasks.awaits, (n,)).chain(tasks.sums, (10,))


@pytest.mark.django_db(transaction=True)
async def test_a_coroutine_runs_its_subtasks_when_it_has_returned():
    assert await has_subtasks_in_a_coroutine(3) == 14
    assert said == [3]


@task
def calls_another_directly(cqt):
    cqt.subtask(says, ("outer",))
    return adds(1, 2)


def test_a_direct_call_inside_of_another_is_its_own():
    assert calls_another_directly() == 3
    assert said == ["outer"]
