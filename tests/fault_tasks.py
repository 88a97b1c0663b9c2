"""Task functions for the tests with real processes: they leave effects, die, block, and make trees."""

import asyncio
import contextlib
import ctypes
import gc
import locale
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, transaction

from cq import task
from cq.models import Task
from tests.models import Effect


def begin(cqt):
    """Tell the test that the body runs."""
    Path(os.environ["TEST_FOLDER"], f"{cqt.id}-{cqt.attempt}").touch()


def note(cqt, name=""):
    """Leave an effect on the database, in whatever transaction there is."""
    Effect.objects.create(task_id=cqt.id, attempt=cqt.attempt, name=name or cqt.name)


@task("fault.leaf")
def leaf(cqt, seconds=0.0):
    note(cqt)
    time.sleep(seconds)
    return 1


@task("fault.dry")
def dry(cqt, n=0):
    """Use no database, so that its outcome joins a batch."""
    return n


@task("fault.dry_notes")
def dry_notes(cqt, path):
    """Note its start where no database takes it back."""
    with Path(path).open("a") as starts:
        starts.write(f"{cqt.id}\n")


@task("fault.counts_on")
def counts_on(cqt, n):
    return n + 1


class Unspeakable:
    """Raises whatever it is asked for."""

    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


UNSTORABLE = {
    "object": object,
    "unspeakable": Unspeakable,
    "NaN": lambda: float("nan"),
    "1e400": lambda: 1e400,
    "surrogate": lambda: "\ud800",
    "NUL": lambda: "a\0b",
    "int key": lambda: {1: 2},
    "deep": lambda: nested(5000),
    "large": lambda: "x" * 10_000_000,
}


@task("fault.leaves", retries=3, backoff=0)
def leaves(cqt, which):
    """Return what cannot be stored."""
    note(cqt)
    return UNSTORABLE[which]()


@task("fault.fails")
def fails(cqt):
    note(cqt)
    raise ValueError("as it should")


@task("fault.flaky", retries=10, backoff=0.02)
def flaky(cqt):
    note(cqt)
    if cqt.attempt < 2:
        raise ValueError("not yet")


@task("fault.loose", atomic=False)
def loose(cqt):
    note(cqt)


@task("fault.coroutine")
async def coroutine(cqt):
    await Effect.objects.acreate(task_id=cqt.id, attempt=cqt.attempt, name=cqt.name)
    await asyncio.sleep(0.01)


@task("fault.adds")
def adds(cqt, total, more=1):
    note(cqt)
    return total + more


@task("fault.tree")
def tree(cqt, depth, width):
    note(cqt)
    for _ in range(width):
        cqt.subtask(tree if depth > 1 else leaf, (depth - 1, width) if depth > 1 else ())


@task("fault.mixed")
def mixed(cqt):
    """Make one of everything: 17 tasks, of which 2 fail, 1 is skipped and 1 falls short."""
    note(cqt)
    cqt.subtask(tree, (2, 2))
    cqt.subtask(flaky)
    cqt.subtask(loose)
    cqt.subtask(coroutine)
    cqt.subtask(loose_parent)
    cqt.subtask(leaf).chain(adds).chain(adds)
    failing = cqt.subtask(fails)
    failing.chain(leaf)
    failing.chain(leaf, force_chain=True).chain(dry)
    return 17


@task("fault.loose_parent", atomic=False)
def loose_parent(cqt):
    note(cqt)
    cqt.subtask(fails)


@task("fault.wide")
def wide(cqt, n):
    cqt.subtask_many(dry, [(i,) for i in range(n)])
    return n


@task("fault.revokes")
def revokes(cqt, task_id):
    note(cqt)
    return Task.objects.get(pk=task_id).revoke()


@task("fault.dies")
def dies(cqt, times=1000):
    """Kill its process, in its first attempts or for ever."""
    note(cqt)
    if cqt.attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return cqt.attempt


@task("fault.sleeps")
def sleeps(cqt, seconds):
    note(cqt)
    begin(cqt)
    time.sleep(seconds)


@task("fault.sleeps_loose", atomic=False)
def sleeps_loose(cqt, seconds):
    note(cqt)
    begin(cqt)
    time.sleep(seconds)


