"""Real workers for tests: start `cq_runworker`, find its processes, hurt them, and prove what must hold afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from django.db import connection

from cq import states
from cq.models import Process, SettleRequest, Task, Worker
from cq.models.attempt import Attempt
from cq.new import GROUP
from tests.models import Effect

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 20.0
Found = TypeVar("Found")

UNFINISHED = [status.value for status in states.UNFINISHED]
LOOSE = {
    "fault.loose",
    "fault.keeps_the_lock_loose",
    "fault.loose_parent",
    "fault.coroutine",
    "fault.sleeps_loose",
    "fault.sleeps_coroutine",
    "fault.blocks_coroutine",
    "fault.until_loose",
    "fault.endures",
    "fault.endures_in_coroutine",
    "fault.naps",
    "fault.loops_loose",
    "fault.checks",
    "fault.checks_coroutine",
}


def until(condition: Callable[[], Found], seconds: float = PATIENCE, what: object = None) -> Found:
    """Return what the condition gives as soon as that is true; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            pytest.fail(f"not in {seconds} s: {said or getattr(condition, '__doc__', '') or condition}", pytrace=True)
        time.sleep(0.01)
    return found


def database_url() -> str:
    """Return the URL of the test's database, for other processes."""
    own = connection.settings_dict
    user, host, port = quote(own["USER"]), quote(own["HOST"], safe=""), own["PORT"]
    password = f":{quote(own['PASSWORD'])}" if own["PASSWORD"] else ""
    return f"postgresql://{user}{password}@/{own['NAME']}?host={host}" + (f"&port={port}" if port else "")


def environment(**more: Any) -> dict[str, str]:
    """Return the environment of a process that uses the test's database; `CQ` and other keys as given."""
    settings = {"TEST_CQ": json.dumps(more.pop("cq", {}))}
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "DATABASE_URL": database_url(),
        "PYTHONPATH": str(ROOT),
        **settings,
        **{key: str(value) for key, value in more.items()},
    }


def django(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a management command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        env=environment(**more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class RunningWorker:
    """One `cq_runworker` and what it has forked."""

    def __init__(self, arguments: Sequence[str], log: Path, **more: Any) -> None:
        self.log_file = log
        self.seen: set[int] = set()
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *(more.pop("program", None) or ["-m", "django"]), "cq_runworker", *arguments],
                env=environment(**more),
                cwd=more.get("cwd", ROOT),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.popen.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def descendants(self) -> list[int]:
        """All that the supervisor has forked and that is alive, oldest first."""
        found = [pid for pid in living() if pid != self.pid and session(pid) == self.pid]
        self.seen.update(found)
        return found

    def children(self) -> list[int]:
        """The processes in which bodies run, as far as they are on the register."""
        registered = set(Process.objects.filter(ended_at=None).values_list("pid", flat=True))
        return [pid for pid in self.descendants() if pid in registered]

    def keeper(self) -> int:
        """The one process below the supervisor that is not on the register."""

        def only_one() -> int:
            registered = set(Process.objects.values_list("pid", flat=True))
            rest = [pid for pid in self.descendants() if pid not in registered]
            return rest[0] if len(rest) == 1 else 0

        return until(only_one, what="one keeper")

    def ready(self, processes: int = 1) -> RunningWorker:
        """Return when so many of its children are on the register."""
        until(lambda: len(self.children()) >= processes or not self.is_running, what=lambda: self.log[-3000:])
        assert self.is_running, self.log[-3000:]
        return self

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = PATIENCE) -> float:
        """Stop it in order; return how long that took."""
        self.descendants()
        began = time.monotonic()
        self.send(number)
        self.exit(seconds)
        return time.monotonic() - began

    def exit(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; return the status."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker does not end in {seconds} s; its log ends with:\n{self.log[-3000:]}")

    def stop_in_order(self) -> None:
        """Stop it with SIGTERM; it leaves nothing behind and says so."""
        self.stop()
        assert self.popen.returncode == 0, self.log[-3000:]
        assert not self.left_behind()

    def left_behind(self) -> list[int]:
        """What is still alive of all that was ever seen of it."""
        return [pid for pid in {*self.seen, *self.descendants()} if is_alive(pid) and session(pid) == self.pid]

    def clean_up(self) -> None:
        """End every process of its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()
        for pid in self.left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.left_behind(), what="all processes of the worker gone")


class Workers:
    """Starts workers for one test and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[RunningWorker] = []

    def __call__(self, *arguments: str, **more: Any) -> RunningWorker:
        """Start a worker: arguments as on the command line, `cq={…}` and environment variables as keywords."""
        if "CQ_FAILPOINTS" in more:
            points = self.folder / f"failpoints-{len(self.started)}"
            points.mkdir(exist_ok=True)
            more["CQ_FAILPOINTS_DIR"] = points
        given = arguments if "--processes" in arguments else ("--processes", "1", *arguments)
        more.setdefault("TEST_FOLDER", self.folder)
        worker = RunningWorker(given, self.folder / f"worker-{len(self.started)}.log", **more)
        worker.points = more.get("CQ_FAILPOINTS_DIR")
        self.started.append(worker)
        return worker

    def await_body(self, *tasks: Task, attempt: int = 1) -> None:
        """Return when the bodies of these tasks run."""
        until(
            lambda: all((self.folder / f"{task.pk}-{attempt}").exists() for task in tasks),
            what=lambda: f"bodies begun\n{self.log()}",
        )

    def log(self) -> str:
        """What all of them have logged, for the message of a failure."""
        return "\n".join(f"--- {worker.log_file.name}\n{worker.log[-4000:]}" for worker in self.started)

    def clean_up(self) -> None:
        for worker in self.started:
            worker.clean_up()


