"""`cq_queue`: which queues there are, and which of them are paused."""

import pytest
from django.core.management.base import CommandError

from cq import queues
from cq.models import Queue
from cq.states import Status
from tests import tasks
from tests.rows import make

pytestmark = pytest.mark.django_db


def test_all_queues_are_listed_that_anybody_speaks_of(terminal, read_json, enter, settings):
    settings.CQ = {"QUEUES": {"configured": {}, "default": {}, "served": {}, "stopped": {"paused": True}, "held": {}}}
    process_id = enter(queues=["default", "served"])
    tasks.adds.delay(1)
    make.row(Status.RUNNING, process_id=process_id)
    queues.pause("held")

    said = terminal("cq_queue", "list")
    found = {queue["name"]: queue for queue in read_json("cq_queue", "list")}

    assert list(found) == ["configured", "default", "held", "served", "stopped"]
    assert [queue["is_paused"] for queue in found.values()] == [False, False, True, False, True]
    assert found["held"]["paused_since"] is not None
    assert found["stopped"]["paused_since"] is None
    assert found["default"]["workers"] == ["web-1/4711"]
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in said.splitlines()}
    assert lines["default"].startswith("1 1 ")
    assert lines["default"].endswith("web-1/4711")
    assert lines["stopped"] == "0 0 by CQ['QUEUES']"
    assert lines["held"].startswith("0 0 for ")


def test_a_queue_with_due_tasks_that_nobody_serves_says_so(terminal, enter):
    enter(queues=["default"])
    tasks.adds.using(queue="mail").delay(1)
    tasks.adds.using(queue="later", run_after=60).delay(1)

    lines = terminal("cq_queue", "list").splitlines()

    assert lines[[line.split()[0] for line in lines].index("mail") + 1] == "  no worker serves it"
    assert lines.count("  no worker serves it") == 1


def test_pausing_says_what_has_changed(terminal):
    assert terminal("cq_queue", "pause", "mail", "bulk") == (
        "The queue mail is paused. What runs already goes on.\nThe queue bulk is paused. What runs already goes on.\n"
    )
    assert terminal("cq_queue", "pause", "mail") == "The queue mail was paused already.\n"
    assert terminal("cq_queue", "resume", "mail") == "The queue mail goes on.\n"
    assert terminal("cq_queue", "resume", "mail") == "The queue mail was not paused.\n"


def test_json_has_the_queues_as_they_are_now(read_json):
    (mail,) = read_json("cq_queue", "pause", "mail")

    assert (mail["name"], mail["is_paused"]) == ("mail", True)
    assert read_json("cq_queue", "resume", "mail")[0]["is_paused"] is False


def test_a_queue_that_there_is_not_is_an_error_and_nothing_is_paused(terminal, settings):
    settings.CQ = {"QUEUES": {"mail": {}, "bulk": {}}}

    with pytest.raises(CommandError, match=r"'gone' is not in CQ\['QUEUES'\], which has \['bulk', 'mail'\]"):
        terminal("cq_queue", "pause", "mail", "gone")

    assert not Queue.objects.exists()


def test_a_verb_needs_a_name(terminal):
    with pytest.raises(CommandError, match="Pause which queue"):
        terminal("cq_queue", "pause")


def test_some_can_be_listed(terminal, read_json):
    queues.pause("mail")
    queues.pause("bulk")

    assert [queue["name"] for queue in read_json("cq_queue", "list", "mail")] == ["mail"]
    with pytest.raises(CommandError, match=r"no queue other .* There are: bulk, mail"):
        terminal("cq_queue", "list", "other")


def test_without_any_queue_it_says_so(terminal):
    assert terminal("cq_queue", "list", fits=False).startswith("There are no queues yet")


def test_the_status_tells_of_a_paused_queue_that_has_tasks(terminal, enter):
    enter()
    tasks.adds.using(queue="mail").delay(1)
    queues.pause("mail")
    queues.pause("empty")

    said = " ".join(terminal("cq_status").split())

    assert "The queue mail is paused for" in said
    assert "1 ready task waits in it. To let it go on: manage.py cq_queue resume mail" in said
    assert "queue empty" not in said