@task("fault.sleeps_coroutine")
async def sleeps_coroutine(cqt, seconds):
    await Effect.objects.acreate(task_id=cqt.id, attempt=cqt.attempt, name=cqt.name)
    begin(cqt)
    await asyncio.sleep(seconds)


@task("fault.blocks_coroutine")
async def blocks_coroutine(cqt, seconds):
    """A coroutine that waits for a thread, which cannot be cancelled."""
    await Effect.objects.acreate(task_id=cqt.id, attempt=cqt.attempt, name=cqt.name)
    begin(cqt)
    await sync_to_async(time.sleep)(seconds)


@task("fault.once_until")
def once_until(cqt, path):
    """Last for as long as there is no such file, in its first attempt."""
    note(cqt)
    begin(cqt)
    while cqt.attempt == 1 and not Path(path).exists():
        time.sleep(0.02)
    return cqt.attempt


@task("fault.until_loose", atomic=False)
def until_loose(cqt, path):
    note(cqt)
    begin(cqt)
    while not Path(path).exists():
        time.sleep(0.02)


@task("fault.until_atomic")
def until_atomic(cqt, path):
    note(cqt)
    begin(cqt)
    while not Path(path).exists():
        time.sleep(0.02)


@task("fault.grove")
def grove(cqt, path, short=0, levels=2):
    """Make what can be stopped, level below level: bodies that run, short ones, what is due later, and what comes behind them."""
    note(cqt)
    for _ in range(short):
        cqt.subtask(leaf, (0.01,)).chain(leaf)
    cqt.subtask(grove, (path, short, levels - 1)) if levels > 1 else cqt.subtask(until_loose, (path,), priority=10)
    running = cqt.subtask(until_atomic, (path,), priority=10)
    running.chain(dry)
    running.chain(leaf, force_chain=True).chain(dry, force_chain=True)
    cqt.subtask(dry, run_after=3600)


@task("fault.ends_when_told", atomic=False)
def ends_when_told(cqt, path):
    """Wait for a file of this attempt's own."""
    begin(cqt)
    while not Path(f"{path}-{cqt.attempt}").exists():
        time.sleep(0.02)
    return cqt.attempt


@task("fault.hogs")
def hogs(cqt, seconds):
    """Hold the interpreter's lock in C: `usleep` called without letting go of it."""
    note(cqt)
    begin(cqt)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


@task("fault.locks")
def locks(cqt, first, second, path):
    """Lock two rows one after the other, when the other one like this has its first."""
    Group.objects.select_for_update().get(name=first)
    if cqt.attempt == 1 and cqt.row.transients == 0:
        Path(path, first).touch()
        deadline = time.monotonic() + 10
        while not Path(path, second).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    Group.objects.select_for_update().get(name=second)
    note(cqt)


@task("fault.renames")
def renames(cqt, name, path):
    """Change a row that the next attempt wants too, and stay in the transaction for the first time."""
    Group.objects.filter(name=name).update(name=name)
    note(cqt)
    begin(cqt)
    while cqt.attempt == 1 and not Path(path).exists():
        time.sleep(0.02)


@task("fault.conflicts_in_coroutine")
async def conflicts_in_coroutine(cqt):
    for _ in range(2):
        await Group.objects.acreate(name=f"{cqt.id}-{cqt.attempt}")


@task("fault.conflicts_loose", atomic=False)
def conflicts_loose(cqt):
    for _ in range(2):
        Group.objects.create(name=f"{cqt.id}-{cqt.attempt}")


@task("fault.loses_connection")
def loses_connection(cqt):
    """Have PostgreSQL end its own backend, in its first attempt."""
    note(cqt)
    if cqt.row.transients == 0:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@task("fault.notes_on_commit")
def notes_on_commit(cqt):
    transaction.on_commit(lambda: note(cqt))


@task("fault.runs_alone")
def runs_alone(cqt, folder, seconds=0.1):
    """Say in which process it runs, and whether anything else did so at the same time."""
    here = Path(folder, str(os.getpid()))
    here.mkdir(exist_ok=True)
    mine = here / str(cqt.id)
    mine.touch()
    alone = len(list(here.iterdir())) == 1
    time.sleep(seconds)
    mine.unlink()
    return alone


@task("fault.runs_alone_coroutine")
async def runs_alone_coroutine(cqt, folder, seconds=0.1):
    here = Path(folder, str(os.getpid()))
    here.mkdir(exist_ok=True)
    mine = here / str(cqt.id)
    mine.touch()
    alone = len(list(here.iterdir())) == 1
    await asyncio.sleep(seconds)
    mine.unlink()
    return alone


