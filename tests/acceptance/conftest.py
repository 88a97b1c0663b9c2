"""Real workers for every test here."""

import pytest
from asgiref.sync import SyncToAsync
from django.db import connections

from tests.processes import run_worker

__all__ = ["run_worker"]


@pytest.fixture(autouse=True)
def _fresh_connections():
    """Leave connections that an earlier test's faults have ended; coroutines have theirs in a thread of their own."""
    connections.close_all()
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@pytest.fixture(autouse=True)
def _registered_here():
    """Know the tasks that the workers know."""
    import tests.fault_tasks  # noqa: F401
