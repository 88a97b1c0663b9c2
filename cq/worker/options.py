"""How a worker was asked to run."""

from dataclasses import dataclass

from cq.sql import LONGEST_WAIT as LONGEST_WAIT


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The command line of `cq_runworker`; `queues` None serves all."""

    queues: tuple[str, ...] | None = None
    processes: int = 1
    threads: int = 4
    grace: float = 30.0
    drain: bool = False
    scheduler: bool = True
    # A child that has run so many bodies, or takes so many megabytes, is replaced.
    max_tasks: int | None = None
    max_rss: int | None = None


# Coroutines that one child runs at once.
COROUTINES = 250
# Work that a child claims ahead of its free slots: as much as recent durations make of this time …
AHEAD_SECONDS = 0.05
# … and never more tasks than this.
AHEAD_MOST = 200
