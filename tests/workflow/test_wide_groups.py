"""Wide groups: inserted in bulk, and ended in a time that grows with their width, not faster."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.db import connection

from cq import chord, engine, registry, settle, task
from cq.engine import Wish
from cq.executor import execute
from cq.models import SettleRequest, Task
from tests.rows import make
from tests.work import work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@task
def returns_it(cqt: Any, number: int) -> int:
    return number


@task
def adds_up(cqt: Any, numbers: list[int]) -> int:
    return sum(numbers)


def run(width: int, process: Any) -> None:
    """Insert a chord of this width, and run it like a worker, a hundred at once."""
    whole = chord((returns_it.s(number) for number in range(width)), adds_up.s()).delay()
    wish = Wish(process, {"default": 100}, registry.names())
    claimed = engine.claim(wish)
    rounds = 0
    while claimed:
        outcomes = [execute(one).outcome for one in claimed]
        claimed = engine.exchange([outcome for outcome in outcomes if outcome], wish).claimed
        rounds += 1
        if rounds % 10 == 0 or not claimed:
            settle.settle_all()
            claimed = claimed or engine.claim(wish)
    whole.refresh_from_db()
    assert (whole.status, whole.result) == ("SUCCESS", width * (width - 1) // 2)
    assert not SettleRequest.objects.exists()


def test_a_group_of_twice_as_many_members_takes_about_twice_as_long(settings: Any) -> None:
    settings.CQ = {"LEASE": 600}
    process = make.process()
    run(1000, process)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task, cq_settlerequest")

    took = [work(partial(run, width, process)) for width in (3000, 6000)]

    assert took[1] / took[0] < 2.3, took
    assert not Task.objects.filter(name="cq.group", result__isnull=False).exists()
