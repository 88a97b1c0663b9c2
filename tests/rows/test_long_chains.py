"""A long chain behind a task that went wrong is skipped in a few statements, and as far as nobody else has hold of it."""

import time
from uuid import UUID

import pytest
from django.db import connection

from cq import engine, settle, sql
from cq.models import SettleRequest, Task
from cq.states import Status
from tests import tasks
from tests.rows.elsewhere import elsewhere, together
from tests.rows.make import ADDS, row, status, statuses
from tests.rows.test_races import pausing_at
from tests.work import work

committed = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def chain(head: Task, number: int) -> list[Task]:
    """Put so many links behind a task."""
    links: list[Task] = []
    for _ in range(number):
        links.append(row(Status.PENDING, previous=(links or [head])[-1]))
    return links


def long_chain(head: Task, number: int, *, is_known: bool = True) -> None:
    """Do the same for thousands, in one statement; PostgreSQL may know of them, as it does a minute later."""
    ids = "md5(%s || n::text)::uuid"
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO cq_task (id, name, args, kwargs, status, previous_id, workflow_id) "
            f"SELECT {ids}, '{ADDS}', '[1]', '{{}}', 'PENDING', "
            "CASE WHEN n = 1 THEN %s ELSE md5(%s || (n - 1)::text)::uuid END, %s FROM generate_series(1, %s) AS n",
            [str(head.pk), head.pk, str(head.pk), head.pk, number],
        )
        if is_known:
            cursor.execute("ANALYZE cq_task")


def test_a_skip_goes_along_a_chain_at_once() -> None:
    head = row(Status.FAILURE)
    links = chain(head, 5)

    settled = settle.settle([head.pk])

    assert set(settled.ended) == {link.pk for link in links}
    assert statuses(*links) == [Status.SKIPPED] * 5
    assert not SettleRequest.objects.exists()


def test_a_skip_goes_along_every_branch_and_ends_at_what_is_forced() -> None:
    head = row(Status.FAILURE)
    (first,) = chain(head, 1)
    one, two = chain(first, 1), chain(first, 2)
    forced = row(Status.PENDING, previous=two[-1], force_chain=True)
    behind = chain(forced, 1)

    settled = settle.settle([head.pk])

    assert statuses(first, *one, *two) == [Status.SKIPPED] * 4
    assert statuses(forced, *behind) == [Status.QUEUED, Status.PENDING]
    assert settled.queues == {"default"}


def test_behind_a_success_only_the_first_is_released() -> None:
    head = row(Status.SUCCESS)
    links = chain(head, 3)

    settle.settle([head.pk])

    assert statuses(*links) == [Status.QUEUED, Status.PENDING, Status.PENDING]


def test_behind_an_unfinished_task_nothing_moves() -> None:
    head = row(Status.RUNNING)
    links = chain(head, 3)

    settle.settle([head.pk])

    assert statuses(*links) == [Status.PENDING] * 3


def test_the_parent_of_skipped_links_is_asked_for() -> None:
    parent = row(Status.WAITING)
    head = row(Status.FAILURE, parent=parent)
    first = row(Status.PENDING, parent=parent, previous=head)
    row(Status.PENDING, parent=parent, previous=first)

    settle.settle([head.pk])

    assert [request.task_id for request in SettleRequest.objects.all()] == [parent.pk]
    settle.settle_all()
    assert status(parent) == Status.INCOMPLETE


@committed
@pytest.mark.parametrize("place", [0, 2])
def test_a_link_that_somebody_has_locked_stops_the_skip_and_is_asked_for(place: int) -> None:
    head = row(Status.FAILURE)
    links = chain(head, 5)
    with elsewhere() as other:
        other.open()
        other(lambda: Task.objects.select_for_update().get(pk=links[place].pk))

        settle.settle([head.pk])

        assert statuses(*links) == [Status.SKIPPED] * place + [Status.PENDING] * (5 - place)
        other.rollback()
    settle.settle_all()
    assert statuses(*links) == [Status.SKIPPED] * 5
    assert not SettleRequest.objects.exists()


@committed
@pytest.mark.parametrize("point", ["settle.locked", "settle.taken", "settle.before_commit"])
def test_what_is_chained_onto_a_link_while_it_is_skipped_is_skipped_too(point: str) -> None:
    head = row(Status.FAILURE)
    links = chain(head, 3)
    with elsewhere() as web, pausing_at(point, lambda: web(links[1].chain, tasks.adds, (1,))):
        settle.settle([head.pk])
    settle.settle_all()

    assert status(links[1].next.exclude(pk=links[2].pk).get()) == Status.SKIPPED
    assert not SettleRequest.objects.exists()


@committed
def test_a_chain_that_is_revoked_in_its_middle_while_it_is_skipped_ends_for_certain() -> None:
    for _ in range(15):
        head = row(Status.FAILURE)
        links = chain(head, 6)

        together(lambda head=head: settle.settle([head.pk]), lambda links=links: links[3].revoke())
        settle.settle_all()

        assert all(Task.objects.get(pk=link.pk).is_done for link in links)
        assert statuses(*links[:3]) == [Status.SKIPPED] * 3


@committed
def test_a_link_that_is_revoked_between_the_look_and_the_lock_stays_revoked() -> None:
    """The statement looks at a long chain for some milliseconds before it locks the last link."""
    for pause in range(8):
        head = row(Status.FAILURE)
        long_chain(head, 800)
        last = Task.objects.exclude(next__isnull=False).get(workflow=head)

        def revoke(last: Task = last, pause: int = pause) -> list[UUID]:
            time.sleep(pause / 1000)  # at another moment in each round
            return engine.revoke([last.pk], reason="")

        _, revoked = together(lambda head=head: settle.settle([head.pk]), revoke)
        settle.settle_all()

        assert status(last) == (Status.REVOKED if revoked else Status.SKIPPED)
        Task.objects.all().delete()


@committed
def test_one_statement_goes_so_far_and_no_farther() -> None:
    head = row(Status.FAILURE)
    long_chain(head, 1001)

    first, second = settle.settle([head.pk]), settle.settle_all()

    assert (len(first.ended), len(second.ended)) == (1000, 1)


@pytest.mark.parametrize(
    ("statement", "times"),
    [
        ("FOLLOW", 2),
        ("FOLLOW_LONE", 3),
        ("ASK_NEXT", 2),
        ("ASK_NEXT_LONE", 2),
        ("ASK", 3),
        ("SETTLE_RELEASE", 2),
        ("SETTLE_REVOKE", 1),
        ("SETTLE_AGAIN", 1),
    ],
)
def test_what_follows_a_link_is_found_without_a_walk_along_the_chain(statement: str, times: int) -> None:
    """It is most tempting while PostgreSQL knows nothing of what is new in the table."""
    head = row(Status.SUCCESS)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task")
        long_chain(head, 5000, is_known=False)

        cursor.execute(f"EXPLAIN {getattr(sql, statement)}", [head.pk if "LONE" in statement else [head.pk]] * times)

        assert "cq_task_blocked" not in "".join(line for (line,) in cursor.fetchall())


@committed
def test_ten_thousand_links_are_skipped_in_linear_time() -> None:
    def skip() -> None:
        ended.extend(settle.settle_all().ended)

    took = []
    for number in (1000, 10_000):
        head, ended = row(Status.FAILURE), []
        long_chain(head, number)
        SettleRequest.objects.create(task_id=head.pk)
        took.append(work(skip))
        assert len(ended) == number
        assert not Task.objects.unfinished().exists()

    assert took[1] / took[0] < 20, took  # quadratic would be a hundred times
