"""The processes of the example: commands of manage.py that know where the servers are, and that end with the block."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
PATIENCE = 15.0
Process = subprocess.Popen[bytes]
Starter = Callable[..., Process]


@contextmanager
def processes(environment: Mapping[str, str]) -> Iterator[Starter]:
    """Give what starts `manage.py` with these arguments; what still runs after the block is stopped, the last one first."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Process:
            with _signals_wait():
                process = _spawn(arguments, environment)
                stack.callback(_stop, process)
            return process

        yield start


def _spawn(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Process:
    """Start it in a process group of its own: a terminal's Ctrl-C reaches only this process, which stops all in order."""
    sys.stdout.flush()
    return subprocess.Popen([sys.executable, MANAGE, *arguments], env=environment, process_group=0)


def _stop(process: Process) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:  # another Ctrl-C comes through here, too
        process.kill()
        process.wait()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM after the block: a process that has just been started must be known first."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came[:1]:
        os.kill(os.getpid(), number)
