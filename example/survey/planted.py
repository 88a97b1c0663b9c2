"""A package with one broken module, to see what becomes of a workflow in which a task fails."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOUND = '''"""Planted by `manage.py survey`, beside a module that is broken on purpose."""


def parses() -> bool:
    return True
'''
BROKEN = '''"""Planted by `manage.py survey`; broken on purpose."""


def does_not_parse(:
'''


@contextmanager
def planted_package() -> Iterator[Path]:
    """Have it in a temporary folder inside the block."""
    with tempfile.TemporaryDirectory(prefix="cq-planted-") as folder:
        (Path(folder) / "sound.py").write_text(SOUND)
        (Path(folder) / "broken.py").write_text(BROKEN)
        yield Path(folder)
