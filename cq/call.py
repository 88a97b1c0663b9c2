"""A call that is to become a task: which function, with which arguments and options, all checked before any row is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from cq import registry
from cq.definition import Definition
from cq.exceptions import InvalidArguments, InvalidOption, TaskNotRegistered
from cq.new import NewTask
from cq.options import check_call_options

# A non-tuple, non-list is one argument.
Arguments = Any


class TaskFunctionLike(Protocol):
    """What `@task` returns, or `using()`."""

    @property
    def definition(self) -> Definition: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


Callee = TaskFunctionLike | str


@dataclass(frozen=True, slots=True)
class Call:
    """One call, options checked, arguments not yet bound."""

    definition: Definition
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]

    def root(self) -> NewTask:
        """Make a row that stands alone. What is held back is bound when it is submitted."""
        if self.options.get("submit", True):
            self.definition.bind(self.args, self.kwargs)
        return self.definition.new(self.args, self.kwargs, self.options)

    def template(self) -> NewTask:
        """Make a row for others to be alike to, whatever their positional arguments."""
        return self.definition.template(self.options)

    def subtask(self) -> NewTask:
        """Make a row that will have a parent."""
        self._refuse_what_stands_alone()
        return self.root()

    def successor(self, previous_id: UUID, *, force_chain: bool, pass_result: bool | None) -> NewTask:
        """Make a row that follows another; whether it is passed that one's result is decided now."""
        self._refuse_what_stands_alone()
        for name, value in (("force_chain", force_chain), ("pass_result", pass_result)):
            if not isinstance(value, bool) and not (name == "pass_result" and value is None):
                raise InvalidOption(f"{name}={value!r}: expected True or False.")
        pass_result = self.definition.takes_result(self.args, self.kwargs, pass_result)
        new = self.definition.new(self.args, self.kwargs, self.options)
        new.previous_id = previous_id
        new.force_chain = force_chain
        new.pass_result = pass_result
        return new

    def _refuse_what_stands_alone(self) -> None:
        if "submit" in self.options:
            raise InvalidOption(
                "submit= is for tasks that stand alone; this one starts with its parent or predecessor."
            )
        if "replace" in self.options:
            raise InvalidOption(
                "replace= is for tasks that stand alone; here a task that has the unique key already is an error."
            )


def call_of(func: Callee, args: Arguments, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Call:
    """Make a call of a task function or a registered name."""
    definition, given = _resolve(func)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidArguments(f"kwargs={kwargs!r}: expected a dict of keyword arguments.")
    checked = {**given, **check_call_options(options)} if options else given
    return Call(definition, as_args(args), kwargs or {}, checked)


def as_args(args: Arguments) -> tuple[Any, ...]:
    """Return positional arguments: a tuple or list is them, anything else is the only one."""
    return tuple(args) if isinstance(args, (tuple, list)) else (args,)


def _resolve(func: Callee) -> tuple[Definition, Mapping[str, Any]]:
    if isinstance(func, str):
        return registry.get(func), {}
    definition = getattr(func, "definition", None)
    if not isinstance(definition, Definition):
        raise TaskNotRegistered(f"{func!r} is not a task. Decorate the function with @task, or give a registered name.")
    return definition, func.options
