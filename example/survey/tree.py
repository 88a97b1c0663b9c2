"""Find the Python modules of a code base. Here a package is a folder that holds any, whatever else is in it."""

import os
from collections.abc import Iterator
from pathlib import Path

NOT_OURS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}
TESTS = {"test", "tests", "idle_test"}


def packages_in(top: Path, *, with_tests: bool) -> Iterator[Path]:
    """Yield every package, in a stable order; hidden folders and what others have installed are left out."""
    skipped = NOT_OURS if with_tests else NOT_OURS | TESTS
    for folder, names, _files in os.walk(top):
        names[:] = sorted(name for name in names if name not in skipped and not name.startswith("."))
        if modules_in(Path(folder)):
            yield Path(folder)


def modules_in(package: Path) -> list[Path]:
    """Return the modules of one package, without those of the folders in it."""
    return sorted(path for path in package.glob("*.py") if path.is_file())
