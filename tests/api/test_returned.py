"""What a body may return: a value, a subtask, or a task that it delayed itself."""

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction

from cq import task
from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.api.run import ended
from tests.tasks import adds, raises, sums

pytestmark = pytest.mark.django_db


@task
def returns_subtask(cqt):
    return cqt.subtask(adds, (4,))


@task
def returns_subtask_of_many(cqt):
    cqt.subtask(adds, (1,))
    found = cqt.subtask(adds, (2,))
    cqt.subtask(adds, (3,))
    return found


@task
def returns_nested(cqt):
    return cqt.subtask(returns_subtask)


@task
def returns_delayed(cqt):
    return adds.delay(6)


@task(atomic=False)
def returns_subtask_plainly(cqt):
    return cqt.subtask(adds, (4,)).chain(sums, (1,))


@task
async def returns_subtask_in_a_coroutine(cqt):
    return cqt.subtask(adds, (4,)).chain(sums, (2,))


@pytest.mark.parametrize(
    ("func", "result", "subtasks"),
    [
        (returns_subtask, 4, 1),
        (returns_subtask_of_many, 2, 3),
        (returns_nested, 4, 1),
        (tasks.hands_on, None, 2),
        (returns_delayed, 6, 1),
        (returns_subtask_plainly, 5, 2),
        (returns_subtask_in_a_coroutine, 6, 2),
    ],
)
def test_the_result_of_a_returned_task_is_the_parents(func, result, subtasks):
    parent = func.delay(5) if func is tasks.hands_on else func.delay()

    ended(parent)

    assert (parent.status, parent.error) == ("SUCCESS", None)
    assert parent.result == (16 if func is tasks.hands_on else result)
    assert parent.subtasks.count() == subtasks
    assert {t.root for t in Task.objects.all()} == {parent}


def test_a_delayed_chain_that_is_returned_becomes_subtasks():
    parent = ended(tasks.returns_delayed_chain.delay(3))

    assert (parent.status, parent.result) == ("SUCCESS", 7)
    assert [(t.result, t.depth) for t in parent.subtasks.all()] == [(3, 1), (7, 1)]


def test_a_successor_gets_the_result_of_the_returned_task():
    assert ended(returns_nested.delay().chain(sums, (1,))).result == 5


@task
def returns_failing(cqt):
    return cqt.subtask(raises)


@task
def returns_chain_that_fails(cqt):
    return raises.delay().chain(adds)


@pytest.mark.parametrize("func", [returns_failing, returns_chain_that_fails])
def test_a_returned_task_that_fails_leaves_the_parent_incomplete_and_without_result(func):
    parent = ended(func.delay())

    assert (parent.status, parent.result) == ("INCOMPLETE", None)


@task
def returns_by_id(cqt, task_id):
    return Task.objects.get(pk=task_id)


@task
def returns_chained_onto_another(cqt, task_id):
    return Task.objects.get(pk=task_id).chain(adds, (1,))


@task
def returns_itself(cqt):
    return cqt.row


@task
def returns_parent(cqt):
    return cqt.parent.row


@task
def has_a_child_that_returns_its_parent(cqt):
    cqt.subtask(returns_parent)


@task
def returns_sibling(cqt):
    return cqt.parent.subtask(adds, (1,))


@task
def has_a_child_that_returns_a_sibling(cqt):
    cqt.subtask(returns_sibling)


@task
def returns_its_own_successor(cqt):
    return cqt.chain(adds, (1,))


@task(atomic=False)
def returns_delayed_plainly(cqt):
    return adds.delay(1)


@task
async def returns_delayed_in_a_coroutine(cqt):
    return await adds.adelay(1)


@task
def returns_unsaved(cqt):
    return Task()


@pytest.mark.parametrize("func", [returns_by_id, returns_chained_onto_another])
@pytest.mark.parametrize("retries", [0, 3])
def test_another_task_that_is_returned_is_foreign(func, retries):
    other = adds.using(queue="other").delay(1)
    ended(other)

    parent = ended(func.using(retries=retries).delay(str(other.id)))

    assert (parent.status, parent.attempt) == ("FAILURE", 1)
    assert parent.exception == "cq.exceptions.ReturnedForeignTask"
    assert "return cqt.subtask(…) instead" in parent.error
    other.refresh_from_db()
    assert other.parent is None
    assert Task.objects.count() == 2


