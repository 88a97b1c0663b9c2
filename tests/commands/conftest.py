"""A terminal of 80 columns, and what a worker does to rows."""

import json
from io import StringIO

import pytest
from django.core.management import call_command

from cq.models import Worker
from cq.terminal.text import width
from tests.rows import make


@pytest.fixture
def terminal(monkeypatch):
    """Run a command; return what it says. Every line of it fits and has nothing in it that a terminal would obey."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(command, *arguments, fits=True):
        out = StringIO()
        call_command(command, *map(str, arguments), stdout=out)
        lines = out.getvalue().splitlines()
        assert all(line.isprintable() for line in lines)
        assert not fits or all(width(line) <= 80 for line in lines), out.getvalue()
        return out.getvalue()

    return run


@pytest.fixture
def read_json(terminal):
    """Run a command with --json; return the value."""

    def run(command, *arguments):
        said = terminal(command, *arguments, "--json", fits=False)
        assert said.isascii()
        return json.loads(said)

    return run


@pytest.fixture
def enter():
    """Put a worker with one process on the register; return the id of the process."""

    def enter_worker(host="web-1", queues=None, slots=4):
        process_id = make.process()
        Worker.objects.filter(processes=process_id).update(host=host, pid=4711, queues=queues, slots=slots)
        return process_id

    return enter_worker
