"""Remove finished workflows before their time: `manage.py cq_prune ID …`, or `--status SUCCESS --older-than 1d`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cq import states
from cq.models import Task
from cq.models.task import TaskQuerySet
from cq.prune import prune_now
from cq.terminal.change import ChangeCommand
from cq.terminal.record import Record
from cq.terminal.selection import Selection, tasks


class Command(ChangeCommand):
    """Prunes whole workflows."""

    help = (
        "Removes finished workflows with all their tasks, whatever their result_ttl; never one of which a task has not ended. "
        "An id means the workflow that the task belongs to; conditions are about the first task of a workflow. "
        "(Workers remove by themselves what is past its time.)"
    )
    verb, done, noun = "Prune", "Pruned", "workflow"
    meant = states.TERMINAL

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.removed = 0

    def choose(self, selection: Selection) -> TaskQuerySet:
        """Say which workflows are meant: their roots."""
        if not selection.ids:
            return super().choose(selection).filter(workflow=None)
        found = selection.tasks().values_list("id", "workflow_id")
        return tasks().filter(pk__in={root_id or task_id for task_id, root_id in found}).order_by("-id")

    def change(self, task: Task) -> bool:
        """Prune its workflow."""
        self.removed += prune_now(task.id)
        return True

    def changed(self, records: Sequence[Record]) -> Sequence[Record]:
        """Show what was removed as it was."""
        return records

    def more(self) -> str:
        """Say how many tasks that were."""
        return f", {self.removed:,} task{'' if self.removed == 1 else 's'}" if self.removed else ""
