"""The one way to PostgreSQL: which connection holds CQ's tables, and how a statement of `cq.sql` is sent over it."""

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psycopg
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from cq import wire
from cq.conf import conf
from cq.wire import Reply, RoundTrip

_CANCEL_WITHIN = 0.5


def alias() -> str:
    """Name the database that holds CQ's tables."""
    return conf().DATABASE


def connection() -> BaseDatabaseWrapper:
    """Return this thread's connection to it."""
    return connections[alias()]


def _connected() -> BaseDatabaseWrapper:
    """Return this thread's connection, open, and found alive if the project wants that looked at (`CONN_HEALTH_CHECKS`)."""
    own = connection()
    own.close_if_health_check_failed()
    own.ensure_connection()
    return own


def execute(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Send one statement; return its rows, or an empty list where it has none.

    Whoever watches the connection (a body's transaction, `assertNumQueries`, a debug toolbar) sees it.
    """
    own = _connected()
    if not _is_watched(own) and wire.is_free(own.connection):
        own.validate_no_broken_transaction()
        with own.wrap_database_errors:
            return wire.ask(own.connection, statement, parameters)
    with own.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.pgresult.nfields else []


class _OneByOne:
    """Sends statements where somebody watches the connection."""

    def send(self, statement: str, *parameters: Any) -> Reply:
        return Reply(execute(statement, *parameters))

    def push(self) -> None:
        pass

    def take(self, reply: Reply) -> list[tuple[Any, ...]]:
        return reply.rows()


@contextmanager
def together() -> Iterator[RoundTrip | _OneByOne]:
    """Send several statements: true together or not at all, in the open transaction too; in one round trip if nobody watches."""
    own = _connected()
    if _is_watched(own):
        with atomic():
            yield _OneByOne()
    else:
        with atomic() if own.in_atomic_block else nullcontext(), round_trip() as trip:
            yield trip


def _is_watched(own: BaseDatabaseWrapper) -> bool:
    return bool(own.execute_wrappers or own.queries_logged)


@contextmanager
def round_trip(*, commits: bool = False) -> Iterator[RoundTrip]:
    """Send several statements in one round trip: true together or not at all, or part of the transaction that is open.

    With `commits`, that transaction ends with them; Django's own commit then finds nothing left to do, and runs what waits for it.
    """
    own = _connected()
    raw: Any = own.connection
    is_whole = not own.in_atomic_block
    with own.wrap_database_errors:
        if not is_whole and not _is_open(raw):
            begin()
        trip = RoundTrip(raw)
        try:
            if is_whole:
                trip.send_unplanned("BEGIN ISOLATION LEVEL READ COMMITTED")
            yield trip
            if is_whole or commits:
                trip.send_unplanned("COMMIT")
            trip.end()
        except BaseException:
            trip.abandon()
            if is_whole and not raw.closed and _is_open(raw):
                raw.rollback()
            raise


def begin(first: str = "") -> None:
    """Begin the transaction that is due, if it has not begun, with a first statement in the same round trip."""
    own = connection()
    raw: Any = own.connection
    words = [first] if _is_open(raw) else [_begin(raw), first]
    with own.wrap_database_errors:
        wire.command(raw, "; ".join(filter(None, words)))


def _begin(raw: Any) -> str:
    """Return how psycopg would begin a transaction, as it was told."""
    words = ["BEGIN"]
    if raw.isolation_level is not None:
        words.append(f"ISOLATION LEVEL {psycopg.IsolationLevel(raw.isolation_level).name.replace('_', ' ')}")
    if raw.read_only is not None:
        words.append("READ ONLY" if raw.read_only else "READ WRITE")
    if raw.deferrable is not None:
        words.append("DEFERRABLE" if raw.deferrable else "NOT DEFERRABLE")
    return " ".join(words)


def _is_open(raw: Any) -> bool:
    return bool(raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE)


def atomic() -> Atomic:
    """Make what follows true together."""
    return transaction.atomic(using=alias())


def on_commit(effect: Callable[[], object]) -> None:
    """Do this once the transaction has committed, at once if there is none."""
    transaction.on_commit(effect, using=alias())


def last_on_commit() -> Callable[[], object] | None:
    """Return what this thread's transaction was last told to do once it has committed; None if nothing is."""
    effects: list[Any] = connection().run_on_commit
    return effects[-1][1] if effects else None


def in_transaction() -> bool:
    """Say whether this thread is inside a transaction of its own making."""
    return connection().in_atomic_block


def nesting(own: BaseDatabaseWrapper) -> int:
    """Say how many atomic blocks the thread is in that has this connection."""
    return len(own.savepoint_ids) + 1 if own.in_atomic_block else 0


def slices(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut a list so that no statement gets too large."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def keep_plans(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Let PostgreSQL keep the plans of what is sent in round trips; a receiver of `connection_created`, for workers.

    Only where nobody stands in between: a pooler, which gives each transaction another session, invents the process id that a
    client is told. A project that has set `OPTIONS["prepare_threshold"]`, if only to None, has decided.
    """
    raw = connection.connection
    if connection.alias == alias() and "prepare_threshold" not in connection.settings_dict["OPTIONS"]:
        ((backend_pid,),) = raw.execute("SELECT pg_backend_pid()")
        if backend_pid == raw.info.backend_pid:
            wire.keep_plans(raw)


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


def is_lost() -> bool:
    """Say whether the server has ended this thread's connection, as far as can be seen without asking it.

    On a connection that nothing is under way on, there is nothing to read but that, and now and then a setting that has changed.
    """
    raw: Any = connection().connection
    if raw is None or raw.closed:
        return raw is not None
    socket = select.poll()
    socket.register(raw.fileno(), select.POLLIN)
    try:
        while socket.poll(0):
            raw.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False


def mend() -> None:
    """Close this thread's connection, whatever state it is in; the next statement opens another."""
    _mend(connection())


def _mend(broken: BaseDatabaseWrapper) -> None:
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


def discard() -> None:
    """Throw this thread's connections away, and end what they have running: whatever used them was torn in the middle."""
    for own in connections.all(initialized_only=True):
        if own.alias == alias():
            cancel(own)
        _mend(own)


def cancel(own: BaseDatabaseWrapper) -> None:
    """End what a connection, perhaps another thread's, has running on the server: who waits for it notices nothing else."""
    raw: Any = own.connection
    if raw is None or raw.closed or raw.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
        return
    with suppress(psycopg.Error):
        if hasattr(raw, "cancel_safe"):  # psycopg 3.2; what there was before might wait for ever
            raw.cancel_safe(timeout=_CANCEL_WITHIN)


def first_line(error: Exception) -> str:
    """Return what an error says in one line; psycopg's texts have several."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