@task("fault.process_id")
def process_id(cqt, seconds=0.0):
    time.sleep(seconds)
    return os.getpid()


@task("fault.counts_plans")
def counts_plans(cqt):
    """Count the plans that PostgreSQL keeps for this thread's connection."""
    note(cqt)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%cq_task%'")
        return cursor.fetchone()[0]


def endure(cqt, name, pause):
    """Leave an effect and the mark of a call, and take some time before and after."""
    with Path(os.environ["TEST_FOLDER"], f"{cqt.id}-calls-of-{name}").open("a") as calls:
        calls.write(".")
    time.sleep(pause)
    note(cqt, name)
    time.sleep(pause)
    return [name, cqt.attempt]


@task("fault.endures", atomic=False)
def endures(cqt, pause=0.0):
    first = [cqt.step(name, endure, cqt, name, pause) for name in ("one", "two")]
    cqt.sleep(1)
    decision = cqt.wait_event("go")
    return [*first, decision, cqt.step("three", endure, cqt, "three", pause)]


@task("fault.endures_in_coroutine")
async def endures_in_coroutine(cqt, pause=0.0):
    first = [await cqt.astep(name, endure, cqt, name, pause) for name in ("one", "two")]
    await cqt.asleep(1)
    decision = await cqt.await_event("go")
    return [*first, decision, await cqt.astep("three", endure, cqt, "three", pause)]


@task("fault.naps", atomic=False)
def naps(cqt):
    cqt.sleep(3600)
    note(cqt)


@task("fault.loops")
def loops(cqt):
    """Never end, in pure Python."""
    note(cqt)
    begin(cqt)
    while True:
        pass


@task("fault.loops_loose", atomic=False)
def loops_loose(cqt):
    note(cqt)
    begin(cqt)
    while True:
        pass


@task("fault.waits_for", atomic=False)
def waits_for(cqt, task_id):
    """Wait for another task, in a thread that nothing but the interruption can wake."""
    begin(cqt)
    Task.objects.get(pk=task_id).wait()


@task("fault.queries", atomic=False)
def queries(cqt, seconds):
    """Wait for PostgreSQL, with a lock in hand."""
    begin(cqt)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(4711)")
        cursor.execute("SELECT pg_sleep(%s)", [seconds])


@task("fault.swallows")
def swallows(cqt):
    """Go on whatever happens."""
    note(cqt)
    begin(cqt)
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass


@task("fault.swallows_once")
def swallows_once(cqt):
    """Go on after an interruption, and come back as if nothing had been."""
    note(cqt)
    begin(cqt)
    try:
        while True:
            time.sleep(0.01)
    except BaseException:
        return "fine"


@task("fault.swallows_coroutine")
async def swallows_coroutine(cqt):
    begin(cqt)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)


@task("fault.blocks_loop")
async def blocks_loop(cqt, seconds):
    """Keep the event loop to itself, in its first attempt."""
    begin(cqt)
    if cqt.attempt == 1:
        time.sleep(seconds)


@task("fault.once_sleeps")
def once_sleeps(cqt, seconds, hogs=False):
    """Sleep where nothing can wake it, in its first attempt; in a later one, say whether that one's process is gone."""
    before = Path(os.environ["TEST_FOLDER"], f"{cqt.id}-pid")
    if cqt.attempt == 1:
        before.write_text(str(os.getpid()))
        begin(cqt)
        if hogs:
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        time.sleep(seconds)
    return not Path(f"/proc/{before.read_text()}").exists()


@task("fault.lasts")
def lasts(cqt, seconds):
    """Be busy in Python for so long."""
    note(cqt)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100))


def _keep_the_lock(cqt):
    """Be interrupted as if inside the driver, between taking a lock and noting that it is held."""
    note(cqt)
    connection.connection.lock.acquire()
    while True:
        pass


keeps_the_lock = task("fault.keeps_the_lock")(_keep_the_lock)
keeps_the_lock_loose = task("fault.keeps_the_lock_loose", atomic=False)(_keep_the_lock)


@task("fault.tells", atomic=False)
def tells(cqt, queue):
    """Enqueue for another worker, which hears of it by this process's hint."""
    process_id.using(queue=queue).delay()


