"""Wide groups: inserted in bulk, and ended in a time that grows with their width, not faster."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connection

from cq import chord, engine, registry, settle, task
from cq.engine import Wish
from cq.executor import execute
from cq.models import SettleRequest, Task
from tests.rows import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@task
def returns_it(cqt: Any, number: int) -> int:
    return number


@task
def adds_up(cqt: Any, numbers: list[int]) -> int:
    return sum(numbers)


def seconds(width: int, process: Any) -> float:
    """Insert a chord of this width, run it like a worker, a hundred at once, and say how long that took."""
    began = time.monotonic()
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
    took = time.monotonic() - began
    whole.refresh_from_db()
    assert (whole.status, whole.result) == ("SUCCESS", width * (width - 1) // 2)
    assert not SettleRequest.objects.exists()
    print(f"a chord of {width}: {took:.2f} s")
    return took


def test_a_group_of_twice_as_many_members_takes_about_twice_as_long(settings: Any) -> None:
    settings.CQ = {"LEASE": 600}
    process = make.process()
    seconds(1000, process)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task, cq_settlerequest")

    is_linear = any(seconds(20_000, process) / seconds(10_000, process) < 2.3 for _ in range(3))

    assert is_linear
    assert not Task.objects.filter(name="cq.group", result__isnull=False).exists()
