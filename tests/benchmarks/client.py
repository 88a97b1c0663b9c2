"""One measurement, in a process of its own: `python -m tests.benchmarks.client SYSTEM WORK SIZE` prints its figures as JSON.

The runner gives it the environment, an emptied database and Redis, and ends all that it leaves behind. The work `prepare` makes
the tables, once for each system.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from django.core.management import call_command

from tests.benchmarks.catalogue import BY_NAME
from tests.benchmarks.measures import MEASURES
from tests.benchmarks.records import Records
from tests.benchmarks.run import Run, log_of_workers
from tests.benchmarks.system import System, set_up_django


def main(name: str, work: str, size: str) -> int:
    """Measure; return the exit status. The last line of the errors says in short what went wrong."""
    records = Records(Path(os.environ["BENCH_RECORDS"]))
    try:
        set_up_django()
        if work == "prepare":
            call_command("migrate", run_syncdb=True, verbosity=0)
            load(name).make_tables()
        else:
            print(json.dumps(MEASURES[work](Run(load(name), int(size), records, records.path.parent))))
    except Exception as error:
        print(log_of_workers(records.path.parent), traceback.format_exc(), file=sys.stderr)
        print(f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


def load(name: str) -> System:
    """Import a system."""
    module = importlib.import_module(f"tests.benchmarks.systems.{BY_NAME[name].module}")
    system: System = module.system
    return system


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # whatever threads a system's client keeps
