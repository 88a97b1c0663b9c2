"""The supervisor: forks, kills, and watches. One thread, no connection, no user code; so it can always do these three.

What it knows of the dead (which process, whom to blame) it tells the keeper until the keeper says that it is done, also when that
takes several keepers.
"""

from __future__ import annotations

import copy
import gc
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID, uuid4

from django.db import connections

from cq import notifier
from cq.conf import conf
from cq.worker.child import Child, Place, die_with, name_connections
from cq.worker.keeper import Keeper, poke
from cq.worker.marks import Marks, Moment
from cq.worker.messages import Messages
from cq.worker.options import WorkerOptions
from cq.worker.poll import Poll
from cq.worker.watchdog import GIVE_UP_AFTER

logger = logging.getLogger("cq.supervisor")

_TICK = 0.25
# Over the children's own grace, before one that does not answer is killed.
_OVERTIME = 5.0
_LEAVE_WITHIN = 5.0
# A process is not replaced sooner than this after its start: one that dies at once shall not take the machine with it.
_CRASH_LOOP = 1.0
# A child that has not answered for so long does not start what it has claimed, but for what it has claimed within so long: if its
# loop alone is held up, that may just be starting.
_SILENCE = 1.0
_HAND_BACK_AFTER = 0.5
# A child that does not answer gets so long beyond the time in which it would itself have given up a body.
_OVERDUE_MARGIN = 1.0
# So many ids fit into what a pipe takes at once.
_MOST_STARTED = 90
# A lease that could not be renewed for this share of its time is given up: others may take over at its end.
_FENCE_AT = 0.9
# In thousandths of the memory that there is: as if a process took so much more than it does.
_OFFER = 100
_HIGHEST_SCORE = 1000


@dataclass(slots=True)
class Post:
    """A place for one child after another: the pipe that wakes it and the memory it shares stay."""

    number: int
    suspects: bool
    marks: Marks = field(default_factory=Marks)
    pid: int | None = None
    process_id: UUID | None = None
    started: float = 0.0
    not_before: float = 0.0
    is_given_up: bool = False
    read_end: int = -1
    write_end: int = -1

    def __post_init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)


