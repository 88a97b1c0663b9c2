"""The example, as a stranger starts it: real processes, from its command line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from example.services import Services
from tests.test_services import is_released, shared_memory

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, Path(__file__).resolve().parents[2] / "example/manage.py", "survey", "--exit"]
PATIENCE = 90
MODULES = {
    "alone.py": "x = 1\n",
    "shop/__init__.py": "",
    "shop/orders.py": "class Order:\n    def pack(self):\n        if self:\n            return 1\n",
    "shop/data.py": "this is data, which does not parse\n",
    "shop/mail/send.py": "async def send():\n    pass\n",
    "shop/tests/test_orders.py": "def test_orders():\n    pass\n",
}
Environment = Mapping[str, str]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Give a small code base."""
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def servers(services: Services) -> Iterator[Environment]:
    """Give the environment in which the example uses the session's servers, and a new database there."""
    name = f"example_{uuid4().hex}"
    with psycopg.connect(services.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        url = urlsplit(services.database_url)._replace(path=f"/{name}").geturl()
        yield {**os.environ, "DATABASE_URL": url, "REDIS_URL": services.redis_url}
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder for temporary files, with a path short enough for Unix sockets, open to whom PostgreSQL runs as."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def survey(*arguments: str | Path, environment: Environment) -> subprocess.CompletedProcess[str]:
    """Run the example to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def processes_that_know(folder: Path) -> list[str]:
    """Return the command lines of processes that have this folder among their arguments or in their environment."""
    seen = subprocess.run(["ps", "axeww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line[:200] for line in seen.splitlines() if str(folder) in line]


def test_its_totals_equal_those_of_a_serial_count(code: Path, servers: Environment):
    done = survey("--path", code, environment=servers)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 modules in 5 packages" in done.stdout
    assert "Totals of tasks, rows and serial count: equal (7 modules, 15 lines)" in done.stdout


def test_it_reports_the_broken_module_and_what_does_not_parse(code: Path, servers: Environment):
    done = survey("--path", code, environment=servers)

    assert re.search(r"Missing: .*/broken\.py\n.* ended in FAILURE:\n.*invalid syntax.*\n.*INCOMPLETE", done.stdout)
    assert "counted by their lines only: 1\n" in done.stdout


def test_it_leaves_out_tests_when_asked(code: Path, servers: Environment):
    done = survey("--path", code, "--no-tests", environment=servers)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal (6 modules, 13 lines)" in done.stdout


def test_its_totals_are_the_same_without_a_channel_layer(code: Path, servers: Environment):
    done = survey("--path", code, "--no-layer", environment=servers)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal (7 modules, 15 lines)" in done.stdout


@pytest.mark.parametrize(
    ("name", "error"),
    [("nowhere", "does not exist"), ("alone.py", "is not a folder"), ("empty", "has no Python files")],
)
def test_a_path_without_code_is_refused_in_one_line(name: str, error: str, code: Path, servers: Environment):
    (code / "empty").mkdir()

    done = survey("--path", code / name, environment=servers)

    assert (done.returncode, done.stdout) == (1, "")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_leaves_nothing_behind_when_stopped_in_the_middle(signum: signal.Signals, status: int, folder: Path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    environment["TMPDIR"] = str(folder)

    with subprocess.Popen([*COMMAND], env=environment, stdout=-1, stderr=-2, text=True) as process:
        assert process.stdout is not None
        assert any(re.search(r"] [1-9]\d*/\d+ tasks", line) for line in process.stdout), "it ended without progress"
        segment = shared_memory(folder)
        assert len(processes_that_know(folder)) >= 5
        process.send_signal(signum)
        output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == status, output
    assert "Traceback" not in output
    assert processes_that_know(folder) == []
    assert list(folder.iterdir()) == []
    assert is_released(segment)
