"""Do the calls that are stored fit the code of today? For the moment before a deploy's workers start.

Page by page, so that the memory it takes does not grow with the backlog; problems are counted by name and kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.apps import apps

from cq import codec, database, registry, sql
from cq.conf import conf
from cq.definition import RESULT, Definition
from cq.exceptions import CQError, InvalidArguments
from cq.options import route

_PAGE = 200
_EXAMPLES = 3
# More kinds of problems than anybody reads are counted as one.
_MOST_KINDS = 500
_OTHER = "Other problems, too many to be told apart."


class StoredCall(NamedTuple):
    """One call whose body has yet to run. In the order of `sql.STORED_CALLS` and others; the id is of the task that it stands in."""

    id: UUID
    name: str
    queue: str
    args: str
    kwargs: str
    # So many arguments come before its own.
    passed: int
    is_held: bool


@dataclass(slots=True)
class Problem:
    """What is wrong with some calls of one name."""

    name: str
    what: str
    count: int = 0
    examples: list[UUID] = field(default_factory=list)


@dataclass(slots=True)
class Preflight:
    """What the calls were found to be like."""

    calls: int = 0
    failed: int = 0
    problems: list[Problem] = field(default_factory=list)


def preflight() -> Preflight:
    """Bind what is stored to the code of today: every call of an unfinished task whose body has yet to run, and of a repeating task,
    and what would be called after failures: errorbacks and compensations.
    """
    found = Preflight()
    kinds: dict[tuple[str, str], Problem] = {}
    for role, calls in (
        ("", stored_calls()),
        ("As an errorback: ", errorbacks()),
        ("As a compensation: ", compensations()),
    ):
        for call in calls:
            for what in _look(found, call):
                _note(kinds, call, role + what)
    for schedule, call in repeated_calls():
        for what in _look(found, call):
            kinds[call.name, f"{schedule} {what}"] = Problem(call.name, f"Repeating task {schedule!r}: {what}", 1)
    found.problems = sorted(kinds.values(), key=lambda problem: (-problem.count, problem.name, problem.what))
    return found


def _look(found: Preflight, call: StoredCall) -> list[str]:
    problems = [*problems_of(call)]
    found.calls += 1
    found.failed += bool(problems)
    return problems


def stored_calls() -> Iterator[StoredCall]:
    """Give the calls whose bodies have yet to run, from the first id to the last."""
    after = UUID(int=0)
    while page := [StoredCall(*row) for row in database.execute(sql.STORED_CALLS, after, _PAGE)]:
        yield from page
        after = page[-1].id


def errorbacks() -> Iterator[StoredCall]:
    """Give what is to be called when unfinished tasks fail, with the id of that task and the text of its error in front."""
    after = 0
    while page := database.execute(sql.STORED_ERRORBACKS, after, _PAGE):
        for _, task_id, name, queue, args, kwargs in page:
            yield StoredCall(task_id, name, queue, args, kwargs, passed=2, is_held=False)
        after = page[-1][0]


def compensations() -> Iterator[StoredCall]:
    """Give what may have to undo subtasks, with the id and the result of each."""
    after = UUID(int=0)
    while page := database.execute(sql.STORED_COMPENSATIONS, after, _PAGE):
        for task_id, name, queue in page:
            yield StoredCall(task_id, name, queue, "[]", "{}", passed=2, is_held=False)
        after = page[-1][0]


def repeated_calls() -> Iterator[tuple[str, StoredCall]]:
    """Give the calls that repeating tasks will make, with the names of these."""
    for schedule, name, queue, args, kwargs in database.execute(sql.REPEATED_CALLS):
        definition = registry.find(name)
        named = queue or (definition and route(name, definition.queue)) or ""
        yield schedule, StoredCall(UUID(int=0), name, named, args, kwargs, passed=0, is_held=False)


def _note(kinds: dict[tuple[str, str], Problem], call: StoredCall, what: str) -> None:
    kind = call.name, what
    if kind not in kinds and len(kinds) >= _MOST_KINDS:
        kind = "…", _OTHER
    problem = kinds.setdefault(kind, Problem(*kind))
    problem.count += 1
    if len(problem.examples) < _EXAMPLES:
        problem.examples.append(call.id)


def problems_of(call: StoredCall) -> Iterator[str]:
    """Say what of a call does not fit."""
    queues = conf().QUEUES
    if queues is not None and call.queue and call.queue not in queues:
        yield f"CQ['QUEUES'] has no queue {call.queue!r}; it has {', '.join(sorted(queues)) or 'none'}."
    definition = registry.find(call.name)
    if definition is None:
        yield "No task function of this name is registered. Was it renamed or removed, or is its module not imported?"
        return
    try:
        args, kwargs = codec.loads(call.args, strict=False), codec.loads(call.kwargs, strict=False)
    except CQError as error:
        yield str(error)
        return
    yield from dict.fromkeys(_gone([args, kwargs]))
    if not call.is_held:  # its first arguments are still to come
        yield from _misfit(definition, call, args, kwargs)


def _gone(value: Any) -> Iterator[str]:
    """Name the models and enums that a decoded value needs and that there are not."""
    if isinstance(value, codec.Unreadable):
        yield value.reason
    elif isinstance(value, codec.ModelRef):
        try:
            apps.get_model(value.label)
        except (LookupError, ValueError):
            yield f"There is no model {value.label!r} any more. Was it removed or renamed?"
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _gone(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _gone(item)


def _misfit(definition: Definition, call: StoredCall, args: Any, kwargs: Any) -> Iterator[str]:
    try:
        definition.bind((*[RESULT] * call.passed, *args), kwargs)
    except (InvalidArguments, TypeError) as error:
        yield str(error)


def as_json(found: Preflight) -> dict[str, Any]:
    """Give it for programs."""
    problems = [
        {"name": one.name, "problem": one.what, "count": one.count, "examples": [*map(str, one.examples)]}
        for one in found.problems
    ]
    return {"calls": found.calls, "failed": found.failed, "problems": problems}
