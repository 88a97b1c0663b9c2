"""Remove workflows whose time is over: whole finished ones only, each with all its members in one transaction.

The order is the proof: lock the root, lock its members, THEN judge, with a newer snapshot. Whoever adds to a workflow holds a lock
on what he adds to (`chain`, `retry`), or is an unfinished part of it (a body that makes subtasks): so either his lock keeps its
member from ours, and the workflow is left for another time; or we see what he has added; or he comes later, and finds it gone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from django.db import IntegrityError, router
from django.db.models import Q
from django.db.models.deletion import get_candidate_relations_to_delete

from cq import database, engine, notifier, sql
from cq.exceptions import NotAllowedHere, TaskGone
from cq.failpoints import failpoint
from cq.models import Task
from cq.models.task import TaskQuerySet
from cq.states import Status

logger = logging.getLogger("cq.prune")

_ROOTS = 500
# A batch takes so many tasks, or one workflow that has more.
_TASKS = 10_000
_AGAIN_AFTER = 60.0
_REFERRED_TO_AGAIN_AFTER = 3600.0
_STATISTICS_FOR = 90 * 86_400
_NOT_SUBMITTED = "It was not submitted in time."


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one batch came to: workflows and tasks removed, held tasks revoked; `is_complete`: nothing more is due."""

    workflows: int = 0
    tasks: int = 0
    revoked: int = 0
    is_complete: bool = False


class _Workflow(NamedTuple):
    """One workflow as it was seen. In the order of `sql.WORKFLOWS`."""

    root_id: UUID
    tasks: int
    unfinished: int
    goes_on: bool  # a body of it lingers, or something of it is to be settled
    until: datetime | None
    is_over: bool | None

    @property
    def has_ended(self) -> bool:
        return not self.unfinished and not self.goes_on


@dataclass(slots=True)
class _Batch:
    """What is done in one transaction; filled in as it goes, and still there when that fails."""

    due: list[UUID] = field(default_factory=list)
    revoked: list[UUID] = field(default_factory=list)


