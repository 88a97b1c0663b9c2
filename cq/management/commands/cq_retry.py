"""Retry tasks that went wrong: `manage.py cq_retry ID …`, or `--name 'shop.*' --older-than 2h`."""

from __future__ import annotations

from cq.models import Task
from cq.states import Status
from cq.terminal.change import ChangeCommand


class Command(ChangeCommand):
    """Reopens tasks."""

    help = (
        "Reopens tasks and all below them that ended otherwise than in SUCCESS; bodies that had returned do not run again. "
        "With conditions alone, those that failed, were lost or expired."
    )
    verb, done = "Retry", "Retried"
    meant = (Status.FAILURE, Status.LOST, Status.EXPIRED)

    def change(self, task: Task) -> bool:
        """Retry it."""
        return task.retry()