class Supervisor:
    """One `cq_runworker`."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.worker_id = uuid4()
        self.renewal = Moment()
        self.answered = Moment()
        self.heard = Moment()
        self.posts = [Post(number, suspects=False) for number in range(options.processes)]
        # Places of children that have retired, where others have begun already.
        self.retired: list[Post] = []
        self.suspect_posts = [Post(number, suspects=True) for number in range(options.processes)]
        self.life_read, self.life_write = os.pipe()
        self.signal_read, self.signal_write = os.pipe()
        self.keeper_pid: int | None = None
        self.keeper_not_before = 0.0
        self.orders: Messages | None = None
        self.reports: Messages | None = None
        self.pending: dict[int, list[Any]] = {}
        self.number = 0
        self.suspects = 0
        self.stop_signals = 0
        self.stop_by: float | None = None
        self.is_leaving = False

    def run(self) -> int:
        """Run until told to stop; return the exit status."""
        self._prepare()
        try:
            while not self._has_ended():
                self.answered.note(time.monotonic())
                self._reap()
                self._fork_what_is_missing()
                self._wait()
                self._check_lease()
                self._check_answers()
                self._check_times()
                self._check_stop()
        finally:
            self._kill_all()
        return 0

    def _prepare(self) -> None:
        for connection in connections.all(initialized_only=True):
            connection.close()
            if close_pool := getattr(connection, "close_pool", None):
                close_pool()
        for pipe in (self.signal_read, self.signal_write):
            os.set_blocking(pipe, False)
        signal.set_wakeup_fd(self.signal_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._note_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        notifier.preload()
        gc.collect()
        gc.freeze()

    def _note_stop(self, number: int, _frame: object) -> None:
        self.stop_signals += 2 if number == signal.SIGQUIT else 1

    @property
    def _is_stopping(self) -> bool:
        return self.stop_by is not None

    @property
    def _children(self) -> list[Post]:
        return [post for post in (*self.posts, *self.retired, *self.suspect_posts) if post.pid is not None]

    def _has_ended(self) -> bool:
        return self.is_leaving and self.keeper_pid is None

    # Forking and burying.

    def _fork_what_is_missing(self) -> None:
        if self.keeper_pid is None and not self.is_leaving and time.monotonic() >= self.keeper_not_before:
            self._fork_keeper()
        if self._is_stopping:
            return
        self._replace_the_retired()
        wanted = [*self.posts, *self.suspect_posts[: self.suspects]]
        self.suspects = 0
        for post in wanted:
            if post.pid is None and time.monotonic() >= post.not_before:
                self._fork_child(post)

    def _replace_the_retired(self) -> None:
        """Let others begin in the places of children that claim nothing any more; so many at most end beside them."""
        for at, post in enumerate(self.posts):
            if post.pid is not None and post.marks.retired.at and len(self.retired) < len(self.posts):
                self.retired.append(post)
                self.posts[at] = new = copy.copy(post)
                new.marks, new.pid, new.process_id, new.not_before = Marks(), None, None, 0.0

    def _fork_keeper(self) -> None:
        orders_read, orders_write = os.pipe()
        reports_read, reports_write = os.pipe()
        supervisor_pid = os.getpid()
        # Known from its start: it shall hear who was stopped, and is not to blame, before it finds a lease at its end.
        to_do = [[number, *self.pending[number]] for number in sorted(self.pending)]

        def keep() -> None:
            die_with(supervisor_pid)
            name_connections("cq:keeper")
            wake_pipes = [post.write_end for post in self.posts]
            self._close([orders_write, reports_read, *self._own_pipes(), *self._read_ends()])
            orders, reports = Messages(orders_read), Messages(reports_write)
            poll = Poll(self.heard, [post.process_id for post in self._children if post.process_id])
            moments = self.renewal, self.answered
            Keeper(self.worker_id, self.options, orders, reports, wake_pipes, *moments, poll, to_do).run()

        self.keeper_not_before = time.monotonic() + _CRASH_LOOP
        self.keeper_pid = self._fork(keep)
        self._close([orders_read, reports_write])
        self.orders, self.reports = Messages(orders_write), Messages(reports_read)

    def _fork_child(self, post: Post) -> None:
        post.process_id = uuid4()
        post.marks.clear()
        post.started = time.monotonic()
        post.is_given_up = False
        place = Place(
            post.process_id, post.marks, post.read_end, self.life_read, os.getpid(), post.suspects, self.heard
        )

        def work() -> None:
            others = [end for end in self._read_ends() if end != post.read_end]
            writes = [one.write_end for one in (*self.posts, *self.suspect_posts)]
            self._close([*self._own_pipes(), *self._keeper_pipes(), *others, *writes])
            Child(self.options, place).run()

        post.pid = self._fork(work)
        logger.debug("child forked process=%s pid=%s suspects=%s", post.process_id, post.pid, post.suspects)
        self._order("enter", str(post.process_id), post.pid)

    def _fork(self, body: Callable[[], None]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        _run_forked(body)

    def _own_pipes(self) -> list[int]:
        return [self.life_write, self.signal_read, self.signal_write]

    def _keeper_pipes(self) -> list[int]:
        return [messages.fd for messages in (self.orders, self.reports) if messages is not None]

    def _read_ends(self) -> list[int]:
        return [post.read_end for post in (*self.posts, *self.suspect_posts)]

    def _close(self, pipes: list[int]) -> None:
        for pipe in pipes:
            os.close(pipe)

    def _reap(self) -> None:
        """Bury the dead, and tell the keeper whom to blame."""
        for post in self._children:
            status = _exit_status(post.pid)
            if status is not None:
                self._bury(post, status)
        self.retired = [post for post in self.retired if post.pid is not None]
        if self.keeper_pid is not None and (status := _exit_status(self.keeper_pid)) is not None:
            if not self.is_leaving:
                logger.error("keeper died status=%s; another one takes over", status)
            self.keeper_pid = None
            self._close(self._keeper_pipes())
            self.orders = self.reports = None

    def _bury(self, post: Post, status: int) -> None:
        started = [str(task_id) for task_id in post.marks.started()]
        overdue = [str(task_id) for task_id in post.marks.overdue(time.monotonic() - GIVE_UP_AFTER)]
        if status != 0:
            logger.error("child died pid=%s status=%s started=%s overdue=%s", post.pid, status, started, overdue)
        elif post.marks.retired.at:
            logger.info("child retired pid=%s", post.pid)
        elif not post.suspects and not self._is_stopping:
            logger.warning("child ended pid=%s; it is replaced", post.pid)
        self._order("end", str(post.process_id), started, post.is_given_up, overdue)
        has_retired = status == 0 and post.marks.retired.at
        post.not_before = 0.0 if has_retired else post.started + _CRASH_LOOP
        post.pid = post.process_id = None

    # Talking with the keeper.

    def _order(self, *order: Any) -> None:
        self.number += 1
        self.pending[self.number] = list(order)
        if self.orders is not None:
            self.orders.send(self.number, *order)

    def _wait(self) -> None:
        pipes = [self.signal_read, *([self.reports.fd] if self.reports else [])]
        readable, _, _ = select.select(pipes, [], [], _TICK)
        if self.signal_read in readable:
            _drain(self.signal_read)
        if self.reports is not None and self.reports.fd in readable:
            for report in self.reports.receive() or []:
                self._hear(report)

    def _hear(self, report: list[Any]) -> None:
        match report:
            case ["done", number]:
                self.pending.pop(number, None)
            case ["unheard", process_ids]:
                self._stop_the_silent(process_ids)
            case ["suspects", number]:
                self.suspects = min(number, len(self.suspect_posts))
            case ["fenced"]:
                self._fence("the worker was declared dead")
            case ["drained"]:
                self.stop_signals = max(self.stop_signals, 1)
            case _:
                logger.error("unknown report %r", report)

    # Fencing and stopping.

    def _check_lease(self) -> None:
        renewed = self.renewal.at
        if renewed and time.monotonic() - renewed > _FENCE_AT * conf().LEASE:
            self._fence("the lease could not be renewed")

    def _check_answers(self) -> None:
        now = time.monotonic()
        for post in self._children:
            answered = post.marks.answered.at
            if answered and now - max(answered, post.marks.handed_back.at + _HAND_BACK_AFTER) > _SILENCE:
                self._hand_back(post, now - _HAND_BACK_AFTER)

    def _check_times(self) -> None:
        """Kill children in which a body is overdue: those that do not answer soon, the others long after their own grace."""
        now = time.monotonic()
        for post in self._children:
            patience = GIVE_UP_AFTER + _OVERDUE_MARGIN + (0.0 if _is_silent(post, now) else self._longest_end)
            if post.marks.overdue(now - patience):
                self._stop(post, "a body in it is overdue")

    @property
    def _longest_end(self) -> float:
        return self.options.grace + _OVERTIME

    def _stop_the_silent(self, process_ids: list[str]) -> None:
        """Kill children in which bodies go on that were to be interrupted, if they do not answer."""
        for post in self._children:
            if str(post.process_id) in process_ids and _is_silent(post, time.monotonic()):
                self._stop(post, "it does not interrupt what was revoked")

    def _stop(self, post: Post, why: str) -> None:
        logger.error("child is killed, for %s pid=%s", why, post.pid)
        post.is_given_up = True  # what else runs in it is not to blame
        _kill(post.pid)

    def _hand_back(self, post: Post, before: float) -> None:
        """Let others have what a child has claimed before this, but for what it has started: first tell it, then look what that is."""
        post.marks.handed_back.note(before)
        started = [str(task_id) for task_id in post.marks.started()]
        if self.orders is not None and len(started) <= _MOST_STARTED and _is_writable(self.orders.fd):
            self.orders.send(0, "hand_back", str(post.process_id), started, before)

    def _fence(self, why: str) -> None:
        """Others may take over what runs here: kill it all, and begin again under another name."""
        logger.error("%s; all children are killed and the worker starts anew worker=%s", why, self.worker_id)
        for post in self._children:
            post.is_given_up = True  # its tasks are not to blame
        self._kill_all()
        self.renewal.note(0.0)
        self.pending = {number: order for number, order in self.pending.items() if order[0] == "end"}
        self.worker_id = uuid4()

    def _kill_all(self) -> None:
        for post in self._children:
            _kill(post.pid)
            self._bury(post, _wait_for(post.pid))
        if self.keeper_pid is not None:
            _kill(self.keeper_pid)
            _wait_for(self.keeper_pid)
            self.keeper_pid = None
            self._close(self._keeper_pipes())
            self.orders = self.reports = None

    def _check_stop(self) -> None:
        if self.stop_signals and self.stop_by is None:
            self.stop_by = time.monotonic() + self.options.grace + _OVERTIME
            logger.info("stopping; running tasks have %s s", self.options.grace)
        if self.stop_by is None:
            return
        for post in self._children:
            post.marks.stopping.note(time.monotonic())
            poke(post.write_end)
        if self.stop_signals > 1 or time.monotonic() > self.stop_by:
            for post in self._children:
                post.is_given_up = True  # it was told to; its tasks are not to blame
                _kill(post.pid)
        if not self._children and not self.is_leaving:
            self._reap()
            self.is_leaving = True
            self.stop_by = time.monotonic() + _LEAVE_WITHIN
            self._order("leave")
        if self.is_leaving and self.keeper_pid is not None and time.monotonic() > self.stop_by:
            _kill(self.keeper_pid)


def _offer_to_the_kernel() -> None:
    """Be killed before the supervisor when memory runs out (Linux): what is killed here it replaces, what it is killed with, nobody."""
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError):
        score.write_text(str(min(_HIGHEST_SCORE, int(score.read_text()) + _OFFER)))


def _run_forked(body: Callable[[], None]) -> NoReturn:
    """Run the body of a new process and end it, without running anything that the supervisor has left to do at its exit."""
    status = 1
    try:
        _offer_to_the_kernel()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which the programs that a body starts would inherit
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        body()
        status = 0
    except BaseException:
        logging.getLogger("cq.supervisor").exception("process died pid=%s", os.getpid())
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _is_silent(post: Post, now: float) -> bool:
    answered = post.marks.answered.at
    return bool(answered) and now - answered > _SILENCE


def _exit_status(pid: int | None) -> int | None:
    """Return how a child ended, None while it runs; negative: the signal that killed it."""
    if pid is None:
        return None
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if found else None


def _wait_for(pid: int | None) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid or 0, 0)[1])
    except ChildProcessError:
        return 0


def _kill(pid: int | None) -> None:
    """Kill a child of ours that is not yet reaped, so that its id cannot be another's."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_writable(pipe: int) -> bool:
    """Say whether a message of a page can be written without waiting for the reader."""
    return bool(select.select([], [pipe], [], 0)[1])


def _drain(pipe: int) -> None:
    with suppress(BlockingIOError):
        os.read(pipe, 4096)
