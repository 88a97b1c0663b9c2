"""`manage.py run_survey`: enqueue the survey, show how it goes, and check what came out. `manage.py survey` calls it."""

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, connection

from cq import WaitTimeout
from example.survey.check import differences, surprises
from example.survey.counts import Counts
from example.survey.progress import Progress
from example.survey.serial import count_serially
from example.survey.tree import TESTS, modules_in, packages_in
from example.survey.workflow import Workflow, enqueue

LOOK_AGAIN = 0.2
MOST_ERRORS = 10


class Command(BaseCommand):
    help = "Runs the survey of the example; needs a worker that runs already."
    requires_system_checks = []  # the worker makes them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, help="a folder with code")
        parser.add_argument("planted", type=Path, help="a package with a module broken.py that does not parse")
        parser.add_argument("--no-tests", action="store_true", help="leave out tests")

    def handle(self, *args: Any, path: Path, planted: Path, **options: Any) -> None:
        total = self._introduce(path, planted, with_tests=not options["no_tests"])
        workflow = enqueue(path, planted, with_tests=not options["no_tests"])
        seconds = _follow(workflow, Progress(self.stdout, total))
        self.stdout.write(f"\n{workflow.survey.report}\n\n")
        self._compare(workflow, count_serially(path, planted, with_tests=not options["no_tests"]))
        self.stdout.write(f"{total:,} tasks took {seconds:.1f} s.")

    def _introduce(self, path: Path, planted: Path, *, with_tests: bool) -> int:
        """Say what is coming; return how many tasks it takes."""
        packages = [*packages_in(path, with_tests=with_tests), planted]
        modules = sum(len(modules_in(package)) for package in packages)
        self.stdout.write(f"Surveying {path}")
        self.stdout.write(f"{modules:,} modules in {len(packages)} packages, one of them planted and broken")
        if not with_tests:
            self.stdout.write(f"Left out: folders named {', '.join(sorted(TESTS))}")
        self.stdout.write("")
        return 1 + 2 * len(packages) + modules + 1

    def _compare(self, workflow: Workflow, serially: Counts) -> None:
        wrong = [*surprises(workflow), *differences(workflow, serially)]
        if wrong:
            more = [f"… and {len(wrong) - MOST_ERRORS} more."] if len(wrong) > MOST_ERRORS else []
            raise CommandError("\n".join([*wrong[:MOST_ERRORS], *more]))
        counted = f"{serially.modules:,} modules, {serially.lines:,} lines"
        self.stdout.write(f"Totals of tasks, rows and serial count: equal ({counted}).")


def _follow(workflow: Workflow, progress: Progress) -> float:
    """Return, when the report is written, how many seconds that took."""
    while not workflow.report.is_done:
        try:
            progress.show(Counter(workflow.tasks.values_list("status", flat=True)))
            with suppress(WaitTimeout):
                workflow.report.wait(LOOK_AGAIN)
        except (OperationalError, InterfaceError):  # somebody has killed PostgreSQL: it comes back
            connection.close()
            time.sleep(LOOK_AGAIN)
    progress.clear()
    for row in (workflow.root, workflow.survey):
        row.refresh_from_db()
    return progress.seconds
