"""Pause a queue at run time, and let it go on: for commands, the admin, and code.

From a paused queue nothing is claimed; what runs already goes on, and what is enqueued waits. What was said here last counts, and
`CQ["QUEUES"][name]["paused"]` as long as nothing was.
"""

from __future__ import annotations

from cq import database, notifier, sql
from cq.conf import conf
from cq.options import check_queue, check_queue_name


def pause(name: str) -> bool:
    """Let no worker take anything from a queue; False if it was paused already. `InvalidOption` if there is no such queue."""
    return _say(name, paused=True)


def resume(name: str) -> bool:
    """Let workers take tasks from a queue again; False if it was not paused. They hear of it when this commits."""
    is_changed = _say(name, paused=False)
    if is_changed:
        database.on_commit(lambda: notifier.wake([name]))
    return is_changed


def is_paused(name: str) -> bool:
    """Say whether nothing is taken from a queue now."""
    ((paused,),) = database.execute(sql.IS_PAUSED, name, name in conf().paused_queues)
    return bool(paused)


def _say(name: str, *, paused: bool) -> bool:
    _check(name)
    return bool(database.execute(sql.PAUSE, name, paused, name, name in conf().paused_queues, paused))


def _check(name: str) -> None:
    """Refuse a queue that there is not; one of which something was said before may have left the settings since."""
    if not database.execute(sql.HAS_QUEUE, check_queue_name(name)):
        check_queue(name)
