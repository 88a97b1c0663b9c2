"""The one way to PostgreSQL: which connection holds CQ's tables, and how a statement of `sql.py` is sent over it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import psycopg
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from cq.conf import conf

# A statement that is sent so often on a connection is worth a plan that is kept; so many plans are …
_PREPARE_AFTER = 2
_MOST_PLANS = 16
# … and for so many seconds: a plan that was made for a short table is wrong for a long one, and no table grows long so fast.
_KEEP_PLANS_FOR = 1.0
# Connections with no pooler in between.
_unpooled: WeakSet[Any] = WeakSet()


def alias() -> str:
    """Name the database that holds CQ's tables."""
    return conf().DATABASE


def connection() -> BaseDatabaseWrapper:
    """Return this thread's connection to it."""
    return connections[alias()]


def execute(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Send one statement; return its rows, or an empty list where it has none."""
    with connection().cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.pgresult.nfields else []


class RoundTrip:
    """Statements on their way together; their results can be read once they are through."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.threshold = raw.prepare_threshold
        self.own_threshold = _PREPARE_AFTER if raw in _unpooled else self.threshold
        # A plan belongs to its text.
        self.age = "" if self.own_threshold is None else f" -- {time.monotonic() // _KEEP_PLANS_FOR:.0f}"

    def send(self, statement: str, *parameters: Any) -> Any:
        """Send a statement; return the cursor that will hold its rows."""
        cursor = psycopg.Cursor(self.raw)
        self.raw.prepare_threshold = self.own_threshold
        try:
            cursor.execute(statement + self.age, parameters)
        finally:
            self.raw.prepare_threshold = self.threshold
        return cursor

    def send_unkept(self, statement: str, *parameters: Any) -> Any:
        """Do the same without keeping a plan: where there is none, or what the statement reads grows in this round trip."""
        cursor = psycopg.Cursor(self.raw)
        cursor.execute(statement, parameters, prepare=False)
        return cursor

    def commit(self) -> None:
        """Commit with the statements before it; Django's own commit finds nothing left to do, and runs what waits for it."""
        self.send_unkept("COMMIT")


@contextmanager
def round_trip() -> Iterator[RoundTrip]:
    """Send several statements in one round trip: true together or not at all, or part of the transaction that is open."""
    own = connection()
    own.ensure_connection()
    raw: Any = own.connection
    is_whole = not own.in_atomic_block
    with own.wrap_database_errors:
        try:
            with raw.pipeline():
                trip = RoundTrip(raw)
                if is_whole:
                    trip.send_unkept("BEGIN ISOLATION LEVEL READ COMMITTED")
                yield trip
                if is_whole:
                    trip.commit()
        except BaseException:
            if is_whole and not raw.closed and _is_open(raw):
                raw.rollback()
            raise


def _is_open(raw: Any) -> bool:
    return bool(raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE)


def atomic() -> Atomic:
    """Make what follows true together."""
    return transaction.atomic(using=alias())


def on_commit(effect: Callable[[], object]) -> None:
    """Do this once the transaction has committed, at once if there is none."""
    transaction.on_commit(effect, using=alias())


def in_transaction() -> bool:
    """Say whether this thread is inside a transaction of its own making."""
    return connection().in_atomic_block


def slices(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut a list so that no statement gets too large."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def keep_plans(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Let PostgreSQL keep the plans of what is sent in round trips for a second; a receiver of `connection_created`, for workers.

    To parse and plan these statements takes longer than to carry them out. Only where nobody stands in between: a pooler, which
    gives each transaction another session, invents the process id that a client is told. A project that has set
    `OPTIONS["prepare_threshold"]`, if only to None, has decided.
    """
    raw = connection.connection
    if connection.alias == alias() and "prepare_threshold" not in connection.settings_dict["OPTIONS"]:
        ((backend_pid,),) = raw.execute("SELECT pg_backend_pid()")
        if backend_pid == raw.info.backend_pid:
            raw.prepared_max = _MOST_PLANS
            _unpooled.add(raw)


def use_read_committed() -> None:
    """Make this thread's connection, which only CQ uses, READ COMMITTED whatever the project's default is."""
    own = connection()
    options = {**own.settings_dict["OPTIONS"], "isolation_level": psycopg.IsolationLevel.READ_COMMITTED}
    own.settings_dict = {**own.settings_dict, "OPTIONS": options}
    own.close()


@contextmanager
def read_committed() -> Iterator[None]:
    """Make what follows true together, each statement seeing what was committed before it: the proofs need that."""
    own = connection()
    is_whole = not own.in_atomic_block
    with atomic():
        if is_whole and own.connection.isolation_level != psycopg.IsolationLevel.READ_COMMITTED:
            execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield


def mend() -> None:
    """Close this thread's connection, whatever state it is in; the next statement opens another."""
    broken = connection()
    broken.in_atomic_block = False
    broken.savepoint_ids = []
    broken.atomic_blocks = []
    broken.needs_rollback = False
    broken.run_on_commit = []
    broken.closed_in_transaction = False
    broken.errors_occurred = False
    try:
        broken.close()
    except Error:
        broken.connection = None


def first_line(error: Exception) -> str:
    """Return what an error says in one line; psycopg's texts have several."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
