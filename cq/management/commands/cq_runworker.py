"""Run tasks: `manage.py cq_runworker [QUEUE …]`."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import subprocess
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import autoreload

from cq import registry
from cq.apps import import_tasks
from cq.conf import conf
from cq.exceptions import InvalidOption
from cq.options import check_queue
from cq.worker.child import die_with
from cq.worker.options import WorkerOptions
from cq.worker.supervisor import Supervisor

# Tells the worker which reloader it belongs to.
_RELOADER = "CQ_RELOADER_PID"
_RELOAD_WITHIN = 10


class Command(BaseCommand):
    """Serve queues until SIGTERM or Ctrl-C."""

    help = "Runs tasks of these queues (none named: all) until SIGTERM; a second signal ends at once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="*", metavar="QUEUE", help="queues to serve; none: all")
        parser.add_argument("--processes", type=_at_least(1), default=os.cpu_count() or 1, help="default: one per CPU")
        parser.add_argument(
            "--threads", type=_at_least(1), default=4, help="functions run at once in a process (default 4)"
        )
        parser.add_argument(
            "--grace", type=_seconds, default=30.0, help="seconds that running tasks get at a stop (default 30)"
        )
        parser.add_argument("--no-scheduler", action="store_true", help="fire no repeating tasks; others do")
        parser.add_argument("--drain", action="store_true", help="end when nothing is left to run")
        parser.add_argument(
            "--max-tasks", type=_at_least(1), metavar="N", help="replace a process after it has run so many tasks"
        )
        parser.add_argument(
            "--max-rss", type=_at_least(1), metavar="MB", help="replace a process that takes more memory than this"
        )
        parser.add_argument("--reload", action="store_true", help="start anew when code changes (for development)")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["reload"]:
            autoreload.run_with_reloader(_run_beside_the_reloader)
            return
        if reloader := os.environ.pop(_RELOADER, None):
            die_with(int(reloader), signal.SIGTERM)
        self._log_to_the_terminal(options["verbosity"])
        for module in conf().TASK_MODULES:
            import_tasks(module)
        worker = WorkerOptions(
            queues=_checked(options["queues"]),
            processes=options["processes"],
            threads=options["threads"],
            grace=options["grace"],
            drain=options["drain"],
            scheduler=not options["no_scheduler"],
            max_tasks=options["max_tasks"],
            max_rss=options["max_rss"],
        )
        if options["verbosity"]:
            self._greet(worker)
        sys.exit(Supervisor(worker).run())

    def _greet(self, worker: WorkerOptions) -> None:
        queues = ", ".join(worker.queues) if worker.queues else "all"
        self.stdout.write(
            f"cq: {worker.processes} processes of {worker.threads} threads serve {queues} queues and know "
            f"{len(registry.names())} tasks. Ctrl-C stops them."
        )

    def _log_to_the_terminal(self, verbosity: int) -> None:
        """Show what happens, if the project's LOGGING says nothing about it."""
        logger = logging.getLogger("cq")
        if logger.hasHandlers() or not verbosity:
            return
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel({1: logging.WARNING, 2: logging.INFO}.get(verbosity, logging.DEBUG))


def _checked(queues: list[str]) -> tuple[str, ...] | None:
    try:
        return tuple(dict.fromkeys(check_queue(queue) for queue in queues)) or None
    except InvalidOption as error:
        raise CommandError(str(error)) from None


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e7:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 on")
    return value


def _run_beside_the_reloader() -> None:
    """Run the worker as a process of its own, which ends with the reloader's; Ctrl-C reaches it only through that."""
    arguments = [argument for argument in autoreload.get_child_arguments() if argument != "--reload"]
    for module in conf().TASK_MODULES:
        import_tasks(module)  # so that the reloader watches them too
    environment = {**os.environ, _RELOADER: str(os.getpid())}
    worker = subprocess.Popen(arguments, env=environment, process_group=0)

    def stop() -> None:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(_RELOAD_WITHIN)
        except subprocess.TimeoutExpired:
            worker.kill()

    atexit.register(stop)
    worker.wait()
