"""Stop tasks: `manage.py cq_revoke ID …`, or `--queue mail --older-than 2h`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from cq import states
from cq.models import Task
from cq.terminal.change import ChangeCommand


class Command(ChangeCommand):
    """Revokes tasks."""

    help = (
        "Stops everything unfinished at, below and after tasks; bodies that run are told, or with --terminate interrupted, and "
        "nothing of them is kept. With conditions alone, those that have not ended."
    )
    verb, done = "Revoke", "Revoked"
    meant = states.UNFINISHED
    terminate = False

    def add_arguments(self, parser: CommandParser) -> None:
        """Take how strongly, too."""
        super().add_arguments(parser)
        parser.add_argument(
            "--terminate", action="store_true", help="interrupt bodies that run, instead of telling them"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke what is chosen."""
        self.terminate = options["terminate"]
        super().handle(*args, **options)

    def change(self, task: Task) -> bool:
        """Revoke it."""
        return task.revoke(terminate=self.terminate)
