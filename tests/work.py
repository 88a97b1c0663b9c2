"""How much PostgreSQL has to do for something: unlike the time that it takes, that is the same however busy the machine is."""

from collections.abc import Callable

from django.db import connection

_DONE = "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"


def work(do: Callable[[], object]) -> int:
    """Do something, and count the blocks of tables and indexes that were looked at for it.

    By this session, and by all that have ended until then: the others tell of what they do when they like.
    """
    before = _done()
    do()
    return _done() - before


def _done() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(_DONE)
        return int(cursor.fetchone()[0])