@pytest.fixture
def run_worker(transactional_db: None, tmp_path: Path) -> Iterator[Workers]:
    """Give a function that starts workers on the test's database; none of their processes outlives the test."""
    workers = Workers(tmp_path)
    deadlocks = count_deadlocks()
    yield workers
    workers.clean_up()
    connection.close()
    until(lambda: not backends(), what=backends)
    # An immediate restart of PostgreSQL sets its counters to zero.
    assert count_deadlocks() <= deadlocks or getattr(workers, "expects_deadlocks", False)
    connection.close()


def living() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and is_alive(int(name)))


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/…/stat after the command's name: state, parent, group, session …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["X", "0", "0", "0"]


def is_alive(pid: int) -> bool:
    """Tell whether it runs; a dead process that nobody has waited for does not."""
    return _stat(pid)[0] not in "ZX"


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def session(pid: int) -> int:
    return int(_stat(pid)[3])


def cpu_seconds(pid: int) -> float:
    """Return how much processor time a process has used."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def signal_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def query(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def backends() -> list[tuple[Any, ...]]:
    """Return which connections of workers PostgreSQL still has."""
    return query(
        "SELECT pid, application_name, state, query FROM pg_stat_activity "
        "WHERE application_name LIKE 'cq:%%' AND datname = current_database()"
    )


def count_deadlocks() -> int:
    ((number,),) = query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(number)


def statuses(tasks: Any = None) -> Counter[tuple[str, str]]:
    """Count tasks by name and status."""
    rows = Task.objects.all() if tasks is None else tasks
    return Counter(rows.values_list("name", "status"))


def unfinished() -> Any:
    return Task.objects.filter(status__in=UNFINISHED)


def all_done(seconds: float = PATIENCE, but: Callable[[], str] = str) -> None:
    """Return when every task has ended."""
    until(
        lambda: not unfinished().exists(),
        seconds,
        what=lambda: (
            f"all tasks ended: {list(unfinished().values_list('id', 'name', 'status', 'attempt')[:10])}\n{but()}"
        ),
    )
    until(lambda: not SettleRequest.objects.exists(), 5, what="nothing to settle")


def check_invariants(*, finished: bool = True, left: bool = True) -> None:
    """Prove on the stored rows what holds after every run; `left`: all workers have stopped in order."""
    if finished:
        assert not unfinished().exists()
        assert not SettleRequest.objects.exists()
    _check_parents()
    _check_successors()
    _check_effects()
    _check_attempts()
    if left:
        assert not Worker.objects.exists()
        assert not Process.objects.exists()


def _check_parents() -> None:
    """A parent ends last, by a pure function of its subtasks."""
    wrong = query("""
        SELECT p.name, p.status, c.name, c.status FROM cq_task p JOIN cq_task c ON c.parent_id = p.id
         WHERE p.finished_at IS NOT NULL AND p.status <> 'REVOKED'
           AND (c.finished_at IS NULL OR c.finished_at > p.finished_at
                OR p.status = 'SUCCESS' AND c.status <> 'SUCCESS' AND NOT p.ignore_failures)
    """)
    assert wrong == []
    fell_short_for_nothing = query("""
        SELECT p.name FROM cq_task p WHERE p.status = 'INCOMPLETE'
           AND NOT EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = p.id AND c.status <> 'SUCCESS')
    """)
    assert fell_short_for_nothing == []


def _check_successors() -> None:
    """A successor starts after its predecessor's end, if that was SUCCESS or it is forced; else it is skipped."""
    wrong = query("""
        SELECT n.name, n.status, p.name, p.status FROM cq_task n JOIN cq_task p ON p.id = n.previous_id
         WHERE n.started_at < p.finished_at
            OR n.finished_at IS NOT NULL AND p.finished_at IS NULL
            OR n.finished_at IS NOT NULL AND n.status <> 'REVOKED'
               AND (n.status = 'SKIPPED') = (p.status = 'SUCCESS' OR n.force_chain AND p.status <> 'REVOKED')
    """)
    assert wrong == []


