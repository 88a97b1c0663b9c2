"""Events: the first that counts wins, whether it comes before the wait or after, and whoever may not send it is refused."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.db.models import F

from cq import task
from cq.exceptions import EventTimeout, InvalidOption, NotAllowedHere, NotSerializable, TooLarge
from cq.models import Event, Step, Task
from tests import tasks
from tests.api import endurance
from tests.api.endurance import CALLS, let_time_pass
from tests.api.run import ended
from tests.naming import shown

pytestmark = pytest.mark.django_db

MAY = "auth.view_group"


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def user(name: str, *, may: bool = False) -> User:
    made = User.objects.create(username=name)
    if may:
        made.user_permissions.add(Permission.objects.get(content_type__app_label="auth", codename="view_group"))
    return made


@pytest.mark.parametrize("function", [endurance.waits, endurance.waits_in_coroutine], ids=["function", "coroutine"])
def test_a_body_waits_for_an_event_and_gets_its_payload(function: Any) -> None:
    task = ended(function.delay())
    assert (task.status, task.attempt, task.awaits, task.run_after) == ("SUSPENDED", 1, "go", None)

    assert task.send_event("go", {"price": Decimal("9.90")}) is True

    task = ended(task)
    assert (task.status, task.result, task.attempt) == ("SUCCESS", {"price": Decimal("9.90")}, 1)
    assert CALLS == {"waits": 2}


@pytest.mark.parametrize("function", [endurance.waits, endurance.waits_in_coroutine], ids=["function", "coroutine"])
def test_an_event_that_came_before_the_wait_is_there_at_once(function: Any) -> None:
    task = function.delay()

    assert task.send_event("go", [1]) is True

    assert ended(task).result == [1]
    assert CALLS == {"waits": 1}
    assert [(step.kind, step.name, step.until) for step in task.steps.all()] == [("event", "go", None)]


def test_the_first_of_a_name_counts_and_others_do_not() -> None:
    task = ended(endurance.waits.delay())

    sent = [task.send_event("go", number) for number in range(3)]

    assert sent == [True, False, False]
    assert ended(task).result == 0
    assert task.send_event("go", "late") is False
    assert task.send_event("never asked for") is False
    assert [(event.name, event.payload, event.outcome) for event in task.events.all()] == [("go", 0, "accepted")]


def test_an_event_of_another_name_changes_nothing() -> None:
    task = ended(endurance.waits.delay())

    assert task.send_event("stop") is True

    assert ended(task).status == "SUSPENDED"
    assert CALLS == {"waits": 1}


def test_an_event_commits_with_what_its_sender_did() -> None:
    task = ended(endurance.waits.delay())

    with transaction.atomic():
        assert task.send_event("go")
        transaction.set_rollback(True)

    assert (ended(task).status, Event.objects.count()) == ("SUSPENDED", 0)
    assert task.send_event("go") is True


def test_who_sent_it_when_and_why_is_kept() -> None:
    ada = user("ada")
    task = ended(endurance.waits.delay())

    task.send_event("go", "yes", by=ada, comment="It is time.")

    (event,) = ended(task).events.all()
    assert (event.by, event.comment, event.payload, event.outcome, event.reason) == (
        ada,
        "It is time.",
        "yes",
        "accepted",
        None,
    )
    (step,) = task.steps.all()
    assert task.created_at < step.started_at < event.created_at < step.ended_at < task.finished_at


# Permissions


def test_a_sender_without_the_permission_is_refused_and_the_wait_goes_on() -> None:
    task = ended(endurance.waits.delay(permission=MAY))

    assert task.send_event("go", "no", by=user("mallory")) is False
    assert task.send_event("go", "nobody") is False
    assert ended(task).status == "SUSPENDED"
    assert CALLS == {"waits": 1}
    assert task.send_event("go", "yes", by=user("ada", may=True)) is True

    assert ended(task).result == "yes"
    assert [(event.payload, event.outcome, event.reason) for event in task.events.all()] == [
        ("no", "refused", "Its sender does not have the permission 'auth.view_group'."),
        ("nobody", "refused", "It takes the permission 'auth.view_group', and nobody was named who sent it."),
        ("yes", "accepted", None),
    ]


def test_permission_is_asked_for_also_when_the_event_came_before_the_wait() -> None:
    task, early = endurance.waits.delay(permission=MAY), endurance.waits.delay(permission=MAY)
    assert task.send_event("go", "no", by=user("mallory")) is True
    assert early.send_event("go", "yes", by=user("ada", may=True)) is True

    task, early = ended(task), ended(early)

    assert (early.status, early.result) == ("SUCCESS", "yes")
    assert (task.status, task.events.get().outcome) == ("SUSPENDED", "refused")
    assert task.send_event("go", "now", by=User.objects.get(username="ada")) is True
    assert ended(task).result == "now"


def test_a_permission_that_the_sender_had_is_not_asked_for_again() -> None:
    ada = user("ada", may=True)
    task = ended(endurance.waits.delay(permission=MAY))
    task.send_event("go", "yes", by=ada)
    ada.user_permissions.clear()

    assert ended(task).result == "yes"


def test_an_early_event_of_a_sender_who_is_gone_is_refused() -> None:
    task = endurance.waits.delay(permission=MAY)
    ada = user("ada", may=True)
    task.send_event("go", by=ada)
    ada.delete()

    assert ended(task).status == "SUSPENDED"


# Time


def test_an_event_that_does_not_come_in_time_is_an_error_in_every_later_run() -> None:
    task = ended(catches.delay(60))
    assert (task.status, task.run_after - task.steps.get().started_at) == ("SUSPENDED", timedelta(seconds=60))
    let_time_pass(task)

    task = ended(task)

    assert (task.status, task.result, task.attempt) == ("SUCCESS", "The event 'go' did not come in time.", 2)
    assert [(event.outcome, event.by) for event in task.events.all()] == [("timeout", None)]
    assert task.send_event("go") is False


@task(atomic=False, retries=1, backoff=0)
def catches(cqt: Any, timeout: Any) -> str:
    try:
        cqt.wait_event("go", timeout=timeout)
    except EventTimeout as error:
        if cqt.attempt == 1:
            raise ValueError("once more") from None
        return str(error)
    return "in time"


def test_an_event_that_came_too_late_but_before_anybody_looked_counts() -> None:
    task = ended(endurance.waits.delay(timeout=60))
    Step.objects.filter(task=task).update(until=F("until") - timedelta(days=1))

    assert task.send_event("go", "late") is True

    assert ended(task).result == "late"


def test_time_counts_from_when_the_wait_was_first_reached() -> None:
    task = ended(endurance.waits.delay(timeout=60, permission=MAY))
    until = task.run_after
    task.send_event("go", by=user("mallory"))
    Task.objects.filter(pk=task.pk).update(run_after="2000-01-01T00:00:00Z")

    task = ended(task)

    assert CALLS == {"waits": 2}
    assert (task.status, task.run_after) == ("SUSPENDED", until)


def test_a_wait_whose_time_is_none_ends_at_once() -> None:
    task = ended(endurance.waits.delay(timeout=0))

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.EventTimeout")


def test_events_and_waits_stay_done_after_a_retry_by_a_person() -> None:
    task = ended(waits_and_fails.delay())
    task.send_event("go", "yes")
    assert ended(task).status == "FAILURE"

    assert task.retry()
    task = ended(task)

    assert (task.status, task.result, CALLS["work"]) == ("SUCCESS", ["yes", 7], 1)


@task(atomic=False)
def waits_and_fails(cqt: Any) -> Any:
    got = cqt.wait_event("go")
    worked = cqt.step("work", endurance.call, "work", 7)
    if cqt.attempt == 1:
        raise ValueError("no luck")
    return [got, worked]


# What cannot be


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": ""}, "name="),
        ({"name": 7}, "name="),
        ({"timeout": -1}, r"timeout=-1: expected seconds"),
        ({"permission": "nonsense"}, r"permission='nonsense': expected None or a text like"),
        ({"permission": lambda user: True}, "permission="),
    ],
    ids=shown,
)
def test_a_wait_checks_its_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        waits_directly(options)


@task(atomic=False)
def waits_directly(cqt: Any, options: Any) -> Any:
    return cqt.wait_event(**{"name": "go"} | options)


def test_a_direct_call_cannot_wait() -> None:
    with pytest.raises(NotAllowedHere, match=r"wait_event\('go'\) in a direct call.*Use delay\(\)"):
        endurance.waits()


def test_what_is_sent_must_be_storable() -> None:
    task = endurance.waits.delay()

    with pytest.raises(NotSerializable, match="payload"):
        task.send_event("go", object())
    with pytest.raises(TooLarge, match="payload"):
        task.send_event("go", "x" * 300_000)
    with pytest.raises(InvalidOption, match="name="):
        task.send_event("x" * 201)
    with pytest.raises(InvalidOption, match="by="):
        task.send_event("go", by="ada")  # type: ignore[arg-type]
    for comment, error in ((7, InvalidOption), ("a\0b", NotSerializable), ("x" * 300_000, TooLarge)):
        with pytest.raises(error, match="comment"):
            task.send_event("go", comment=comment)  # type: ignore[arg-type]
    assert not Event.objects.exists()


@task
def sends_to_its_subtask(cqt: Any) -> None:
    cqt.subtask(tasks.adds, (1,)).send_event("go")


def test_what_is_not_stored_yet_can_be_sent_nothing() -> None:
    task = ended(sends_to_its_subtask.delay())

    assert (task.status, task.exception) == ("FAILURE", "cq.exceptions.NotAllowedHere")


def test_a_coroutine_sends_too() -> None:
    task = ended(endurance.waits.delay())

    assert async_to_sync(task.asend_event)("go", 1) is True

    assert ended(task).result == 1
