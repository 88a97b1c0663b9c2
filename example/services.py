"""Have PostgreSQL and Valkey, for the example and for the tests: `with services() as s: s.database_url, s.redis_url`.

`DATABASE_URL` and `REDIS_URL` each replace the server that is started otherwise. What is started is gone, with all its
files, when the block ends. A run that was killed with SIGKILL could not see to that: the next run stops its servers and
removes its folder. A run holds a lock on the file `owner` in its folder for as long as its process lives.
"""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import unquote

from example.servers import Postgres, Server, ServicesError, Valkey, end, until

POSTGRES_PID_FILE = "postgres/data/postmaster.pid"
LEFT_BEHIND = {POSTGRES_PID_FILE: signal.SIGQUIT, "valkey.pid": signal.SIGTERM}
LONGEST_SOCKET_PATH = 103
URL = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?"
    r"(?P<places>[^/?]*)(?:/(?P<name>[^?]*))?(?:\?(?P<query>.*))?"
)
PLACE = re.compile(r"(\[[^]]*\]|[^:]*):?(.*)")
AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True, slots=True)
class Services:
    """The two addresses, and the servers behind them if they are ours."""

    database_url: str
    redis_url: str
    own_postgres: Postgres | None = None
    own_redis: Valkey | None = None

    @property
    def postgres(self) -> Postgres:
        return _ours(self.own_postgres, "DATABASE_URL")

    @property
    def redis(self) -> Valkey:
        return _ours(self.own_redis, "REDIS_URL")


def _ours(server: AnyServer | None, variable: str) -> AnyServer:
    if server is None:
        raise ServicesError(f"{variable} is set: the server behind it is not ours to stop or start.")
    return server


@contextmanager
def services(directory: str | Path | None = None, *, fsync: bool = True) -> Iterator[Services]:
    """Keep PostgreSQL and Valkey running inside the block; `directory` is where runs make their folders.

    Nothing is left behind by a normal end, an exception, SIGINT, SIGTERM or SIGHUP. Without `fsync`, data still
    survives a crash of the server, but not one of the machine.
    """
    owner = os.getpid()
    stack = ExitStack()
    with _signals_unwind():
        try:
            yield _start(stack, directory, fsync=fsync)
        finally:
            if os.getpid() == owner:  # a fork that leaves the block owns nothing
                with _signals_wait():
                    stack.close()


def dj_database(url: str) -> dict[str, Any]:
    """Return the DATABASES entry for a postgresql:// URL, read as libpq reads it; unknown query keys become OPTIONS."""
    found = URL.fullmatch(url)
    if found is None:
        raise ValueError(f"Expected postgresql://user:password@host:port/name, found {url.partition(':')[0]}:…")
    user = unquote(found["user"] or "")
    hosts, ports = zip(*(PLACE.findall(place)[0] for place in found["places"].split(",")), strict=True)
    pairs = [pair.partition("=") for pair in (found["query"] or "").split("&") if pair]
    options = {unquote(key): unquote(value) for key, _, value in pairs}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": options.pop("dbname", unquote(found["name"] or "") or user),
        "USER": options.pop("user", user),
        "PASSWORD": options.pop("password", unquote(found["password"] or "")),
        "HOST": options.pop("host", ",".join(unquote(host).strip("[]") for host in hosts)),
        "PORT": options.pop("port", ",".join(ports) if any(ports) else ""),
        "OPTIONS": options,
    }


def _start(stack: ExitStack, directory: str | Path | None, *, fsync: bool) -> Services:
    database_url, redis_url = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
    if database_url and redis_url:
        return Services(database_url, redis_url)
    run = _make_run(stack, directory)
    postgres = redis = None
    if not database_url:
        postgres = Postgres(run, fsync=fsync)
        postgres.create()
        stack.callback(_release_memory, run)
        _start_server(stack, postgres)
        database_url = postgres.url
    if not redis_url:
        redis = Valkey(run)
        _start_server(stack, redis)
        redis_url = redis.url
    return Services(database_url, redis_url, postgres, redis)


