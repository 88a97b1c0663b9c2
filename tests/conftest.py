"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from example.services import Services
from tests.plugin import SERVICES

pytest.register_assert_rewrite("tests.processes")

BREAK_OFF_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let the test database be dropped although threads of async tests keep their connections open."""
    yield
    with django_db_blocker.unblock():
        connection.close()  # a test may have restarted the server behind it
        with connection.cursor() as cursor:
            cursor.execute(BREAK_OFF_OTHERS)


@pytest.fixture
def services(pytestconfig: pytest.Config) -> Iterator[Services]:
    """Give the session's servers; whatever the test stops, suspends or kills runs again afterwards."""
    found = pytestconfig.stash[SERVICES]
    yield found
    for server in (found.own_postgres, found.own_redis):
        if server is not None:
            server.start()
