"""What bodies make of compositions, errorbacks and compensations holds in direct calls too: without a row, in order."""

from __future__ import annotations

from typing import Any

import pytest

from cq import FailedMember, chain, chord, group, task
from cq.exceptions import TaskFailed
from cq.models import Errorback, Task
from tests.tasks import adds, collects, echoes, raises, sums

pytestmark = pytest.mark.django_db
said: list[Any] = []


@pytest.fixture(autouse=True)
def no_row() -> Any:
    said.clear()
    yield
    assert not Task.objects.exists()
    assert not Errorback.objects.exists()


@task
def says(cqt: Any, *words: Any) -> None:
    said.append(words)


@task
async def says_later(cqt: Any, *words: Any) -> None:
    said.append(words)


@task
def breaks_too(cqt: Any, *words: Any) -> None:
    raise ValueError("also")


@task(compensate=says)
def books(cqt: Any, what: str) -> str:
    return what


@task(compensate=breaks_too)
def books_for_good(cqt: Any, what: str) -> str:
    return what


@task
def hands_on_to_a_chord(cqt: Any) -> Task:
    inner = group(adds.s(1), chain(adds.s(2), sums.s(10)))
    return cqt.subtask(
        chain(chord([inner, group([]), adds.s(5)], collects.s("all")), echoes.s().using(pass_result=True))
    )


@task
def fails_in_a_group(cqt: Any, force: bool) -> Task:
    cqt.errorback(says_later, ("call",))
    failing = group(adds.s(1), raises.s().on_error(says.s("member"))).on_error(breaks_too.s())
    return cqt.subtask(chain(failing, says.s("after").using(force_chain=force, pass_result=True)))


@task
def saga(cqt: Any, *more: str) -> None:
    cqt.subtask(books, ("flight",)).chain(books, ("hotel",))
    for what in more:
        cqt.subtask(books_for_good, (what,))
    cqt.subtask(raises)


@task(fail_fast=True)
def hurries(cqt: Any) -> None:
    cqt.subtask(raises)
    cqt.subtask(says, ("never",))


@task(ignore_failures=True)
def shrugs(cqt: Any) -> int:
    cqt.subtask(group(raises.s(), says.s("goes on")))
    cqt.subtask(raises)
    return 7


@task
def shrugs_in_a_group(cqt: Any) -> Task:
    cqt.subtask(group(raises.s(), says.s("never")).using(fail_fast=True, ignore_failures=True))
    return cqt.subtask(group(adds.s(1), raises.s()).using(ignore_failures=True))


def test_a_composition_runs_in_order() -> None:
    assert hands_on_to_a_chord() == [[[[[1, 12], [], 5], "all"]], {}]


@pytest.mark.parametrize("force", [False, True])
def test_a_failing_member_is_told_to_all_who_asked(force: bool) -> None:
    with pytest.raises(TaskFailed, match="broken"):
        fails_in_a_group(force)

    words = {call[-1] for call in said}
    assert words == {"member", "call", *(["after"] if force else [])}
    if force:
        ((members, _),) = [call for call in said if call[-1] == "after"]
        assert members[0] == 1
        assert isinstance(members[1], FailedMember)
        assert (members[1].status, members[1].error) == ("FAILURE", "broken")


def test_what_had_succeeded_is_undone_last_one_first() -> None:
    with pytest.raises(TaskFailed):
        saga()

    assert [words[1] for words in said] == ["hotel", "flight"]


def test_a_compensation_that_fails_ends_the_chain() -> None:
    with pytest.raises(TaskFailed, match="broken"):
        saga("for good")

    assert said == []


def test_failing_fast_runs_nothing_more() -> None:
    with pytest.raises(TaskFailed):
        hurries()

    assert said == []


def test_ignored_failures_are_no_error() -> None:
    assert shrugs() == 7
    one, failed = shrugs_in_a_group()

    assert (one, failed.status) == (1, "FAILURE")
    assert said == [("goes on",)]
