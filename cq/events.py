"""Events: what somebody sends to one task, by name, and what the task's body makes of it when it waits for that.

Neither can miss the other. An event commits together with a request to settle its task, and a body that suspends for one leaves
such a request too; settling looks for the event after it has deleted the requests. Of each name one counts, for ever: the unique
index decides, also between an event and the end of its time, which is an entry like one.
"""

from __future__ import annotations

from reprlib import repr as brief
from typing import Any, NamedTuple
from uuid import UUID

from django.db import models

from cq import codec, database, sql
from cq.conf import conf
from cq.exceptions import EventTimeout, Fenced, InvalidOption
from cq.fields import read_reference
from cq.keys import check_text
from cq.options import check_instance
from cq.outcome import Claimed

_ACCEPTED = "accepted"
_REFUSED = "refused"


class Received(NamedTuple):
    """What a wait is about to end with: the event that counts. In the order of `sql.EVENT`, after what it says of the wait."""

    id: int
    outcome: str
    payload: str
    by: str | None
    permission: str | None


def send(task_id: UUID, name: str, payload: Any = None, *, by: models.Model | None = None, comment: str = "") -> bool:
    """Send an event to a task, in the caller's transaction; True if it counts.

    False if another of this name counts already, if the task has ended, or if it waits for somebody with a permission that the
    sender lacks: then it is kept as refused, and the wait goes on.
    """
    check_text("name", name)
    sender = check_instance("by")(by)
    if not isinstance(comment, str):
        raise InvalidOption(f"comment={brief(comment)}: expected a text.")
    text = codec.dumps(payload, limit=conf().MAX_ARGS_SIZE, what="payload")
    codec.dumps(comment, limit=conf().MAX_ARGS_SIZE, what="comment")  # it fits a column of its own then, too
    permission = _asked_for(task_id, name)
    why_not = _why_not(by, permission)
    outcome = _REFUSED if why_not else _ACCEPTED
    sent = database.execute(sql.EVENT_SEND, task_id, name, text, sender, comment, permission, outcome, why_not)
    return sent == [(_ACCEPTED,)]


def _asked_for(task_id: UUID, name: str) -> str | None:
    for (permission,) in database.execute(sql.EVENT_PERMISSION, task_id, name):
        asked: str | None = permission
        return asked
    return None


def _why_not(sender: models.Model | None, permission: str | None) -> str | None:
    """Say why an event does not count, None if it does."""
    if permission is None:
        return None
    if sender is None:
        return f"It takes the permission {permission!r}, and nobody was named who sent it."
    has_perm = getattr(sender, "has_perm", None)
    if has_perm is not None and has_perm(permission):
        return None
    return f"Its sender does not have the permission {permission!r}."


def receive(task: Claimed, name: str, permission: str | None) -> Received | None:
    """Return the event that a running body waits for, None if it has to wait on; from then on the wait is over.

    `EventTimeout` if none came in time. `Fenced` if the task is no longer this claim's.
    """
    while True:
        ((is_over, is_late, *found),) = database.execute(sql.EVENT, task.id, name)
        event = Received(*found) if found[0] is not None else None
        if event is not None and not is_over and not _is_allowed(task, event, permission):
            event = None
        if event is not None:
            if not is_over:
                _fenced(task, database.execute(sql.EVENT_PASS, task.id, task.claims, name, permission))
            if event.outcome != _ACCEPTED:
                raise EventTimeout(f"The event {name!r} did not come in time.")
            return event
        if not is_late:
            return None
        database.execute(sql.EVENT_TIME_OUT, task.id, name)  # or one has just come: look again


def _is_allowed(task: Claimed, event: Received, permission: str | None) -> bool:
    """Ask for the sender's permission, if that was not known when the event came; without it, the event is refused."""
    if event.outcome != _ACCEPTED or event.permission == permission:
        return True
    why_not = _why_not(read_reference(event.by) if event.by else None, permission)
    if why_not is None:
        return True
    _fenced(task, database.execute(sql.EVENT_REFUSE, task.id, task.claims, permission, why_not, event.id))
    return False


def _fenced(task: Claimed, rows: list[Any]) -> None:
    if not rows:
        raise Fenced(f"Task {task.id} was revoked or taken over while it ran.")
