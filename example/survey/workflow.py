"""One run of the survey: its row, and the tasks at the two ends of its workflow."""

from dataclasses import dataclass
from pathlib import Path

from django.db import transaction
from django.db.models import Q, QuerySet

from cq.models import Task
from example.survey.models import Survey
from example.survey.tasks import survey_code, write_report


@dataclass(frozen=True, slots=True)
class Workflow:
    """A survey, the task that began it, and the one that ends it."""

    survey: Survey
    root: Task
    report: Task

    @property
    def tasks(self) -> QuerySet[Task]:
        return Task.objects.filter(Q(pk=self.root.pk) | Q(workflow=self.root))


def enqueue(path: Path, planted: Path, *, with_tests: bool) -> Workflow:
    """Make the row and the tasks, all or none; workers hear of them when the transaction commits."""
    with transaction.atomic():
        survey = Survey.objects.create(path=str(path), planted=str(planted), with_tests=with_tests)
        root = survey_code.delay(survey)
        report = root.chain(write_report, (survey,), force_chain=True)
    return Workflow(survey, root, report)
