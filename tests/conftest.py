"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
from django.db import connection
from django.db.backends.postgresql.operations import DatabaseOperations
from pytest_django.plugin import DjangoDbBlocker

from example.services import Services
from tests.plugin import SERVICES

pytest.register_assert_rewrite("tests.processes")

# Empty tables between tests: to give each a new file, and each of its indexes one, takes longer than most tests. That is left for
# when they have grown. Triggers would make new rows of those that go.
EMPTY = """
DO $$
DECLARE
    given text;
BEGIN
    IF (SELECT max(pg_relation_size(name)) FROM unnest(ARRAY[{names}]::regclass[]) AS name) > 100000 THEN
        TRUNCATE {tables};
    ELSE
        SET LOCAL session_replication_role = replica;
        FOREACH given IN ARRAY ARRAY[{names}] LOOP
            EXECUTE 'DELETE FROM ' || given;
        END LOOP;
    END IF;
END $$
"""
BREAK_OFF_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def sql_flush(
    self: DatabaseOperations,
    style: object,
    tables: list[str],
    *,
    reset_sequences: bool = False,
    allow_cascade: bool = False,
) -> list[str]:
    """Do what the one of Django does that is replaced."""
    quoted = [self.quote_name(table) for table in tables]
    names = ", ".join(f"'{table}'" for table in quoted)
    return [EMPTY.format(names=names, tables=", ".join(quoted))] if tables else []


DatabaseOperations.sql_flush = sql_flush  # type: ignore[method-assign]


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
