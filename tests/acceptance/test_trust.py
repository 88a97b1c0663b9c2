"""What a start-up touches, what a worker imports and calls, and what the supervisor is made of."""

import ast
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cq
from cq.models import Task
from tests import fault_tasks
from tests.processes import ROOT, all_done, query, until

WATCHED_SETUP = """
import sys

touched = []
sys.addaudithook(lambda event, args: touched.append((event, args)) if event.startswith("socket.connect") else None)
import threading
import django
django.setup()
import cq.models, tests.fault_tasks
from cq import registry
from django.db import connections
assert registry.find("fault.leaf"), "the tasks are there"
connected = [one for one in connections.all(initialized_only=True) if one.connection is not None]
print(touched, connected, threading.active_count())
"""

# Written into the folder of a worker's start-up: notes what an execution imports, starts or unpickles.
WATCHED_WORKER = """
import os, sys

forbidden = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class")

def note(event, args):
    if event in forbidden or event == "import" and args[0].partition(".")[0] in ("canary", "antigravity"):
        with open(os.environ["AUDIT_LOG"], "a") as log:
            print(event, str(args)[:200], file=log)

from cq.worker import supervisor
from cq.worker.child import Child
run = Child.run

def watched(self):
    sys.addaudithook(note)
    run(self)

Child.run = watched
"""


def test_the_start_up_touches_neither_database_nor_redis():
    done = subprocess.run(
        [sys.executable, "-c", WATCHED_SETUP],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("[] [] 1\n", 0), done.stderr


def test_the_start_up_needs_neither_database_nor_redis():
    away = {"DATABASE_URL": "postgresql:///none?host=/nonexistent", "REDIS_URL": "unix:///nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED_SETUP],
        env={**os.environ, **away, "DJANGO_SETTINGS_MODULE": "tests.worker_settings", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("word", ["pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle"])
def test_nothing_in_cq_imports_what_could_make_code_out_of_data(word):
    found = []
    for path in Path(cq.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] == word]

    assert found == []


def test_nothing_in_cq_calls_eval_or_exec():
    calls = [
        f"{path.name}:{node.lineno} {node.func.id}"
        for path in Path(cq.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("eval", "exec", "compile", "__import__")
    ]

    assert calls == []


NAMES = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "canary.run",
    "tests.tasks.not_a_task",
    "cq.worker.child.Child",
]


def test_names_in_rows_import_and_call_nothing(run_worker, tmp_path):
    (tmp_path / "canary.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\ndef run(*args): pass\n")
    (tmp_path / "watched_tasks.py").write_text(WATCHED_WORKER)
    canary = tmp_path / "called"
    for name in NAMES:
        query(
            "INSERT INTO cq_task (id, name, args, kwargs, status, queue, priority) "
            "VALUES (gen_random_uuid(), %s, %s, '{}', 'QUEUED', 'default', 0)",
            name,
            f'["touch {canary}"]',
        )
    hostile = [
        '[{"__cq__": "enum", "value": "canary.Some.THING"}]',
        '[{"$": ["enum", "canary:Some", "THING"]}]',
        '[{"__class__": "canary.run"}]',
        '[{"py/object": "canary.run"}]',
    ]
    for text in hostile:
        query(
            "INSERT INTO cq_task (id, name, args, kwargs, status, queue, priority) "
            "VALUES (gen_random_uuid(), 'fault.dry', %s, '{}', 'QUEUED', 'default', 0)",
            text,
        )
    fault_tasks.mixed.delay()
    worker = run_worker(
        cq={"UNKNOWN_TASK_TIMEOUT": 0, "TASK_MODULES": ["tests.fault_tasks", "watched_tasks"]},
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        AUDIT_LOG=tmp_path / "audit",
    )

    all_done(but=run_worker.log)
    worker.stop_in_order()

    audit = tmp_path / "audit"
    assert set(Task.objects.filter(name__in=NAMES).values_list("status", flat=True)) == {"FAILURE"}
    assert not canary.exists()
    assert not (tmp_path / "imported").exists()
    seen = audit.read_text().splitlines() if audit.exists() else []
    assert seen == []


def test_the_supervisor_has_no_thread_and_no_connection(run_worker):
    worker = run_worker("--processes", "2").ready(2)
    task = fault_tasks.mixed.delay()
    until(lambda: Task.objects.get(pk=task.pk).is_done, what=run_worker.log)

    threads = os.listdir(f"/proc/{worker.pid}/task")
    files = [target for target, _ in open_files(worker.pid)]
    children = [os.listdir(f"/proc/{pid}/task") for pid in worker.children()]
    worker.stop_in_order()

    assert len(threads) == 1
    assert [file for file in files if file.startswith("socket:")] == []
    assert all(len(threads) > 1 for threads in children), "as the bodies' processes have"


def open_files(pid: int) -> list[tuple[str, int]]:
    """Return what a running process has open, with the flags; it may close some of it meanwhile."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            flags = Path(f"/proc/{pid}/fdinfo/{number}").read_text().split("flags:")[1].split()[0]
            found.append((target, int(flags, 8)))
    return found


def test_a_process_has_no_pipe_of_another(run_worker):
    """Or it would keep that one's readers waiting after its death."""
    worker = run_worker("--processes", "3").ready(3)

    writers: dict[str, set[int]] = {}
    for pid in [worker.pid, *worker.descendants()]:
        for target, flags in open_files(pid):
            if target.startswith("pipe:") and flags & os.O_WRONLY:
                writers.setdefault(target, set()).add(pid)
    children = set(worker.children())
    worker.stop_in_order()

    assert writers
    assert [held & children for held in writers.values() if held & children] == []
