"""The setting `CQ`: every key, its default, and what it means, once.

`conf()` gives the values in force. It reads Django's settings once, and again when `override_settings` has changed them.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from math import ceil
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

KIB = 1024


def _key(default: Any, meaning: str) -> Any:
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=default.copy, metadata={"meaning": meaning})
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Conf:
    """The values of the setting `CQ`, defaults filled in."""

    CHANNEL_LAYER: str = _key("default", "alias in CHANNEL_LAYERS that carries the hints")
    DATABASE: str = _key("default", "alias in DATABASES that holds CQ's tables")
    QUEUES: Mapping[str, Any] | None = _key(
        None, "the queues there are, name to options ({'paused': True}); None allows any name"
    )
    ROUTES: Mapping[str, str] = _key({}, "pattern of task names (fnmatch) to queue; beats the decorator")
    TASK_MODULES: list[str] = _key([], "further modules that workers import for their tasks")
    SERIAL: bool = _key(False, "run at delay(), on the same rows and state machine")
    RESULT_TTL: timedelta | float | None = _key(
        timedelta(days=3), "how long a finished workflow is kept; None: for ever"
    )
    LEASE: float = _key(30.0, "seconds without a sign of life after which a worker is declared dead")
    POLL_INTERVAL: float = _key(2.0, "seconds between two looks at the database, at most; without hints, a quarter")
    MAX_CRASHES: int = _key(3, "so many deaths of a process under a task make it LOST")
    MAX_ARGS_SIZE: int = _key(256 * KIB, "bytes of JSON a task's arguments may take")
    MAX_RESULT_SIZE: int = _key(1024 * KIB, "bytes of JSON a task's result may take")
    MAX_ERROR_SIZE: int = _key(64 * KIB, "bytes an error text or a traceback is cut to")
    MAX_DEPTH: int = _key(256, "levels of subtasks below a root")
    MAX_FANOUT: int = _key(100_000, "tasks one call or one body may make")
    LOG_LEVEL: int | str = _key("INFO", "least level of captured log lines")
    LOG_LIMIT: int = _key(1_000, "log lines kept per task")
    UNKNOWN_TASK_TIMEOUT: float = _key(600.0, "seconds a task of unknown name is left for workers that know it")
    SENSITIVE_KEYS: list[str] = _key(
        ["password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "cookie", "session"],
        "keyword and dict-key names whose values are masked wherever shown",
    )
    SERVICES: list[str] = _key([], "dotted paths of services that run beside the worker")
    MIDDLEWARE: list[str] = _key([], "dotted paths of callables around each body")
    MONITOR_PERMISSION: Any = _key(None, "request -> bool, or its dotted path; None: staff with cq.view_task")

    @cached_property
    def paused_queues(self) -> list[str]:
        """The queues that are paused as long as nobody has said otherwise at run time."""
        return sorted(name for name, options in (self.QUEUES or {}).items() if options and options.get("paused"))

    @property
    def result_ttl_seconds(self) -> int | None:
        """`RESULT_TTL` in whole seconds, or None."""
        ttl = self.RESULT_TTL
        if ttl is None:
            return None
        return ceil(ttl.total_seconds() if isinstance(ttl, timedelta) else ttl)

    # Whatever is decided once for these values may be kept by them.
    __hash__ = object.__hash__


KEYS = {field.name: field for field in dataclasses.fields(Conf)}


class _InForce:
    """What was made of the setting; read anew after it has changed."""

    conf: Conf | None = None


def conf() -> Conf:
    """Return the values in force. Unknown keys are left to the system check `cq.E002`."""
    if _InForce.conf is None:
        given = getattr(settings, "CQ", None)
        known = given if isinstance(given, Mapping) else {}
        _InForce.conf = Conf(**{key: value for key, value in known.items() if key in KEYS})
    return _InForce.conf


@receiver(setting_changed)
def _read_anew(*, setting: str, **_: Any) -> None:
    if setting == "CQ":
        _InForce.conf = None
