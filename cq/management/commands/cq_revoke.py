"""Stop tasks: `manage.py cq_revoke ID …`, or `--queue mail --older-than 2h`."""

from __future__ import annotations

from cq import states
from cq.models import Task
from cq.terminal.change import ChangeCommand


class Command(ChangeCommand):
    """Revokes tasks."""

    help = (
        "Stops everything unfinished at, below and after tasks; bodies that run end by themselves, and nothing of them is kept. "
        "With conditions alone, those that have not ended."
    )
    verb, done = "Revoke", "Revoked"
    meant = states.UNFINISHED

    def change(self, task: Task) -> bool:
        """Revoke it."""
        return task.revoke()
