"""The survey as a workflow.

    survey_code                              one for the code base
    ├─ survey_package → add_up               two for each package: `add_up` follows when the modules are done
    │  ├─ survey_module                      one for each module
    │  └─ …
    └─ …
    → write_report                           follows when all of the above has ended, well or not

A body runs before its subtasks do, so what needs their results is chained after it. A task's writes to the database commit
together with its completion: a worker that is killed in between leaves neither, and the task runs again.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cq import task
from cq.models import Task
from example.survey.counts import Counts, count
from example.survey.models import Module, Package, Survey
from example.survey.report import render
from example.survey.tree import modules_in, packages_in


@task
def survey_code(cqt: Any, survey: Survey) -> None:
    top = Path(survey.path)
    for folder in packages_in(top, with_tests=survey.with_tests):
        cqt.subtask(survey_package, (survey, str(folder.relative_to(top)), str(folder))).chain(add_up, force_chain=True)
    planted = (survey, "planted", survey.planted)
    cqt.subtask(survey_package, planted, {"must_parse": True}).chain(add_up, force_chain=True)


@task
def survey_package(cqt: Any, survey: Survey, name: str, folder: str, must_parse: bool = False) -> Package:
    package = Package.objects.create(survey=survey, name=name)
    for path in modules_in(Path(folder)):
        cqt.subtask(survey_module, (package, str(path), must_parse))
    return package


@task
def survey_module(cqt: Any, package: Package, path: str, must_parse: bool) -> dict[str, Any]:
    counts = asdict(count(Path(path), must_parse=must_parse))
    Module.objects.create(package=package, path=path, **counts)
    return counts


@task
def add_up(cqt: Any, package: Package) -> dict[str, Any]:
    """Sum what the modules' tasks returned; `package` is what the task before this one returned."""
    counts = asdict(_sum(cqt.previous.subtasks.all()))
    Package.objects.filter(pk=package.pk).update(**counts)
    return counts


@task
def write_report(cqt: Any, survey: Survey) -> dict[str, Any]:
    root = cqt.previous
    totals = _sum(root.subtasks.filter(name=add_up.name))
    survey.report = render(survey, totals, failed=Task.objects.filter(parent__parent=root, status=Task.Status.FAILURE))
    survey.save()
    return asdict(totals)


def _sum(tasks: Iterable[Task]) -> Counts:
    """Return the sum of the results; a task that failed has none."""
    return sum((Counts(**task.result) for task in tasks if task.status == Task.Status.SUCCESS), Counts())