def _check_effects() -> None:
    """Effects of atomic tasks come once, from the attempt that ended well; of others at least once."""
    effects: dict[Any, list[int]] = {}
    for task_id, attempt in Effect.objects.values_list("task_id", "attempt"):
        effects.setdefault(task_id, []).append(attempt)
    without = {
        "fault.dry",
        "fault.dry_notes",
        "fault.counts_on",
        "fault.wide",
        "fault.ends_when_told",
        "fault.runs_alone",
        "fault.runs_alone_coroutine",
        "fault.process_id",
        "fault.waits_for",
        "fault.storm",
        "fault.storm_branch",
        "fault.queries",
        "fault.swallows_coroutine",
        "fault.blocks_loop",
        "fault.once_sleeps",
        "fault.tells",
        "fault.is_inside",
        "fault.is_inside_too",
    }
    for task in Task.objects.filter(name__startswith="fault.").exclude(name__in=without).iterator():
        came = effects.get(task.id, [])
        succeeded = task.outcome == "success"
        if task.name in LOOSE:
            assert came or not succeeded, (task, came)
        elif task.name not in ("fault.conflicts_in_coroutine", "fault.conflicts_loose"):
            assert came == ([task.attempt] if succeeded else []), (task, task.attempt, came)


def _check_attempts() -> None:
    """Attempts are numbered without gaps, and say how each start of a body ended."""
    found: dict[Any, list[Attempt]] = {}
    for attempt in Attempt.objects.all():
        found.setdefault(attempt.task_id, []).append(attempt)
    for task in Task.objects.exclude(status="REVOKED").exclude(name=GROUP).iterator():
        attempts = found.get(task.id, [])
        numbers = [attempt.number for attempt in attempts]
        outcomes = [attempt.outcome for attempt in attempts]
        assert numbers == list(range(1, task.attempt + 1)), (task, numbers, outcomes)
        assert task.crashes == outcomes.count("crashed"), (task, outcomes)
        assert "success" not in outcomes[:-1], (task, outcomes)
        if task.is_done:
            assert None not in outcomes, (task, outcomes)
        if task.status == "SUCCESS":
            assert outcomes[-1] == "success", (task, outcomes)
