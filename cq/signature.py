"""What users compose: `f.s()`, `chain`, `group`, `chord`. Values, nestable to any depth; `delay` makes rows of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from asgiref.sync import sync_to_async
from django.db import IntegrityError

from cq import current, database, engine, unique
from cq.call import Call
from cq.compose import Chain, Chord, Composed, Group, Part, Single, check_options, compose
from cq.conf import conf
from cq.engine import Inserted
from cq.exceptions import InvalidArguments
from cq.models import Task
from cq.models.task import conflict, place, refuse_conflicts
from cq.serial import drain


class Signature:
    """A call that is not made yet, or a composition of such."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __repr__(self) -> str:
        return f"<signature {_shown(self.part)}>"

    def using(self, **options: Any) -> Signature:
        """Return this with options; in a composition they are for all of it, as far as its parts do not say otherwise.

        `run_after`, `force_chain` and `pass_result` are for what comes first in it, `fail_fast` and `ignore_failures` for a group
        itself.
        """
        checked = check_options(self.part, options)
        return Signature(replace(self.part, options={**self.part.options, **checked}))

    def on_error(self, signature: Signature) -> Signature:
        """Return this with a call for when it fails: of a chain any of its tasks, of a group the group as a whole.

        It is passed the id of the task that failed and the text of its error, before its own arguments.
        """
        return Signature(replace(self.part, errorbacks=(*self.part.errorbacks, _errorback(signature))))

    def delay(self) -> Task:
        """Make the tasks, all or none, in the caller's transaction; return the one that carries the result of the whole.

        `UniqueConflict` if an unfinished task has the unique key of one of them. One that stands alone is found instead, as by the
        `delay` of its function: it is that task, `created` is False, and the errorbacks given here are called for it too.
        """
        composed = compose(self.part)
        if isinstance(self.part, Single) and composed.carrier.unique_key is not None:
            return _note(composed, _place(composed))
        return _note(composed, Task.made(composed.carrier, _insert(composed)))

    async def adelay(self) -> Task:
        """Do what `delay` does, in a coroutine."""
        return await sync_to_async(self.delay)()


def _place(composed: Composed) -> Task:
    """Insert the only task of this, or find who has its unique key; its errorbacks are kept together with that."""
    with database.read_committed():
        (task,) = place([composed.carrier])
        for new in composed.rows[1:]:
            new.errorback_of = task.id
            engine.keep_errorback(new)
    return task


def _insert(composed: Composed) -> Inserted:
    """Insert all or none; `UniqueConflict` if an unfinished task has a unique key of one of them, or another of them has."""
    keyed = [new for new in composed.rows if new.unique_key is not None]
    if not keyed:
        return engine.enqueue_composed(composed.rows, composed.carrier.id)
    refuse_conflicts(keyed)
    try:
        return engine.enqueue_composed(composed.rows, composed.carrier.id)
    except IntegrityError as error:
        if not unique.is_conflict(error):
            raise
    refuse_conflicts(keyed)
    raise conflict(keyed[0].name, keyed[0].unique_key, None)


def _note(composed: Composed, task: Task) -> Task:
    running = current.task()
    if running is not None:
        for new in composed.spine:
            running.note_enqueued(new)
    elif conf().SERIAL:
        drain()
        task.refresh_from_db()
    return task


def _errorback(signature: Any) -> Call:
    part = signature.part if isinstance(signature, Signature) else None
    if not isinstance(part, Single):
        raise InvalidArguments(f"on_error({signature!r}): expected the signature of a task function: f.s(…).")
    if part.errorbacks or "force_chain" in part.options or "pass_result" in part.options:
        raise InvalidArguments(
            f"on_error({signature!r}): an errorback has no errorbacks, and no force_chain= or pass_result=."
        )
    return replace(part.call, options={**part.call.options, **part.options})


def chain(*signatures: Signature) -> Signature:
    """Compose tasks that follow each other; each is passed the result before it, if it needs it. The last one's is the whole's."""
    return Signature(Chain(_parts("chain", signatures)))


def group(*signatures: Signature | Iterable[Signature]) -> Signature:
    """Compose tasks that run side by side: the result is the list of theirs, in order. Takes them one by one, or in one iterable."""
    return Signature(_group("group", signatures))


def chord(header: Signature | Iterable[Signature], callback: Signature) -> Signature:
    """Compose a group and what is called with the list of its results, unless a member failed."""
    (after,) = _parts("chord", [callback])
    given = header.part if isinstance(header, Signature) else None
    return Signature(Chord(given if isinstance(given, Group) else _group("chord", [header]), after))


def _group(word: str, given: Iterable[Any]) -> Group:
    found = list(given)
    if len(found) == 1 and not isinstance(found[0], Signature) and isinstance(found[0], Iterable):
        found = list(found[0])
    return Group(_parts(word, found))


def _parts(word: str, found: Iterable[Any]) -> tuple[Part, ...]:
    parts = []
    for one in found:
        if not isinstance(one, Signature):
            raise InvalidArguments(
                f"{word}(): found {one!r}; expected signatures: f.s(…), chain(…), group(…), chord(…)."
            )
        parts.append(one.part)
    return tuple(parts)


def _shown(part: Part) -> str:
    match part:
        case Single():
            return part.call.definition.name
        case Chain():
            return f"chain of {len(part.parts)}"
        case Group():
            return f"group of {len(part.parts)}"
        case _:
            return "chord"


__all__ = ["Signature", "chain", "chord", "group"]
