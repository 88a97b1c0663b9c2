"""Which task functions there are, by name. Nothing else can ever run: no row, message or request makes CQ import anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cq.exceptions import DuplicateTaskName, TaskNotRegistered

if TYPE_CHECKING:
    from cq.definition import Definition

_functions: dict[str, Definition] = {}


def register(definition: Definition) -> None:
    """Enter a task function; another one of the same name is an error, the same one (a module loaded anew) is not."""
    known = _functions.get(definition.name)
    if known is not None and known.place != definition.place:
        raise DuplicateTaskName(
            f"Two task functions are named {definition.name!r}: {known.place} and {definition.place}. "
            'Give one of them another name: @task("another.name").'
        )
    _functions[definition.name] = definition


def get(name: str) -> Definition:
    """Return the task function of this name; `TaskNotRegistered` if there is none."""
    try:
        return _functions[name]
    except (KeyError, TypeError):
        raise TaskNotRegistered(
            f"Task {name!r} is not registered. Is its module imported? Installed apps are searched for tasks.py "
            'and handlers.py; CQ["TASK_MODULES"] names further modules.'
        ) from None


def find(name: str) -> Definition | None:
    """Return the task function of this name, or None."""
    return _functions.get(name)


def names() -> list[str]:
    """Return all registered names, in order."""
    return sorted(_functions)