def prune(most: int = _ROOTS) -> Pruned:
    """Remove a batch of workflows that are past their time, and revoke what was held back until then and never submitted.

    One that a row of the project's refers to and protects is left where it is, and looked at again later.
    """
    batch = _Batch()
    try:
        with database.read_committed():
            pruned = _prune_due(batch, most)
    except IntegrityError as error:
        if len(batch.due) > 1:
            return prune(len(batch.due) // 2)
        logger.warning("workflow is kept task=%s error=%s", batch.due[0], database.first_line(error))
        _postpone(batch.due, [None], _REFERRED_TO_AGAIN_AFTER)
        return Pruned()
    notifier.announce(batch.revoked)
    return pruned


def _prune_due(batch: _Batch, most: int) -> Pruned:
    found = {root_id: Status(status) for root_id, status in database.execute(sql.PRUNE_DUE, most)}
    batch.due = list(found)
    failpoint("prune.locked_roots")
    held = [root_id for root_id, status in found.items() if status == Status.PENDING]
    if held:
        batch.revoked = engine.revoke(held, reason=_NOT_SUBMITTED)
    seen = _judge([root_id for root_id in batch.due if root_id not in held])
    failpoint("prune.looked")
    over = [workflow for workflow in seen if workflow.has_ended and workflow.is_over]
    chosen = _that_fit(over)
    gone = [workflow for workflow in _close(chosen) if workflow.is_over]
    _delete(gone)
    gone_ids = {workflow.root_id for workflow in gone}
    later = {workflow.root_id for workflow in over[len(chosen) :]}
    _keep([workflow for workflow in seen if workflow.root_id not in gone_ids | later])
    tasks = sum(workflow.tasks for workflow in gone)
    return Pruned(len(gone), tasks, len(held), is_complete=len(found) < most and not later)


def _judge(root_ids: Sequence[UUID]) -> list[_Workflow]:
    """Look at workflows, in the order of these roots."""
    found = {row[0]: _Workflow(*row) for row in database.execute(sql.WORKFLOWS, list(root_ids))} if root_ids else {}
    return [found[root_id] for root_id in root_ids]


def _that_fit(workflows: Sequence[_Workflow]) -> Sequence[_Workflow]:
    """Take the first ones that together fit into a batch, at least one."""
    room = _TASKS
    for number, workflow in enumerate(workflows):
        room -= workflow.tasks
        if room < 0 and number:
            return workflows[:number]
    return workflows


def _close(workflows: Sequence[_Workflow]) -> list[_Workflow]:
    """Lock the members of workflows whose roots are locked; return those to which nothing can be added any more.

    A root without members is closed already: whoever chains onto it would have to lock it, and it was seen since it was locked.
    """
    lone = [workflow for workflow in workflows if workflow.tasks == 1]
    several = [workflow.root_id for workflow in workflows if workflow.tasks > 1]
    if not several:
        return lone
    locked = dict(database.execute(sql.LOCK_MEMBERS, several))
    failpoint("prune.locked")
    again = _judge(several)
    return lone + [one for one in again if one.has_ended and locked.get(one.root_id, 0) == one.tasks - 1]


def _delete(workflows: Sequence[_Workflow]) -> None:
    if not workflows:
        return
    root_ids = [workflow.root_id for workflow in workflows]
    tasks = Task.objects.filter(Q(pk__in=root_ids) | Q(workflow__in=root_ids))
    if _is_referred_to(tasks):
        tasks.delete()
    for statement in sql.PRUNE:
        database.execute(statement, root_ids)
    failpoint("prune.deleted")


def _is_referred_to(tasks: TaskQuerySet) -> bool:
    """Say whether rows of the project refer to any of these: then Django does for them what their `on_delete` says."""
    return any(
        model._base_manager.using(database.alias()).filter(**{f"{name}__in": tasks.values("pk")}).exists()
        for model, name in _referring()
    )


@cache
def _referring() -> list[tuple[Any, str]]:
    """Name the models of the project, and their fields, that refer to tasks in the same database."""
    options: Any = Task._meta
    relations: list[Any] = [*get_candidate_relations_to_delete(options)]
    models = [(relation.related_model, relation.field.name) for relation in relations]
    alias = database.alias()
    return [
        (model, name)
        for model, name in models
        if model._meta.app_label != options.app_label
        and model._meta.managed
        and router.allow_migrate_model(alias, model)
    ]


def _keep(workflows: Sequence[_Workflow]) -> None:
    """Look at these again when they are over; at those in which something goes on, before long."""
    if workflows:
        until = [None if workflow.is_over or not workflow.has_ended else workflow.until for workflow in workflows]
        _postpone([workflow.root_id for workflow in workflows], until, _AGAIN_AFTER)


def _postpone(root_ids: Sequence[UUID], until: Sequence[datetime | None], seconds: float) -> None:
    database.execute(sql.POSTPONE_PRUNE, seconds, list(root_ids), list(until))


def prune_now(root_id: UUID) -> int:
    """Remove one finished workflow, whatever its time; return the number of its tasks.

    `NotAllowedHere` says why it cannot be, `TaskGone` that it is no longer there.
    """
    with database.read_committed():
        if not database.execute(sql.PRUNE_THESE, [root_id]):
            _refuse_what_is_locked(root_id)
        (seen,) = _judge([root_id])
        _refuse_what_goes_on(seen)
        closed = _close([seen])
        if not closed:
            raise NotAllowedHere(_BUSY.format(root_id))
        _delete(closed)
    return closed[0].tasks


_BUSY = "Workflow {} is just being added to, or looked at. Try it again."


def _refuse_what_is_locked(root_id: UUID) -> None:
    if not Task.objects.filter(pk=root_id).exists():
        raise TaskGone(f"Task {root_id} is no longer stored.")
    raise NotAllowedHere(_BUSY.format(root_id))


def _refuse_what_goes_on(seen: _Workflow) -> None:
    if seen.unfinished:
        raise NotAllowedHere(
            f"{seen.unfinished:,} of {seen.tasks:,} tasks of workflow {seen.root_id} have not ended; "
            "only whole finished workflows are removed. Wait, or revoke it first."
        )
    if seen.goes_on:
        raise NotAllowedHere(
            f"Workflow {seen.root_id} has ended, but a body of it may still run, or something of it is to be settled. Try it again."
        )


def prune_statistics() -> int:
    """Remove a batch of counts that are older than 90 days; return how many."""
    return len(database.execute(sql.PRUNE_STATISTICS, _STATISTICS_FOR, _TASKS))
