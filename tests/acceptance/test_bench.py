"""`cq_bench`: it measures on the project's database, and leaves nothing behind, whatever happens."""

import json
import os
import signal
import subprocess
import sys

import pytest

from cq.models import Process, SettleRequest, Task, Worker
from tests import tasks
from tests.processes import ROOT, django, environment, living, query, session, until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

FIGURES = {"delay", "delay_many", "drain", "start_p50", "start_p99", "get_p50", "chain", "subtasks"}


def nothing_is_left():
    return not (Worker.objects.exists() or Process.objects.exists() or SettleRequest.objects.exists())


def test_every_figure_is_measured_and_only_the_benchmarks_rows_are_removed():
    own = tasks.adds.delay(1, 2)

    done = django("cq_bench", "--tasks", "40", "--processes", "1", "--json")

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures.pop("channel_layer") is True
    assert figures.keys() == FIGURES
    assert all(value > 0 for value in figures.values())
    assert [task.id for task in Task.objects.all()] == [own.id]
    own.refresh_from_db()
    assert own.status == Task.STATUS_QUEUED
    assert nothing_is_left()


def test_without_a_channel_layer_it_says_so_in_a_table_that_fits():
    done = django("cq_bench", "--tasks", "5", "--processes", "1", TEST_LAYER="none", COLUMNS=80)

    assert done.returncode == 0, done.stderr
    assert "No channel layer answers: none is configured." in done.stdout
    assert "chain of 100" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_the_queue_need_not_be_among_the_projects():
    done = django("cq_bench", "--tasks", "5", "--processes", "1", cq={"QUEUES": {"default": {}}})

    assert done.returncode == 0, done.stderr
    assert not Task.objects.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(number):
    run = subprocess.Popen(
        [sys.executable, "-m", "django", "cq_bench", "--tasks", "1000000"],
        env=environment(),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until(lambda: query("SELECT 1 FROM cq_task WHERE queue = 'cq-bench' LIMIT 1"), what="tasks of the benchmark")

        run.send_signal(number)

        _, said = run.communicate(timeout=30)
        assert run.returncode != 0
        until(lambda: not [pid for pid in living() if session(pid) == run.pid], what="no process left")
        assert not Task.objects.exists(), said.decode()
        assert nothing_is_left()
    finally:
        for pid in living():
            if session(pid) == run.pid:
                os.kill(pid, signal.SIGKILL)
        run.wait()
        run.stderr.close()


@pytest.mark.parametrize("arguments", [("--tasks", "0"), ("--processes", "-1"), ("--threads", "1000000")])
def test_nonsense_is_refused_in_a_sentence(arguments):
    done = django("cq_bench", *arguments)

    assert done.returncode == 1
    assert f"{arguments[0]} {arguments[1]}: expected a number from 1 to" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_processes_do_not_know_its_functions():
    done = django("shell", "--no-imports", "-c", "from cq import registry; print(registry.names())")

    assert "cq.bench" not in done.stdout
    assert "tests.tasks.adds" in done.stdout
