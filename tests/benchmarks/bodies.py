"""What the tasks of every system do, the same for all: leave a record, or write a row and leave a record.

A record is the time and the task's number, 16 bytes appended to one file (about 1 µs); from the records come the times, and the
proof that every task ran exactly once.
"""

import os
import struct
import time

from django.apps import apps
from django.db import transaction

RECORD = struct.Struct("dq")
_FILE = os.open(os.environ["BENCH_RECORDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def noop(number: int) -> int:
    """Leave a record."""
    os.write(_FILE, RECORD.pack(time.time(), number))
    return number


def write_row(number: int) -> int:
    """Write a row through the ORM, in the transaction that is open."""
    apps.get_model("benchmarks", "Row").objects.create(number=number, text="a row that a task has written")
    return noop(number)


def row(number: int) -> int:
    """Write a row through the ORM, in a transaction of its own."""
    with transaction.atomic():
        return write_row(number)
