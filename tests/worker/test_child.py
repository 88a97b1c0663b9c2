"""What a child hears of, by its pipe."""

import asyncio
import os
import time
from uuid import uuid4

import pytest

from cq.worker.child import Child, Place
from cq.worker.marks import Marks
from cq.worker.options import WorkerOptions
from cq.worker.rounds import Rounds


@pytest.mark.parametrize(("is_retired", "left"), [(False, b""), (True, b"w")])
async def test_a_child_that_has_retired_leaves_wake_ups_to_the_one_in_its_place(is_retired: bool, left: bytes) -> None:
    hears, says = os.pipe()
    os.set_blocking(hears, False)
    options = WorkerOptions(None)
    child = Child(options, Place(uuid4(), Marks(), hears, -1, os.getpid()))
    thread = Rounds(child.place.process_id, options)
    thread.wake_ups.is_pending = False
    loop = asyncio.get_running_loop()
    loop.add_reader(hears, child._drain_and_wake, thread)
    if is_retired:
        child.place.marks.retired.note(time.monotonic())
    os.write(says, b"w")

    child._drain_and_wake(thread)

    assert thread.wake_ups.is_pending is not is_retired
    assert loop.remove_reader(hears) is not is_retired
    os.close(says)
    assert os.read(hears, 10) == left
    os.close(hears)
