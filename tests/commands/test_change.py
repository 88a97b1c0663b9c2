"""`cq_retry` and `cq_revoke`: they show, ask, do, and say what became of it."""

import io
import sys

import pytest
from django.core.management.base import CommandError

from cq.models import Task
from cq.states import Status
from tests.rows.make import image, row, statuses

pytestmark = pytest.mark.django_db


@pytest.fixture
def answer(monkeypatch):
    """Sit at a terminal and answer."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def say(text):
        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr("builtins.input", lambda question: (asked.append(question), text)[1])

    asked = say.asked = []
    return say


@pytest.mark.parametrize("command", ["cq_retry", "cq_revoke"])
def test_all_tasks_are_never_meant(terminal, command):
    with pytest.raises(CommandError, match=r"which tasks\? Give ids, or conditions"):
        terminal(command, "--yes")


def test_without_a_terminal_it_has_to_be_said(terminal):
    failed = row(Status.FAILURE)
    before = image(failed.pk)

    with pytest.raises(CommandError, match=r"1 task would be changed, and there is no terminal to ask on. Add --yes"):
        terminal("cq_retry", failed.id)

    assert image(failed.pk) == before


@pytest.mark.parametrize("word", ["n", "", "no"])
def test_it_asks_and_takes_no_for_an_answer(terminal, answer, word):
    failed = row(Status.FAILURE)
    answer(word)

    with pytest.raises(CommandError, match="Nothing was changed"):
        terminal("cq_retry", failed.id)

    assert statuses(failed) == ["FAILURE"]
    assert answer.asked == ["Retry 1 task? [y/N] "]


def test_it_shows_what_it_asks_about(terminal, answer):
    failed, other = row(Status.FAILURE), row(Status.FAILURE)
    answer("y")

    said = terminal("cq_retry", failed.id, other.id)

    assert str(failed.id)[-12:] in said
    assert str(other.id)[-12:] in said
    assert "Retried 2 of 2 tasks." in said
    assert answer.asked == ["Retry 2 tasks? [y/N] "]
    assert statuses(failed, other) == ["QUEUED", "QUEUED"]


@pytest.mark.parametrize(("command", "status"), [("cq_retry", Status.FAILURE), ("cq_revoke", Status.QUEUED)])
def test_a_dry_run_only_shows(terminal, read_json, command, status):
    task = row(status)
    before = image(task.pk)

    assert str(task.id)[-12:] in terminal(command, task.id, "--dry-run")
    (shown,) = read_json(command, task.id, "--dry-run")

    assert shown["id"] == str(task.id)
    assert image(task.pk) == before


def test_conditions_alone_mean_what_went_wrong(terminal):
    every = [row(status, queue="mail") for status in Status]

    said = terminal("cq_retry", "--queue", "mail", "--yes")

    reopened = {Status.FAILURE, Status.LOST, Status.EXPIRED}
    assert "Retried 3 of 3 tasks." in said
    assert statuses(*every) == ["QUEUED" if status in reopened else status for status in Status]


def test_a_status_can_be_asked_for(terminal):
    revoked = row(Status.REVOKED)

    terminal("cq_retry", "--status", "revoked", "--yes")

    assert statuses(revoked) == ["QUEUED"]


def test_what_is_unfinished_is_revoked(terminal):
    tasks = [row(status) for status in Status]

    said = terminal("cq_revoke", "--name", "tests.*", "--yes")

    assert "Revoked 7 of 7 tasks." in said
    assert Task.objects.unfinished().count() == 0
    assert statuses(*tasks)[-7:] == [status for status in Status][-7:]


@pytest.mark.parametrize("options", [[], ["--terminate"]])
def test_a_revoke_says_whether_bodies_are_interrupted(terminal, options):
    running = row(Status.RUNNING)

    terminal("cq_revoke", running.id, "--yes", *options)

    running.refresh_from_db()
    assert (running.status, running.terminate) == ("REVOKED", bool(options))


def test_json_has_what_was_changed(read_json):
    failed = row(Status.FAILURE)

    (changed,) = read_json("cq_retry", failed.id, "--yes")

    assert (changed["id"], changed["status"]) == (str(failed.id), "QUEUED")


def test_one_that_cannot_be_retried_keeps_no_other_from_it(terminal):
    failed = row(Status.FAILURE)
    skipped = row(Status.SKIPPED, previous=row(Status.FAILURE))

    with pytest.raises(CommandError, match=f"{str(skipped.id)[-12:]}: Task .* comes after task"):
        terminal("cq_retry", skipped.id, failed.id, "--yes")

    assert statuses(failed, skipped) == ["QUEUED", "SKIPPED"]


def test_what_ended_well_is_not_counted(terminal):
    fine, failed = row(Status.SUCCESS), row(Status.FAILURE)

    assert "Retried 1 of 2 tasks." in terminal("cq_retry", fine.id, failed.id, "--yes")


def test_none_may_fit(terminal):
    assert "No tasks fit." in terminal("cq_retry", "--queue", "nobody", "--yes")
    assert "No tasks fit." in terminal("cq_retry", "--queue", "nobody", "--dry-run")


def test_the_limit_is_kept_and_said(terminal):
    failed = [row(Status.FAILURE) for _ in range(3)]

    assert "more tasks fit (--limit)" in terminal("cq_retry", "--queue", "default", "--limit", "2", "--dry-run")
    terminal("cq_retry", "--queue", "default", "--limit", "2", "--yes")

    assert statuses(*failed) == ["FAILURE", "QUEUED", "QUEUED"]
