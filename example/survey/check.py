"""Check that the survey came out as it should: only the planted module fails, and nothing is counted twice or not at all."""

from collections.abc import Iterator
from pathlib import Path

from cq.models import Task
from example.survey.counts import Counts
from example.survey.models import Module
from example.survey.workflow import Workflow


def surprises(workflow: Workflow) -> Iterator[str]:
    """Yield a sentence for each task that did not end as it should."""
    for task in workflow.tasks:
        expected = _expected(task, workflow)
        if task.status != expected:
            yield f"{task} should have ended in {expected}. {task.error or task.reason or ''}".rstrip()


def _expected(task: Task, workflow: Workflow) -> Task.Status:
    planted = workflow.survey.planted
    if str(Path(planted) / "broken.py") in task.args:
        return Task.Status.FAILURE
    if planted in task.args or task == workflow.root:
        return Task.Status.INCOMPLETE
    return Task.Status.SUCCESS


def differences(workflow: Workflow, serially: Counts) -> Iterator[str]:
    """Yield a sentence for each total that is not that of the serial count."""
    rows = Module.objects.filter(package__survey=workflow.survey)
    totals = {
        "The tasks' results": Counts(**(workflow.report.result or {})),
        "The rows in the database": sum((row.counts for row in rows), Counts()),
    }
    for whose, counts in totals.items():
        if counts != serially:
            yield f"{whose} differ from the serial count: {counts} instead of {serially}."
