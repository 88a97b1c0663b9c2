"""What the README says is true: its blocks make a project of their own, and are run against a real worker in it."""

import ast
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.core.management import get_commands, load_command_class

from example.services import Services

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- (?P<place>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
SETTINGS = """
import os
from example.services import dj_database
SECRET_KEY = "readme"
DATABASES = {"default": dj_database(os.environ["DATABASE_URL"])}
CHANNEL_LAYERS["default"]["CONFIG"]["hosts"] = [os.environ["REDIS_URL"]]
"""
BEGINNING = "import django\ndjango.setup()\n"


@dataclass(frozen=True)
class Project:
    """A folder made of the README's files, with a database of its own."""

    folder: Path
    environment: dict[str, str]

    def django(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "django", *arguments)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=90, check=False
        )


def blocks(language: str) -> list[re.Match[str]]:
    return [block for block in BLOCK.finditer(README) if block["language"] == language]


@pytest.fixture
def project(tmp_path: Path, services: Services) -> Iterator[Project]:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    for block in blocks("python"):
        if block["place"].startswith("file: "):
            file = tmp_path / block["place"].removeprefix("file: ")
            if not file.parent.exists():
                file.parent.mkdir()
                (file.parent / "__init__.py").touch()
            file.write_text(block["text"])
    with (tmp_path / "settings.py").open("a") as settings:
        settings.write(SETTINGS)
    name = f"readme_{uuid.uuid4().hex}"
    with psycopg.connect(services.database_url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        yield Project(
            tmp_path,
            {
                **os.environ,
                "DATABASE_URL": urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}")),
                "REDIS_URL": services.redis_url,
                "DJANGO_SETTINGS_MODULE": "settings",
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            },
        )
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_every_python_block_says_where_it_belongs_and_can_be_read() -> None:
    for block in blocks("python"):
        assert block["place"], block["text"]
        ast.parse(block["text"])


def test_the_blocks_run_in_a_project_made_of_nothing_else(project: Project) -> None:
    modules = [
        f"shop.{file.stem}"
        for file in project.folder.glob("shop/*_tasks.py")  # tasks.py is found, the others are named
    ]
    with (project.folder / "settings.py").open("a") as settings:
        settings.write(f'CQ = {{"TASK_MODULES": {sorted(modules)!r}}}\n')
    migrated = project.django("migrate", "--verbosity=0")
    assert migrated.returncode == 0, migrated.stderr
    command = [sys.executable, "-m", "django", "cq_runworker", "--processes=2", "--verbosity=0"]

    with subprocess.Popen(command, env=project.environment, cwd=project.folder) as worker:
        ran = [project.python("-c", BEGINNING + block["text"]) for block in blocks("python") if block["place"] == "run"]
        worker.terminate()

    assert worker.returncode == 0
    assert [run.stderr for run in ran if run.returncode] == []
    assert ran[0].stdout == "SUCCESS 2\n['sent to ada@example.org', 'sent to grace@example.org']\n"
    said = [run.stdout for run in ran]
    assert "no luck today builtins.ValueError\n" in said, said
    assert any(text.startswith("['timeout', 'success']\n['It is due at ") for text in said), said


def test_the_test_of_the_readme_passes(project: Project) -> None:
    tested = project.django("test", "shop")

    assert tested.returncode == 0, tested.stderr
    assert "Ran 1 test" in tested.stderr


def test_the_commands_exist_and_take_the_options_shown() -> None:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block["text"].splitlines()]
    for words in map(shlex.split, filter(None, lines)):
        match words:
            case ["sh", script, *_]:
                assert (ROOT / script).is_file(), script
            case ["python", "manage.py", command, *options]:
                parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
                parser.parse_args(options)
            case ["pip", "install", requirement]:
                extras = re.findall(r"\[(.*)\]", requirement)
                assert all(f'"{extra}"' in (ROOT / "setup.py").read_text() for extra in extras)
            case _:
                pytest.fail(f"nobody checks {words}")
