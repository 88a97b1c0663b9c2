"""The task functions that are measured."""

from __future__ import annotations

import time
from typing import Any

from cq.function import task

# A queue of its own: other workers do not know these functions, and its worker serves nothing else.
QUEUE = "cq-bench"


@task("cq.bench.noop", queue=QUEUE, takes_task=False)
def noop() -> float:
    """Return the time."""
    return time.monotonic()


@task("cq.bench.parent", queue=QUEUE)
def parent(cqt: Any, count: int) -> None:
    """Have so many subtasks."""
    cqt.subtask_many(noop, [()] * count)
