"""The report of a survey, as text for a terminal of 80 columns."""

from collections.abc import Iterable

from cq.models import Task
from example.survey.counts import Counts
from example.survey.models import Module, Survey

ROWS = 10
WIDTHS = (9, 10, 10, 9, 10)


def render(survey: Survey, totals: Counts, *, failed: Iterable[Task]) -> str:
    """Return the totals, the longest packages and functions, and what is missing from them."""
    return "\n".join([*_packages(survey, totals), "", *_functions(survey), "", *_gaps(totals, failed)])


def _packages(survey: Survey, totals: Counts) -> list[str]:
    packages = list(survey.packages.order_by("-lines", "name"))
    rows = [_counts_row(package.title, package.counts) for package in packages[:ROWS]]
    others = packages[ROWS:]
    if others:
        rows.append(_counts_row(f"{len(others)} more", sum((package.counts for package in others), Counts())))
    head = _row("Packages by lines", "modules", "lines", "functions", "classes", "branches")
    return [head, *rows, _counts_row("total", totals)]


def _counts_row(name: str, counts: Counts) -> str:
    numbers = (counts.modules, counts.lines, counts.functions, counts.classes, counts.branches)
    return _row(name, *(f"{number:,}" for number in numbers))


def _row(name: str, *cells: str) -> str:
    return f"{name[:30]:30}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _functions(survey: Survey) -> list[str]:
    modules = Module.objects.filter(package__survey=survey, longest__gt=0).order_by("-longest", "longest_name")
    rows = [f"{module.longest_name:60}{module.longest:8,}" for module in modules[:5]]
    return [f"{'Longest functions, one per module':60}{'lines':>8}", *rows]


def _gaps(totals: Counts, failed: Iterable[Task]) -> list[str]:
    lines = []
    if totals.unparsed:
        lines.append(f"Modules that could not be parsed, counted by their lines only: {totals.unparsed:,}")
    for task in failed:
        lines.append(f"Missing: {task.args[1]}")
        lines.append(f"  Its task {task.id} ended in {task.status}:")
        lines.append(f"  {task.error}")
        lines.append(f"  So its package is {task.parent.status}, and so is the survey.")
    return lines
