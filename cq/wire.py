"""Statements on a connection of the project's without psycopg's cursors, which cost more than many of our statements.

psycopg connects, adapts values and waits; between, this speaks libpq (`psycopg.pq`). Only for statements of our own, in a thread
that has the connection to itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.waiting import Ready, Wait, wait

from cq import failpoints

_FAILED = pq.ExecStatus.FATAL_ERROR
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_FORMATS = [PyFormat.AUTO] * 40
# While PostgreSQL is silent, Ctrl-C is heard so often (seconds).
_INTERVAL = 0.1

# A statement that is sent so often is worth a plan, which is kept for so many seconds, and longer until so many rows have come: a
# plan that was made for a short table is wrong for a long one; while little comes, it is as good as ever.
_PLAN_AFTER = 2
_KEEP_PLANS_FOR = 1.0
_KEEP_PLANS_WITHIN = 30


class Reply:
    """The rows that PostgreSQL answers to one statement; there once the round trip is through."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[tuple[Any, ...]] | None = None) -> None:
        self._rows = rows

    def take(self, result: Any, transformer: Any) -> None:
        """Read the answer."""
        self._rows = _rows_of(result, transformer)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return them."""
        if self._rows is None:
            raise RuntimeError("A reply was read before its round trip was through.")
        return self._rows


def _rows_of(result: Any, transformer: Any) -> list[tuple[Any, ...]]:
    if not result.nfields:
        return []
    transformer.set_pgresult(result)
    rows: list[tuple[Any, ...]] = transformer.load_rows(0, result.ntuples, tuple)
    return rows


class Plans:
    """The plans that PostgreSQL keeps for one connection: to make one takes longer than to carry it out."""

    def __init__(self) -> None:
        self._uses: Counter[bytes] = Counter()
        self._names: dict[tuple[bytes, Any], bytes] = {}
        self._until = time.monotonic() + _KEEP_PLANS_FOR
        self._number = 0
        # So many have come since the plans were made.
        self.rows = 0

    def outdated(self) -> list[bytes]:
        """Name the plans that are to be dropped now, and forget them."""
        if time.monotonic() < self._until or self.rows < _KEEP_PLANS_WITHIN:
            return []
        names = list(self._names.values())
        self.clear()
        return names

    def clear(self) -> None:
        """Begin again; numbers go on."""
        self._names.clear()
        self._uses.clear()
        self._until = time.monotonic() + _KEEP_PLANS_FOR
        self.rows = 0

    def find(self, text: bytes, types: Any) -> tuple[bytes | None, bool]:
        """Return the name of a statement's plan, if it has or is worth one, and whether it is new."""
        name = self._names.get((text, types))
        if name is not None:
            return name, False
        self._uses[text] += 1
        if self._uses[text] <= _PLAN_AFTER:
            return None, False
        self._number += 1
        name = self._names[text, types] = b"cq_%d" % self._number
        return name, True

    def forget(self, names: Collection[bytes]) -> None:
        """Do without these plans: it is not known whether they were made."""
        self._names = {key: name for key, name in self._names.items() if name not in names}


_plans: WeakKeyDictionary[Any, Plans] = WeakKeyDictionary()


def keep_plans(raw: Any) -> None:
    """Let PostgreSQL keep plans for this connection; there must be nobody in between who gives it another session."""
    _plans[raw] = Plans()


@lru_cache(maxsize=256)
def _compiled(statement: str) -> bytes:
    """Return a statement with PostgreSQL's own placeholders."""
    first, *others = statement.replace("%%", "\0").split("%s")
    numbered = (f"${number}{part}" for number, part in enumerate(others, 1))
    return "".join([first, *numbered]).replace("\0", "%").encode()


def is_free(raw: Any) -> bool:
    """Say whether a statement can be sent now: nothing is under way, and psycopg has no BEGIN to send first.

    Nor shall psycopg prepare statements: then it knows best, and it drops all that are prepared after a rollback, ours too.
    """
    pgconn = raw.pgconn
    status = pgconn.transaction_status
    is_begun = status == pq.TransactionStatus.INTRANS or (status == pq.TransactionStatus.IDLE and raw.autocommit)
    return bool(raw.prepare_threshold is None and is_begun and pgconn.pipeline_status == pq.PipelineStatus.OFF)


