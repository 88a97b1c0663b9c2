"""Statements past psycopg's cursors leave a connection as it was found, whatever comes in between."""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DataError, OperationalError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from cq import database, wire
from cq.models import Task
from tests import tasks
from tests.processes import until

pytestmark = pytest.mark.django_db(transaction=True)


def is_usable() -> bool:
    return database.execute("SELECT 1") == [(1,)] and connection.connection.pgconn.pipeline_status == 0


def send(*statements: str | tuple[str, Any]) -> None:
    """Send these in one round trip."""
    with database.round_trip() as trip:
        for statement in statements:
            trip.send(*([statement] if isinstance(statement, str) else statement))


def interrupt_soon() -> None:
    """Press Ctrl-C as soon as PostgreSQL is at the statement that sleeps."""
    pid = os.getpid()
    info = connection.connection.info
    options = {**info.get_parameters(), "password": info.password}

    def watch() -> None:
        with psycopg.connect(**options, autocommit=True) as other:
            look = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            until(lambda: bool(other.execute(look, (info.backend_pid,)).fetchall()), 10)
        os.kill(pid, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_values_come_back_as_they_went_in() -> None:
    values = ["ä' \\ %", "", None, 7, -(2**40), 1.5, True, ["a", 'b"c', None], b"\x00\xff"]
    casts = ["text", "text", "text", "int", "bigint", "float8", "bool", "text[]", "bytea"]
    statement = f"SELECT {', '.join(f'%s::{cast}' for cast in casts)}, '100 %%'"

    (row,) = database.execute(statement, *values)

    assert list(row) == [*values, "100 %"]


def test_an_error_is_django_s_own_and_leaves_the_connection_usable() -> None:
    with pytest.raises(DataError, match="division by zero"):
        database.execute("SELECT 1/0")

    assert is_usable()


def test_an_error_in_a_round_trip_undoes_all_of_it() -> None:
    tasks.adds.delay(1)
    with pytest.raises(DataError):
        send("DELETE FROM cq_task", "SELECT 1/0", "SELECT 1")

    assert is_usable()
    assert Task.objects.count() == 1


def test_an_error_of_ours_in_a_round_trip_undoes_all_of_it() -> None:
    tasks.adds.delay(1)
    with suppress(ZeroDivisionError), database.round_trip() as trip:
        trip.send("DELETE FROM cq_task")
        raise ZeroDivisionError

    assert is_usable()
    assert Task.objects.count() == 1


def test_a_value_that_cannot_be_sent_undoes_all_of_it() -> None:
    tasks.adds.delay(1)
    with pytest.raises(Exception, match="cannot adapt"):
        send("DELETE FROM cq_task", ("SELECT %s", object()))

    assert is_usable()
    assert Task.objects.count() == 1


def test_ctrl_c_stops_a_statement() -> None:
    connection.ensure_connection()
    interrupt_soon()
    began = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        database.execute("SELECT pg_sleep(30)")

    assert time.monotonic() - began < 10
    assert is_usable()


def test_ctrl_c_stops_a_round_trip() -> None:
    tasks.adds.delay(1)
    interrupt_soon()

    with pytest.raises(KeyboardInterrupt):
        send("DELETE FROM cq_task", "SELECT pg_sleep(30)")

    assert is_usable()
    assert Task.objects.count() == 1


def test_a_lost_connection_is_an_operational_error() -> None:
    connection.ensure_connection()
    with pytest.raises(OperationalError):
        send("SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1")
    connection.close()

    with pytest.raises(OperationalError):
        database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.close()

    assert is_usable()


@pytest.mark.parametrize(
    "call", [lambda: tasks.adds.delay(1), lambda: tasks.adds.delay_many([(1,)])], ids=["one", "many"]
)
def test_a_connection_that_died_between_requests_is_replaced_if_the_project_wants_that(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.ensure_connection()
    with suppress(OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    monkeypatch.setattr(database.connection(), "health_check_enabled", True)
    monkeypatch.setattr(database.connection(), "health_check_done", False)

    call()

    assert Task.objects.count() == 1


def test_more_than_the_buffers_hold_goes_both_ways() -> None:
    long = "x" * 3_000_000
    with database.round_trip() as trip:
        replies = [trip.send("SELECT %s::text", long) for _ in range(5)]

    assert [reply.rows() for reply in replies] == [[(long,)]] * 5


def test_what_was_pushed_is_answered_while_more_is_sent() -> None:
    with database.together() as trip:
        replies = [trip.send("SELECT %s::int", number) for number in range(3)]
        trip.push()
        assert trip.take(replies[1]) == [(1,)]
        replies.append(trip.send("SELECT 3"))
        assert trip.take(replies[0]) == [(0,)]

    assert [reply.rows() for reply in replies] == [[(number,)] for number in range(4)]
    assert is_usable()


def test_an_error_in_what_was_pushed_undoes_all_of_it() -> None:
    def push_and_take(*statements: str) -> None:
        with database.together() as trip:
            replies = [trip.send(statement) for statement in statements]
            trip.push()
            trip.take(replies[-1])

    with pytest.raises(DataError):
        push_and_take("INSERT INTO cq_settlerequest (task_id) VALUES (gen_random_uuid())", "SELECT 1 / 0")

    assert database.execute("SELECT 1 FROM cq_settlerequest") == []
    assert is_usable()


def test_a_reply_is_not_read_too_early() -> None:
    with database.round_trip() as trip:
        reply = trip.send("SELECT 1")
        with pytest.raises(RuntimeError, match="before its round trip was through"):
            reply.rows()

    assert reply.rows() == [(1,)]


def test_statements_outside_a_body_are_seen_by_whoever_watches() -> None:
    with CaptureQueriesContext(connection) as queries:
        tasks.adds.delay(1)
        tasks.adds.delay_many([(1,), (2,)])

    inserts = ("cq_enqueue(", "INSERT INTO cq_task")
    assert sum(any(insert in query["sql"] for insert in inserts) for query in queries) == 2


def test_a_broken_transaction_takes_nothing_more() -> None:
    with transaction.atomic():
        assert database.execute("SELECT 1")
        connection.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            database.execute("SELECT 1")


@pytest.mark.parametrize("call", [lambda: tasks.adds.delay(1), lambda: tasks.adds.delay_many([(1,)])])
async def test_a_coroutine_is_told_not_to_call_it(call: Any) -> None:
    with pytest.raises(SynchronousOnlyOperation):
        call()


def test_a_pipeline_of_the_project_s_own_is_left_alone() -> None:
    connection.ensure_connection()
    assert wire.is_free(connection.connection)
    with connection.connection.pipeline():
        assert not wire.is_free(connection.connection)


def test_a_transaction_that_psycopg_has_still_to_begin_is_begun_by_it() -> None:
    with transaction.atomic():
        tasks.adds.delay(1)
        transaction.set_rollback(True)
    assert not Task.objects.exists()

    kept = tasks.adds.delay(1)
    with transaction.atomic():
        with database.round_trip() as trip:
            trip.send("DELETE FROM cq_task")
        transaction.set_rollback(True)

    assert Task.objects.get().pk == kept.pk


def test_a_list_with_a_wrong_call_makes_nothing_in_an_open_transaction_either() -> None:
    many = [*((n,) for n in range(2500)), (1, 2, 3, 4)]
    with transaction.atomic():
        kept = tasks.adds.delay(1)
        with pytest.raises(Exception, match="too many positional"):
            tasks.adds.delay_many(many)
    with pytest.raises(Exception, match="too many positional"):
        tasks.adds.delay_many(many)

    assert [task.pk for task in Task.objects.all()] == [kept.pk]
