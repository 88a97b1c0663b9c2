"""A workflow engine for Django that needs nothing but PostgreSQL and a channel layer.

Everything public is here by name and imported at first use, so that `"cq"` can stand in INSTALLED_APPS.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cq.codec import ModelRef as ModelRef
    from cq.declared import repeat as repeat
    from cq.function import TaskFunction as TaskFunction
    from cq.function import aenqueue as aenqueue
    from cq.function import enqueue as enqueue
    from cq.function import get_task as get_task
    from cq.function import task as task

_HOMES = {
    "ModelRef": "cq.codec",
    "TaskFunction": "cq.function",
    "aenqueue": "cq.function",
    "enqueue": "cq.function",
    "get_task": "cq.function",
    "task": "cq.function",
    "repeat": "cq.declared",
}


def __getattr__(name: str) -> Any:
    module = _HOMES.get(name, "cq.exceptions")
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        value = getattr(import_module(module), name)
    except AttributeError:
        raise AttributeError(f"module 'cq' has no attribute {name!r}") from None
    globals()[name] = value
    return value
