"""`manage.py survey`: start what the example needs, run the survey in it, and stop everything again."""

import os
import sys
import sysconfig
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from example.servers import ServicesError
from example.services import Services, services
from example.survey.kept_alive import KeptAlive
from example.survey.planted import planted_package
from example.survey.processes import MANAGE, processes
from example.survey.tree import NOT_OURS, TESTS, packages_in

LOOK_AROUND = """
The servers and the worker stay until Ctrl-C. In another terminal:
{addresses}
  alias manage='{python} {manage}'
  manage cq_status                   queues and workers
  manage cq_list --status FAILURE    the tasks that failed
  manage cq_show ID                  one task: its error, attempts and subtasks"""


class Command(BaseCommand):
    help = (
        "Counts what is in the Python standard library, or any other code base, one task per module. Starts PostgreSQL "
        "and Valkey for it (or uses those at DATABASE_URL and REDIS_URL), and a worker."
    )
    requires_system_checks = []  # they would look for the database, which this command is about to start

    def add_arguments(self, parser: CommandParser) -> None:
        stdlib = sysconfig.get_path("stdlib")
        tests = ", ".join(sorted(TESTS))
        parser.add_argument("--path", type=Path, default=stdlib, help="a folder with code (default: %(default)s)")
        parser.add_argument("--no-tests", action="store_true", help=f"leave out folders named {tests}")
        parser.add_argument("--exit", action="store_true", help="stop everything when the survey is done")
        parser.add_argument("--processes", type=_positive, default=2, help="of the worker (default: %(default)s)")
        parser.add_argument("--no-layer", action="store_true", help="work without the channel layer")

    def handle(self, *args: Any, **options: Any) -> None:
        path = _checked(options["path"], with_tests=not options["no_tests"])
        with _plain_endings(), services() as servers, planted_package() as planted:
            environment = _environment(servers, with_layer=not options["no_layer"])
            with processes(environment) as start:
                if start("migrate", "-v0", "--skip-checks").wait():
                    raise CommandError("The database cannot be migrated.")
                kept = KeptAlive(
                    servers, start, "cq_runworker", "-v0", "--grace=5", f"--processes={options['processes']}"
                )
                flags = ["--no-tests"] if options["no_tests"] else []
                status = kept.until_end_of(start("run_survey", str(path), str(planted), *flags))
                if not options["exit"]:
                    self._stay(kept, environment)
        if status < 0:
            raise CommandError(f"run_survey was killed by signal {-status}.")
        if status:
            sys.exit(status)

    def _stay(self, kept: KeptAlive, environment: dict[str, str]) -> None:
        addresses = [
            f"  export {name}='{environment[name]}'" for name in ("DATABASE_URL", "REDIS_URL") if name in environment
        ]
        self.stdout.write(LOOK_AROUND.format(addresses="\n".join(addresses), python=sys.executable, manage=MANAGE))
        self.stdout.flush()
        with suppress(KeyboardInterrupt):
            kept.for_ever()


def _checked(path: Path, *, with_tests: bool) -> Path:
    if not path.exists():
        raise CommandError(f"{path} does not exist.")
    if not path.is_dir():
        raise CommandError(f"{path} is not a folder.")
    if not any(packages_in(path, with_tests=with_tests)):
        left_out = ", ".join(sorted(NOT_OURS if with_tests else NOT_OURS | TESTS))
        raise CommandError(f"{path} has no Python files, apart from hidden folders and {left_out}.")
    return path.resolve()


def _environment(servers: Services, *, with_layer: bool) -> dict[str, str]:
    """Return the environment of the processes, from which the settings take the addresses; no REDIS_URL, no layer."""
    environment = {**os.environ, "DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    if not with_layer:
        del environment["REDIS_URL"]
    return environment


@contextmanager
def _plain_endings() -> Iterator[None]:
    """End by Ctrl-C, or without a server, in one line instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nStopped.")
        sys.exit(130)
    except ServicesError as error:
        raise CommandError(str(error)) from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number
