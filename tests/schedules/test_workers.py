"""Workers fire: on time, once, without a leader."""

from datetime import timedelta

import pytest

from cq import schedules
from cq.models import RepeatingTask
from tests.processes import run_worker, until
from tests.schedules.conftest import ticks

__all__ = ["run_worker"]

SECOND = timedelta(seconds=1)


def every_second(number: int = 1, **fields: object) -> list[RepeatingTask]:
    begins = schedules.clock().replace(microsecond=0) + SECOND
    given = {"task": "fault.dry", "every": SECOND, "starts_at": begins, "overlap": "allow", **fields}
    return [RepeatingTask.objects.create(name=f"r{n}", **given) for n in range(number)]


@pytest.mark.slow
def test_ticks_come_on_time_without_hints(run_worker):
    (row,) = every_second()
    run_worker(TEST_LAYER="none", cq={"POLL_INTERVAL": 30}).ready()

    until(lambda: len(ticks(row)) >= 4)

    late = [(task.started_at or task.created_at) - task.scheduled_for for task in row.runs.exclude(started_at=None)]
    assert sorted(late)[len(late) // 2] < timedelta(seconds=0.5), late