def ask(raw: Any, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Send one statement and return its rows."""
    transformer = Transformer.from_context(raw)
    values = transformer.dump_sequence(parameters, _FORMATS[: len(parameters)])
    raw.pgconn.send_query_params(_compiled(statement), values, transformer.types, transformer.formats)
    return _rows_of(_answers(raw)[0], transformer)


def command(raw: Any, text: str) -> None:
    """Send statements without parameters, with semicolons between."""
    raw.pgconn.send_query(text.encode())
    _answers(raw)


def _answers(raw: Any) -> list[Any]:
    """Receive what comes of what was sent; the error of the first that failed."""
    try:
        results = _wait(raw, _results(raw.pgconn, 1))
    except BaseException:
        if raw.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            _wait(raw, _results(raw.pgconn, 1))
        raise
    for result in results:  # one by itself commits: what is checked only then fails in a second one
        _check(raw, result)
    return results


class RoundTrip:
    """Statements on their way together; their replies can be read once they are through."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._pgconn = raw.pgconn
        self._transformer = Transformer.from_context(raw)
        self._replies: list[Reply] = []
        self._received = 0
        self._is_synced = False
        self._plans = _plans.get(raw)
        self._new_plans: set[bytes] = set()
        self._pgconn.enter_pipeline_mode()
        for name in self._plans.outdated() if self._plans else ():
            self.send_unplanned(f"DEALLOCATE {name.decode()}")

    def send(self, statement: str, *parameters: Any) -> Reply:
        """Send a statement; return what will hold its rows."""
        text = _compiled(statement)
        values = self._transformer.dump_sequence(parameters, _FORMATS[: len(parameters)])
        types, formats = self._transformer.types, self._transformer.formats
        name, is_new = self._plans.find(text, types) if self._plans else (None, False)
        if is_new and name is not None:
            self._new_plans.add(name)
            self._pgconn.send_prepare(name, text, types)
            self._expect()
        if name is None:
            self._pgconn.send_query_params(text, values, types, formats)
        else:
            self._pgconn.send_query_prepared(name, values, formats)
        return self._expect()

    def send_unplanned(self, statement: str, *parameters: Any) -> Reply:
        """Do the same without keeping a plan: where there is none, or what the statement reads grows in this round trip."""
        values = self._transformer.dump_sequence(parameters, _FORMATS[: len(parameters)])
        self._pgconn.send_query_params(_compiled(statement), values, self._transformer.types, self._transformer.formats)
        return self._expect()

    def _expect(self) -> Reply:
        reply = Reply()
        self._replies.append(reply)
        return reply

    def push(self) -> None:
        """Let PostgreSQL have what fits on the way, and answer it, while more is made."""
        self._pgconn.send_flush_request()
        self._pgconn.flush()

    def take(self, reply: Reply) -> list[tuple[Any, ...]]:
        """Return the rows of what was pushed, as soon as they are there; the error of the first statement up to it that failed."""
        number = self._replies.index(reply) + 1
        if number > self._received:
            self._receive(number)
        return reply.rows()

    def failpoint(self, name: str) -> None:
        """Do nothing, unless a test wants something to go wrong here, after what was sent so far has been carried out."""
        if name in failpoints.ACTIVE:
            self.arrive()
            failpoints.failpoint(name)

    def arrive(self) -> None:
        """Have what was sent so far carried out; the error of the first that failed."""
        self._pgconn.send_flush_request()
        self._receive(len(self._replies))

    def end(self) -> None:
        """Have all carried out; the error of the first that failed."""
        self._sync()
        self._receive(len(self._replies) + 1)

    def abandon(self) -> None:
        """Leave the connection as it was found, whatever came of the statements."""
        if self._plans:
            self._plans.forget(self._new_plans)
        if self._pgconn.status == pq.ConnStatus.OK and self._pgconn.pipeline_status != pq.PipelineStatus.OFF:
            self._sync()
            _wait(self._raw, _rest(self._pgconn))
            self._pgconn.exit_pipeline_mode()

    def _sync(self) -> None:
        if not self._is_synced:
            self._is_synced = True
            self._pgconn.pipeline_sync()

    def _receive(self, number: int) -> None:
        """Receive the results of statements up to this number; the last one may be that of the pipeline."""
        results = _wait(self._raw, _results(self._pgconn, number - self._received))
        if self._is_synced:
            self._pgconn.exit_pipeline_mode()
        replies = self._replies[self._received : number]
        self._received = number
        try:
            for result in results:
                _check(self._raw, result)
        except errors.InvalidSqlStatementName:  # somebody has dropped it
            if self._plans:
                self._plans.clear()
            raise
        rows = 0
        for reply, result in zip(replies, results, strict=False):
            reply.take(result, self._transformer)
            rows += result.ntuples
        if self._plans:
            self._plans.rows += rows


def _wait(raw: Any, results: Generator[Any, Any, list[Any]]) -> list[Any]:
    """Wait for results; if a Ctrl-C comes instead, have PostgreSQL stop, so that what is still to come does so at once."""
    try:
        return wait(results, raw.pgconn.socket, _INTERVAL)
    except psycopg.Error:
        raise
    except BaseException:
        with suppress(psycopg.Error):  # what came in between counts, not that
            raw.cancel_safe()
        raise


def _results(pgconn: Any, number: int) -> Generator[Any, Any, list[Any]]:
    """Send what is to be sent, and receive so many results of a pipeline, or of a statement all there are."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    is_pipeline = pgconn.pipeline_status != pq.PipelineStatus.OFF
    results: list[Any] = []
    has_ended = False
    while len(results) < number or not is_pipeline:
        while pgconn.is_busy():
            if (yield Wait.R):
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is not None:
            results.append(result)
        elif has_ended or not is_pipeline:
            break
        has_ended = result is None
    if len(results) < number:
        raise psycopg.OperationalError("the connection was lost before all results had come")
    return results


def _rest(pgconn: Any) -> Generator[Any, Any, list[Any]]:
    """Receive the results of a pipeline up to its end."""
    while (results := (yield from _results(pgconn, 1)))[0].status != _SYNC:
        pass
    return results


def _check(raw: Any, result: Any) -> None:
    if result.status == _FAILED:
        raise errors.error_from_result(result, raw.info.encoding)
