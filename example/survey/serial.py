"""The same count without tasks and without a database, to compare with."""

from contextlib import suppress
from pathlib import Path

from example.survey.counts import Counts, count
from example.survey.tree import modules_in, packages_in


def count_serially(top: Path, planted: Path, *, with_tests: bool) -> Counts:
    """Count the modules one after the other, in this process; what must parse and does not is left out."""
    totals = Counts()
    for package in packages_in(top, with_tests=with_tests):
        for path in modules_in(package):
            totals += count(path)
    for path in modules_in(planted):
        with suppress(SyntaxError):
            totals += count(path, must_parse=True)
    return totals