@task("fault.checks", atomic=False)
def checks(cqt, verb="checkpoint"):
    """Ask until it is to end."""
    begin(cqt)
    try:
        while True:
            cqt.subtask(dry) if verb == "subtask" else cqt.checkpoint()
            time.sleep(0.005)
    except Exception as error:
        Effect.objects.create(task_id=cqt.id, attempt=cqt.attempt, name=type(error).__name__)
        raise


@task("fault.checks_coroutine")
async def checks_coroutine(cqt):
    begin(cqt)
    try:
        while True:
            cqt.checkpoint()
            await asyncio.sleep(0.005)
    except Exception as error:
        await Effect.objects.acreate(task_id=cqt.id, attempt=cqt.attempt, name=type(error).__name__)
        raise


@task("fault.parent_of_loops")
def parent_of_loops(cqt, n):
    note(cqt)
    for _ in range(n):
        cqt.subtask(loops_loose)


@task("fault.grows")
def grows(cqt, megabytes):
    """Keep memory that nobody frees."""
    note(cqt)
    _KEPT.append(bytearray(os.urandom(1024) * 1024 * megabytes))
    return os.getpid()


_KEPT: list[bytearray] = []


@task("fault.ends_process")
def ends_process(cqt, how):
    """End its process in ways that do not look like a death, in its first attempt."""
    note(cqt)
    if cqt.attempt == 1:
        {
            "segfault": lambda: ctypes.string_at(0),
            "exit": lambda: os._exit(0),
            "abort": os.abort,
        }[how]()


@task("fault.half_a_second", timeout=0.5)
def half_a_second(cqt, seconds):
    note(cqt)
    time.sleep(seconds)


LEAVINGS: dict[str, Callable[[], object]] = {
    "folder": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "environment": lambda: os.environ.update(DATABASE_URL="nonsense", DJANGO_SETTINGS_MODULE="nonsense"),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "thread": lambda: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(),
    "children": lambda: subprocess.Popen(["sleep", "0.2"]),
    "fork": lambda: os.waitpid(os.fork() or os._exit(0), 0),
    "excepthook": lambda: setattr(sys, "excepthook", None),
    "recursion limit": lambda: sys.setrecursionlimit(200),
    "timer": lambda: signal.setitimer(signal.ITIMER_REAL, 0),
    "garbage": gc.disable,
}


@task("fault.leaves_changed")
def leaves_changed(cqt, how):
    """Change what the process shares, and go."""
    note(cqt)
    LEAVINGS[how]()


DEAFENINGS: dict[str, Callable[[], object]] = {
    "ignores": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "default": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "no wake-ups": lambda: signal.set_wakeup_fd(-1),
}


@task("fault.deafens")
def deafens(cqt, how):
    """Change what a signal does, in a thread, where most of that is refused, and it shows what is not."""
    note(cqt)
    DEAFENINGS[how]()


@task("fault.deafens_loop")
async def deafens_loop(cqt, how):
    """Do the same in the main thread, where nothing is refused."""
    await Effect.objects.acreate(task_id=cqt.id, attempt=cqt.attempt, name=cqt.name)
    DEAFENINGS[how]()


@task("fault.storm")
def storm(cqt, width, leaves):
    """Make a tree of two levels, whose leaves take a moment."""
    for _ in range(width):
        cqt.subtask(storm_branch, (leaves,))


@task("fault.storm_branch")
def storm_branch(cqt, leaves):
    cqt.subtask_many(process_id, [(0.05,)] * leaves)


@task("fault.cleans_up", atomic=False)
def cleans_up(cqt, path):
    begin(cqt)
    try:
        while True:
            time.sleep(0.01)
    finally:
        Path(path).touch()


@task("fault.is_inside", atomic=False)
def is_inside(cqt, folder, seconds):
    """Say when it began and ended, outside the database."""
    mark = Path(folder, f"{cqt.id}-{cqt.attempt}")
    mark.with_suffix(".begun").write_text(repr(time.monotonic()))
    time.sleep(seconds)
    mark.with_suffix(".ended").write_text(repr(time.monotonic()))


@task("fault.is_inside_too", atomic=False)
def is_inside_too(cqt, folder, seconds):
    is_inside.definition.func(cqt, folder, seconds)
