"""`created_by` and `subject`: any model's instance, to be asked for and to be read; gone when it is."""

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject

from cq import task
from cq.models import Task
from tests.api.run import ended
from tests.tasks import adds, sums

pytestmark = pytest.mark.django_db


@pytest.fixture
def user():
    return User.objects.create(username="ann")


@pytest.fixture
def group():
    return Group.objects.create(name="crew")


def test_they_are_kept_and_read(user, group):
    made = adds.using(created_by=user, subject=group).delay(1)

    again = Task.objects.get(pk=made.pk)
    assert (made.created_by, made.subject) == (again.created_by, again.subject) == (user, group)


def test_tasks_can_be_filtered_by_them(user, group):
    mine = adds.using(created_by=user, subject=group).delay(1)
    adds.using(created_by=User.objects.create(username="bob"), subject=user).delay(1)
    adds.delay(1)

    assert list(Task.objects.filter(created_by=user)) == [mine]
    assert list(Task.objects.filter(subject=group, created_by=user)) == [mine]
    assert list(Task.objects.filter(created_by__in=[user])) == [mine]
    assert Task.objects.exclude(created_by=user).exclude(created_by=None).count() == 1
    assert Task.objects.filter(created_by=None).count() == 1


def test_instances_of_two_models_with_one_key_are_two(user):
    group = Group.objects.create(pk=user.pk, name="same key")
    mine = adds.using(subject=user).delay(1)

    assert not Task.objects.filter(subject=group).exists()
    assert mine.subject == user


def test_a_lazy_user_is_the_user(user):
    assert adds.using(created_by=SimpleLazyObject(lambda: user)).delay(1).created_by == user


def test_none_is_nobody(user):
    assert adds.using(created_by=user).using(created_by=None).delay(1).created_by is None


def test_what_is_gone_is_none(user):
    made = adds.using(created_by=user).delay(1)
    user.delete()

    assert Task.objects.get(pk=made.pk).created_by is None
    assert ended(made).status == "SUCCESS"


def test_a_model_that_is_gone_is_none():
    made = adds.delay(1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE cq_task SET created_by = 'gone.model:1', subject = 'nonsense'")

    made = Task.objects.get(pk=made.pk)

    assert (made.created_by, made.subject) == (None, None)


def test_they_are_read_when_they_are_asked_for(user):
    made = adds.using(created_by=user).delay(1)

    with CaptureQueriesContext(connection) as queries:
        found = Task.objects.get(pk=made.pk)
        assert len(queries) == 1
        assert found.created_by.username == found.created_by.username == "ann"

    assert len(queries) == 2


@task
def tells_its_creator(cqt):
    return [cqt.created_by.username, cqt.subject.name]


def test_the_body_knows_them(user, group):
    assert ended(tells_its_creator.using(created_by=user, subject=group).delay()).result == ["ann", "crew"]


@task
def makes_for(cqt, user):
    cqt.subtask(adds, (1,), created_by=user).chain(sums, (1,), subject=user)


def test_subtasks_and_successors_can_have_them(user):
    parent = ended(makes_for.delay(user))

    first, second = parent.subtasks.all()
    assert (first.created_by, first.subject, second.created_by, second.subject) == (user, None, None, user)
