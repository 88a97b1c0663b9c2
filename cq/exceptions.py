"""What CQ raises: each error is CQ's (`CQError`) and Python's at once. A class's docstring is its default message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from cq.models import Task


class CQError(Exception):
    """Something went wrong in CQ."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class InvalidArguments(CQError, TypeError):
    """The arguments do not fit the task function's signature."""


class NotSerializable(CQError, TypeError):
    """The value cannot be stored as JSON."""


class TooLarge(CQError, ValueError):
    """The value is larger than the settings allow."""


class InvalidOption(CQError, ValueError):
    """An option of a task has an unknown name or a value that is not allowed."""


class DuplicateTaskName(CQError, ImproperlyConfigured):
    """Two task functions have the same name."""


class TaskNotRegistered(CQError, LookupError):
    """No task function of this name is registered. Is its module imported? Installed apps are searched for tasks.py."""


class UniqueConflict(CQError, ValueError):
    """A task with this unique key is unfinished."""

    def __init__(self, message: str | None = None, *, task: Task | None = None) -> None:
        super().__init__(message)
        self.task = task


class TaskGone(CQError, LookupError):
    """The task is no longer stored; it was removed after its time, or never committed."""


class ModelGone(CQError, LookupError):
    """A model row that was given as an argument no longer exists."""


class TaskFinished(CQError, RuntimeError):
    """The task has ended; nothing can be added to it."""


class DuplicateSubmitError(CQError, RuntimeError):
    """The task has been submitted already."""


class NotAllowedHere(CQError, RuntimeError):
    """This verb is not allowed here."""


class ReturnedForeignTask(CQError, RuntimeError):
    """The body returned a task that is not its own; return cqt.subtask(…) instead."""


class TransactionBroken(CQError, RuntimeError):
    """The body ended or broke the transaction that CQ had opened for it."""


class Fenced(CQError, RuntimeError):
    """The task is no longer this worker's: it was revoked, or taken over."""


class WaitTimeout(CQError, TimeoutError):
    """The task did not end in time."""


class TaskTimeout(CQError, TimeoutError):
    """The task's body ran longer than its timeout."""


class EventTimeout(CQError, TimeoutError):
    """The event did not come in time."""


class Suspended(BaseException):
    """The body gives its worker back until it is time to go on: no error, so let it pass."""


class TaskFailed(CQError):
    """The task did not end in SUCCESS."""

    def __init__(
        self,
        message: str | None = None,
        *,
        task: Task | None = None,
        status: str = "",
        error: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.status = status
        self.error = error
        self.traceback = traceback


# Another attempt could not end otherwise.
NEVER_RETRIED: tuple[type[Exception], ...] = (
    NotSerializable,
    TooLarge,
    TaskNotRegistered,
    ModelGone,
    ReturnedForeignTask,
)
