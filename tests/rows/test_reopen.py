"""Reopening while others are at work on the same rows."""

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from cq import database, settle
from cq.engine import control
from cq.models import Task
from cq.states import Status
from tests.rows.elsewhere import elsewhere
from tests.rows.make import row, status

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def before_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Give a function that has something done when tasks are reopened and that is not yet committed."""

    def do(act: Callable[[], object]) -> None:
        monkeypatch.setattr(control, "failpoint", lambda name: name == "reopen.swapped" and act())

    return do


@pytest.mark.parametrize("which", ["subtask", "parent"])
def test_no_parent_ends_while_a_subtask_is_reopened(
    which: str, before_commit: Callable[[Callable[[], object]], None]
) -> None:
    top = row(Status.WAITING)
    parent = row(Status.WAITING, parent=top)
    failed = row(Status.FAILURE, parent=parent)
    for asked in (top, parent):
        database.execute("INSERT INTO cq_settlerequest (task_id) VALUES (%s)", asked.id)
    with elsewhere() as worker:
        before_commit(lambda: worker(settle.settle_all))
        assert (failed if which == "subtask" else parent).retry() is True
    settle.settle_all()

    assert (status(top), status(parent), status(failed)) == (Status.WAITING, Status.WAITING, Status.QUEUED)


def test_two_that_reopen_the_same_do_it_once(before_commit: Callable[[Callable[[], object]], None]) -> None:
    failed = row(Status.FAILURE)
    again: list[Future[bool]] = []
    with elsewhere() as other:
        before_commit(lambda: again.append(other.begin(Task.objects.get(pk=failed.pk).retry)))
        assert failed.retry() is True
        assert again[0].result(5) is False

    assert status(failed) == Status.QUEUED