def _start_server(stack: ExitStack, server: Server) -> None:
    stack.callback(server.stop)
    server.start()


def _make_run(stack: ExitStack, directory: str | Path | None) -> Path:
    """Make this run's folder, after removing what killed runs left beside it; the stack removes it."""
    parent = Path(directory or Path(tempfile.gettempdir()) / f"cq-{os.getuid()}").absolute()
    with _only_one_in(parent):
        for other in parent.glob("[0-9]*-*"):
            _remove_if_abandoned(other)
        run = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        stack.callback(_remove, run, and_parent=directory is None)
        owner = stack.enter_context((run / "owner").open("w"))
        fcntl.lockf(owner, fcntl.LOCK_EX)
    run.chmod(0o711)  # the account that PostgreSQL runs as has to get through
    if len(os.fsencode(run / "postgres/.s.PGSQL.5432")) > LONGEST_SOCKET_PATH:
        raise ServicesError(f"{run} is too long for the path of a Unix socket: set TMPDIR to a shorter one.")
    return run


@contextmanager
def _only_one_in(parent: Path) -> Iterator[None]:
    """Hold the folder's lock: runs are made and removed one at a time."""
    while True:
        with suppress(FileExistsError):
            parent.mkdir(parents=True)
            parent.chmod(0o711)
        folder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            held = os.fstat(folder)
            if held.st_uid != os.getuid():
                raise ServicesError(f"{parent} belongs to somebody else: remove it, or set TMPDIR to another folder.")
            if parent.exists() and os.path.samestat(held, parent.stat()):
                yield
                return
        finally:
            os.close(folder)


def _remove_if_abandoned(run: Path) -> None:
    if run.name.startswith(f"{os.getpid()}-"):  # locking would succeed, and closing the file would end the lock
        return
    with (run / "owner").open("a") as owner:
        try:
            fcntl.lockf(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        for pid_file, signum in LEFT_BEHIND.items():
            _end_left_behind(run, run / pid_file, signum)
        _release_memory(run)
        until(lambda: _is_removed(run), 5)


def _end_left_behind(run: Path, pid_file: Path, signum: int) -> None:
    """End the process if its command line says that it is this run's: its id may be somebody else's by now."""
    with suppress(FileNotFoundError, ValueError):
        pid = int(pid_file.read_text().split("\n")[0])
        if str(run) in _command_line(pid):
            end(lambda number: os.kill(pid, number), signum, lambda: str(run) not in _command_line(pid))


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        with suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        return ""
    return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def _release_memory(run: Path) -> None:
    """Give back the shared memory of a PostgreSQL that was killed; one that ended in order removed its pid file."""
    with suppress(FileNotFoundError, IndexError):
        key, segment = map(int, (run / POSTGRES_PID_FILE).read_text().split("\n")[6].split())
        libc = ctypes.CDLL(None)
        if libc.shmget(key, 0, 0) == segment:
            libc.shmctl(segment, 0, None)  # 0 is IPC_RMID


def _remove(run: Path, *, and_parent: bool) -> None:
    with _only_one_in(run.parent):
        until(lambda: _is_removed(run), 5)
        if and_parent:
            with suppress(OSError):
                run.parent.rmdir()


def _is_removed(run: Path) -> bool:
    shutil.rmtree(run, ignore_errors=True)
    return not run.exists()


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception does, unless the program handles them itself."""
    owner = os.getpid()

    def leave(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + signum)
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    with _handled(numbers, leave):
        yield


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Deliver signals after the block instead of inside it."""
    came: list[int] = []
    with _handled([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], lambda signum, frame: came.append(signum)):
        yield
    for signum in came[:1]:
        os.kill(os.getpid(), signum)


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Any) -> Iterator[None]:
    """Handle these signals inside the block; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)
