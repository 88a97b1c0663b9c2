"""Keep the servers and the worker running: kill any of their processes, and the survey still comes to its end."""

import subprocess

from django.core.management.base import CommandError

from example.services import Services
from example.survey.processes import Process, Starter

LOOK_AGAIN = 0.5


class KeptAlive:
    """A worker, and those servers that are ours."""

    def __init__(self, servers: Services, start: Starter, *worker: str) -> None:
        self._servers = [server for server in (servers.own_postgres, servers.own_redis) if server is not None]
        self._start = start
        self._arguments = worker
        self._worker = start(*worker)

    def until_end_of(self, process: Process) -> int:
        """Return its exit status; below 0 it is the signal that killed it."""
        while True:
            try:
                return process.wait(LOOK_AGAIN)
            except subprocess.TimeoutExpired:
                self._revive()

    def for_ever(self) -> None:
        """Go on until an exception, such as Ctrl-C."""
        while True:
            self.until_end_of(self._worker)
            self._revive()

    def _revive(self) -> None:
        for server in self._servers:
            if not server.is_running:
                print(f"\n{server.title} is gone: it is started again.", flush=True)
                server.start()
        status = self._worker.poll()
        if status is not None and status > 0:
            raise CommandError(f"The worker has ended with status {status}.")
        if status is not None:
            print("\nThe worker is gone: another one is started.", flush=True)
            self._worker = self._start(*self._arguments)
