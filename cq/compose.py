"""Compositions as values, and the rows that they become: parents, successors and subtasks like all others.

A group is a row without a body whose subtasks are its members. Behind a predecessor, each of its members follows that one too:
releasing, skipping and passing results are the ordinary mechanism, member by member. Nothing here touches the database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from cq.call import Call
from cq.conf import conf
from cq.exceptions import InvalidArguments, InvalidOption, TooLarge
from cq.new import GROUP, NewTask
from cq.options import check_call_options, check_flag

Options = Mapping[str, Any]
# What concerns those of a composition that come first …
_FIRST = ("run_after", "force_chain", "pass_result")
# … or the row of a group itself; all else is for all of it.
_GROUP = ("fail_fast", "ignore_failures")
_FLAGS: Mapping[str, Callable[[Any], bool]] = {name: check_flag(name) for name in ("force_chain", "pass_result")}


def check_options(part: Part, options: Options) -> dict[str, Any]:
    """Check what is given to a part of a composition; `InvalidOption` names what cannot be."""
    flags = {name: check(options[name]) for name, check in _FLAGS.items() if name in options}
    checked = check_call_options({name: value for name, value in options.items() if name not in flags})
    for name in ("submit", "replace"):
        if name in checked:
            raise InvalidOption(f"{name}= is for tasks that stand alone, not for what is composed.")
    if "unique_key" in checked and not isinstance(part, Single):
        raise InvalidOption("unique_key= is for a single task; give it to the f.s(…) that it is meant for.")
    return checked | flags


@dataclass(frozen=True)
class Part(ABC):
    """A part of a composition: the options and errorbacks that it was given."""

    options: Options = field(default_factory=dict, kw_only=True)
    errorbacks: tuple[Call, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def put(self, rows: list[NewTask], place: Place) -> NewTask:
        """Add the rows of this part; return the one that carries its result."""


@dataclass(frozen=True)
class Place:
    """Where a part comes: below what, behind what, and what the compositions around have given to it."""

    parent_id: UUID | None = None
    depth: int = 0
    previous_id: UUID | None = None
    member: int | None = None
    options: Options = field(default_factory=dict)
    first: Options = field(default_factory=dict)
    errorbacks: tuple[Call, ...] = ()
    # What the group says in which it begins, which all its members begin by: None if it begins in none.
    is_forced: bool | None = None

    def take_in(self, part: Part, *, group: bool = False) -> Place:
        """Add what a part was given itself, which counts more than what is around it."""
        own = {name: value for name, value in part.options.items() if not (group and name in _GROUP)}
        first = {name: value for name, value in own.items() if name in _FIRST}
        options = {name: value for name, value in own.items() if name not in _FIRST}
        return replace(
            self,
            options={**self.options, **options},
            first={**self.first, **first},
            errorbacks=(*self.errorbacks, *part.errorbacks),
        )

    @property
    def force_chain(self) -> bool:
        """Whether what begins here starts even if what is before it has failed."""
        force = bool(self.first.get("force_chain", False))
        if self.previous_id is not None and self.is_forced is not None and force != self.is_forced:
            raise InvalidOption(
                f"force_chain={force} on a member of a group: its members start together, or not at all. "
                "Say it of the group: group(…).using(force_chain=True)."
            )
        return force


@dataclass(frozen=True)
class Single(Part):
    """One call of a task function."""

    call: Call

    def put(self, rows: list[NewTask], place: Place) -> NewTask:
        """Add its row."""
        here = place.take_in(self)
        # What the function was given by using() is the call's own, and counts more than what is around it.
        options = {**here.options, **self.call.options, **_without(self.options, _FIRST)}
        if "run_after" in self.options or ("run_after" in here.first and "run_after" not in self.call.options):
            options["run_after"] = here.first["run_after"]
        call = replace(self.call, options=options)
        new = self._behind(call, here) if here.previous_id else self._at_the_start(call, here)
        return _add(rows, new, here)

    def _at_the_start(self, call: Call, place: Place) -> NewTask:
        if place.first.get("pass_result"):
            raise InvalidOption(f"pass_result=True for {call.definition.name}: nothing comes before it.")
        return call.subtask()

    def _behind(self, call: Call, place: Place) -> NewTask:
        assert place.previous_id is not None
        passes = place.first.get("pass_result")
        return call.successor(place.previous_id, force_chain=place.force_chain, pass_result=passes)


@dataclass(frozen=True)
class Chain(Part):
    """Parts that follow each other."""

    parts: tuple[Part, ...]

    def put(self, rows: list[NewTask], place: Place) -> NewTask:
        """Add the rows of all parts; the last one carries the result."""
        if not self.parts:
            raise InvalidArguments("chain() needs at least one signature: chain(f.s(…), g.s(…)).")
        here = place.take_in(self)
        last = len(self.parts) - 1
        for number, part in enumerate(self.parts):
            carrier = part.put(rows, replace(here, member=place.member if number == last else None))
            here = replace(here, previous_id=carrier.id, first={}, is_forced=None)
        return carrier


@dataclass(frozen=True)
class Group(Part):
    """Parts that run side by side; the row carries the list of their results, which is read from them."""

    parts: tuple[Part, ...]

    def put(self, rows: list[NewTask], place: Place) -> NewTask:
        """Add a row for the group itself, and those of its members below it."""
        here = place.take_in(self, group=True)
        new = NewTask(
            name=GROUP,
            previous_id=here.previous_id,
            force_chain=here.force_chain and here.previous_id is not None,
            is_empty=not self.parts,
            created_by=here.options.get("created_by"),
            subject=here.options.get("subject"),
            result_ttl=here.options.get("result_ttl", conf().result_ttl_seconds),
            fail_fast=self.options.get("fail_fast", False),
            ignore_failures=self.options.get("ignore_failures", False),
        )
        group = _add(rows, new, here)
        depth = here.depth + 1
        below = replace(here, parent_id=group.id, depth=depth, errorbacks=(), is_forced=here.force_chain)
        for number, part in enumerate(self.parts):
            part.put(rows, replace(below, member=number))
        return group


@dataclass(frozen=True)
class Chord(Part):
    """A group, and what is called with the list of its results."""

    header: Group
    callback: Part

    def put(self, rows: list[NewTask], place: Place) -> NewTask:
        """Add the rows of both; the callback carries the result."""
        header = replace(self.header, options={**self.header.options, **_only(self.options, _GROUP)})
        here = replace(place.take_in(self, group=True), member=None)
        group = header.put(rows, here)
        after = replace(here, previous_id=group.id, member=place.member, first={"pass_result": True}, is_forced=None)
        return self.callback.put(rows, after)


def _only(options: Options, names: Sequence[str]) -> Options:
    return {name: value for name, value in options.items() if name in names}


def _without(options: Options, names: Sequence[str]) -> Options:
    return {name: value for name, value in options.items() if name not in names}


def _add(rows: list[NewTask], new: NewTask, place: Place) -> NewTask:
    limit = conf().MAX_DEPTH
    if place.depth > limit:
        raise TooLarge(f"{new.name} would be {place.depth} levels deep in its groups; CQ['MAX_DEPTH'] allows {limit}.")
    new.parent_id, new.depth, new.member = place.parent_id, place.depth, place.member
    rows.append(new)
    rows.extend([call.errorback(new.id) for call in place.errorbacks])
    return new


@dataclass(frozen=True, slots=True)
class Composed:
    """The rows of a composition, each after those that it refers to, and the one that carries the result."""

    rows: list[NewTask]
    carrier: NewTask

    @property
    def spine(self) -> list[NewTask]:
        """Those that are below none of the others."""
        ids = {row.id for row in self.rows}
        return [row for row in self.rows if row.errorback_of is None and row.parent_id not in ids]


def compose(part: Part, place: Place | None = None) -> Composed:
    """Make the rows of a composition that stands alone, or comes at a place."""
    rows: list[NewTask] = []
    carrier = part.put(rows, place or Place())
    if place is None:
        for row in rows[1:]:
            row.workflow_id = rows[0].id if row.errorback_of is None else None
            row.result_ttl = None
    return Composed(rows, carrier)
