"""The transaction that a body runs in: whether it was used, and whether it is still the one that CQ opened."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from math import inf
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic
from psycopg.pq import TransactionStatus

from cq import database, engine
from cq.exceptions import NotAllowedHere, TransactionBroken

ENDED = "The body closed its connection or ended its transaction; what it wrote may be lost, or kept by halves."
_CHANGES_SESSION = re.compile(
    r"\s*(?:SET\s+(?!LOCAL|TRANSACTION|CONSTRAINTS)|SELECT\s+set_config\(.*,\s*false\s*\)|DISCARD\s|DEALLOCATE\s)",
    re.IGNORECASE,
)
_BEFORE_THE_FIRST_WORD = re.compile(r"\A(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_ENDS_TRANSACTIONS = ("COMMIT", "ROLLBACK", "BEGIN", "END", "ABORT", "START TRANSACTION", "PREPARE TRANSACTION")
# Among bodies that follow each other closely: it takes longer than some of them.
_LOOK_EVERY = 0.1


class Block:
    """The atomic block that a thread's bodies run in.

    With `is_kept`, it stays open from one body to the next for as long as none uses it: on the server nothing is begun, and
    to enter and leave it costs as much as all the rest around a short body.
    """

    def __init__(self, *, is_kept: bool = False) -> None:
        self.is_kept = is_kept
        self._atomic: Atomic | None = None
        self._looked_at = -inf

    @property
    def is_open(self) -> bool:
        """Say whether a transaction would begin with the next statement."""
        return self._atomic is not None

    def renew(self) -> None:
        """Leave a connection that PostgreSQL has ended since the last body: the next one shall not fail for that.

        Only between the bodies of a thread of ours; elsewhere somebody may have a transaction open.
        """
        now = time.monotonic()
        if self.is_kept and now > self._looked_at + _LOOK_EVERY:
            self._looked_at = now
            if database.is_lost():
                self.drop()
                database.mend()

    def enter(self) -> None:
        """Open it, unless it is open still."""
        if self._atomic is None:
            atomic = database.atomic()
            atomic.__enter__()
            self._atomic = atomic

    def leave(self, error: BaseException | None = None) -> None:
        """Commit, or with an error roll back."""
        atomic, self._atomic = self._atomic, None
        if atomic is not None:
            atomic.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def drop(self) -> None:
        """Leave it without a word: its connection is thrown away."""
        self._atomic = None

    def leave_unused(self) -> None:
        """Leave it to the next body, if that may have it."""
        if not self.is_kept:
            self.leave()


class Watch:
    """Notes whether a body used its database connection, and keeps it from ending the transaction that CQ has opened."""

    def __init__(self, connection: BaseDatabaseWrapper, *, forbids: bool = True) -> None:
        self.forbids = forbids
        self.connection = connection
        self.hooks = len(connection.run_on_commit)
        self.saw_statement = False
        self.has_marked = False
        self.changes_session = False
        self.depth = depth(connection)

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        self.saw_statement = True
        self.changes_session = self.changes_session or bool(_CHANGES_SESSION.match(str(sql)))
        if not self.forbids:
            return execute(sql, params, many, context)
        words = _BEFORE_THE_FIRST_WORD.sub("", str(sql), count=1)[:40].upper()
        if words.startswith(_ENDS_TRANSACTIONS) and not words.startswith("ROLLBACK TO"):
            raise NotAllowedHere(
                f"{words.split()[0]} in an atomic task: CQ commits its work together with its completion. "
                "Use transaction.atomic() for a part, or @task(atomic=False)."
            )
        if self.has_marked:
            return execute(sql, params, many, context)
        self.has_marked = True
        engine.mark()
        return execute(sql, params, many, context)

    @property
    def has_used(self) -> bool:
        """Say whether there is anything to commit: then completion commits with it."""
        return (
            self.saw_statement or len(self.connection.run_on_commit) > self.hooks or _is_in_transaction(self.connection)
        )

    def check(self) -> None:
        """Find a transaction that was ended behind Django's back."""
        if depth(self.connection) != self.depth:
            raise TransactionBroken(
                "The body left a transaction open; it was rolled back. Use transaction.atomic() as a context."
            )
        if self.connection.closed_in_transaction or (self.saw_statement and not _is_in_transaction(self.connection)):
            raise TransactionBroken(ENDED)
        if self.connection.needs_rollback or _status(self.connection) == TransactionStatus.INERROR:
            raise TransactionBroken(
                "The body caught a database error and went on: its transaction can only be rolled back. "
                "Put the statement that may fail into its own transaction.atomic()."
            )


def _is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    return _status(connection) in _OPEN


def _status(connection: BaseDatabaseWrapper) -> int:
    raw: Any = connection.connection
    return TransactionStatus.UNKNOWN if raw is None else int(raw.pgconn.transaction_status)


_OPEN = frozenset({TransactionStatus.ACTIVE, TransactionStatus.INTRANS, TransactionStatus.INERROR})

OUTSIDE = (0, False)


def depth(connection: BaseDatabaseWrapper) -> tuple[int, bool]:
    """Say how deep in transactions a connection is."""
    if connection.in_atomic_block:
        return len(connection.savepoint_ids) + 1, False
    is_open = connection.connection is not None and not connection.autocommit
    return 0, is_open or _is_in_transaction(connection)