@pytest.mark.parametrize("func", [returns_itself, returns_its_own_successor, returns_unsaved])
def test_what_is_no_subtask_is_foreign_and_leaves_nothing(func):
    parent = ended(func.delay())

    assert (parent.status, parent.exception) == ("FAILURE", "cq.exceptions.ReturnedForeignTask")
    assert Task.objects.count() == 1


@pytest.mark.parametrize("func", [has_a_child_that_returns_its_parent, has_a_child_that_returns_a_sibling])
def test_there_are_no_cycles(func):
    parent = ended(func.delay())

    assert parent.status == "INCOMPLETE"
    assert parent.subtasks.get().exception == "cq.exceptions.ReturnedForeignTask"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("func", [returns_delayed_plainly, returns_delayed_in_a_coroutine])
def test_a_body_that_is_not_atomic_may_not_return_what_it_delayed(func):
    parent = ended(func.delay())

    assert (parent.status, parent.exception) == ("FAILURE", "cq.exceptions.ReturnedForeignTask")
    assert "Return cqt.subtask(…) instead" in parent.error
    assert Task.objects.get(name=adds.name).parent is None


@task
def returns_a_branch(cqt):
    first = adds.delay(1)
    first.chain(sums, (1,))
    return first.chain(sums, (2,))


def test_all_successors_of_an_adopted_task_are_subtasks_of_the_same_parent():
    parent = ended(returns_a_branch.delay())

    assert (parent.status, parent.result) == ("SUCCESS", 3)
    assert parent.subtasks.count() == 3


@task
def returns_what_it_rolled_back(cqt):
    made = None
    try:
        with transaction.atomic():
            made = adds.delay(1)
            raise InterruptedError
    except InterruptedError:
        return made


def test_a_delayed_task_that_was_rolled_back_cannot_be_returned():
    parent = ended(returns_what_it_rolled_back.delay())

    assert (parent.status, parent.exception) == ("FAILURE", "cq.exceptions.ReturnedForeignTask")


@pytest.fixture
def refuses_adoption(transactional_db):
    """Let the database refuse that a task gets another parent."""
    with connection.cursor() as cursor:
        cursor.execute("""
            CREATE FUNCTION refuses_adoption() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE check_violation USING MESSAGE = 'no adoption'; END $$;
            CREATE TRIGGER refuses_adoption BEFORE UPDATE OF parent_id ON cq_task FOR EACH ROW
            EXECUTE FUNCTION refuses_adoption()
        """)
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION refuses_adoption CASCADE")


@task
def writes_and_returns_a_delayed_task(cqt):
    Group.objects.create(name="written")
    return adds.delay(1)


@pytest.mark.django_db(transaction=True)
def test_a_body_and_the_adoption_of_what_it_returned_commit_together(refuses_adoption):
    parent = ended(writes_and_returns_a_delayed_task.delay())

    assert (parent.status, parent.exception) == ("FAILURE", "django.db.utils.IntegrityError")
    assert not Group.objects.exists()
    assert Task.objects.count() == 1


@task
def returns_a_list_with_a_task(cqt):
    return [cqt.subtask(adds, (1,))]


def test_a_task_inside_of_a_value_is_not_handed_on():
    parent = ended(returns_a_list_with_a_task.delay())

    assert parent.status == "FAILURE"
    assert not parent.subtasks.exists()


@task(retries=1, backoff=0)
def delays_and_raises_once(cqt):
    made = adds.delay(cqt.attempt)
    if cqt.attempt == 1:
        raise ValueError
    return made


def test_only_the_attempt_that_commits_hands_on():
    parent = ended(delays_and_raises_once.delay())

    assert (parent.status, parent.result) == ("SUCCESS", 2)
    assert Task.objects.count() == 2


@task
def does_not_return_what_it_delays(cqt):
    adds.delay(1)
    return "own"


def test_what_is_delayed_and_not_returned_stands_alone():
    parent = does_not_return_what_it_delays.delay()
    drain(max_tasks=1)

    parent.refresh_from_db()
    assert (parent.status, parent.result) == ("SUCCESS", "own")
    assert Task.objects.get(name=adds.name).parent is None
