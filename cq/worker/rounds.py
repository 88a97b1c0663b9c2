"""The engine thread of a child: round by round it finishes what has ended, settles, promotes what is due, and claims what fits.

The only thread of the process that writes outcomes in batches, and the only one that claims. It sleeps until a body has ended, a
hint or the keeper has woken it, or something that it knows of is due.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import chain
from math import inf
from uuid import UUID

from django.db import DataError, IntegrityError, OperationalError
from django.db import Error as DatabaseError

from cq import admission, database, engine, executor, lingering, notifier, registry, schedules, settle, states, unique
from cq.admission import Admitted
from cq.conf import conf
from cq.engine import Finished, Wish
from cq.executor import Executed
from cq.failpoints import failpoint
from cq.failure import fit
from cq.interruption import Why
from cq.outcome import Claimed, Outcome, given_back, interrupted
from cq.states import Status
from cq.worker import overdue
from cq.worker.bodies import Bodies, Body
from cq.worker.claims import Claims
from cq.worker.options import WorkerOptions
from cq.worker.recycling import Recycling
from cq.worker.statistics import Statistics
from cq.worker.wakeups import WakeUps

logger = logging.getLogger("cq.worker")
task_logger = logging.getLogger("cq.task")

# While a parent's subtasks end by the hundred, a look at the parent after each would find nothing: pause after a vain one.
_VAIN_SETTLE_PAUSE = 0.02
# A long chain of consequences is settled in pieces, so that tasks are finished and claimed in between.
_SETTLE_BUDGET = 0.1
_LOCKED_PAUSE = 0.05
# Whoever is on a key has it for a moment; a row that was to be admitted may be locked for longer.
_KEY_PAUSE = 0.003
_LONGEST_KEY_PAUSE = 0.1
# A wake-up is mostly about a task to claim. What else there may be to see to waits until that task has had its chance to end.
_LOOK_LATER = 0.01
_LONGEST_BACKOFF = 5.0
_LONGEST_SLEEP = 60.0
# What this process has claimed for so long, it knows of.
_UNKNOWN_AFTER = 1.0
_RECONCILE_SOON = 2.0
# What was interrupted at the end of the grace gets so long to end.
_CANCEL_WITHIN = 1.0
# However often it is said that bodies here were overtaken, it is looked up no oftener.
_CHECK_PAUSE = 0.05


class Rounds(threading.Thread):
    """The engine thread."""

    def __init__(self, process_id: UUID, options: WorkerOptions, *, suspects: bool = False) -> None:
        super().__init__(name="cq-engine", daemon=True)
        self.process_id = process_id
        self.options = options
        self.suspects = suspects
        self.bodies: Bodies
        self.claims = Claims(process_id, options.queues, suspects=suspects)
        self.counts: Counter[str] = Counter()
        self.is_done = threading.Event()
        self._condition = threading.Condition()
        self._ended: list[Body] = []
        self._unwritten: list[Body] = []
        self.wake_ups = WakeUps()
        self._is_stopping = False
        self._interrupt_at: float | None = None
        self._has_interrupted = False
        self._settle_at: float | None = None
        self._vain_until = 0.0
        self._look_at: float | None = None
        self._due_at: float | None = None
        self._retry_at: float | None = None
        self._old_at: float | None = None
        self._failures = 0
        self._broke_at = -inf
        self._reconcile_at: float | None = None
        self._has_ended_runs = False
        self._statistics = Statistics()
        self._recycling = Recycling(options)
        # Tasks that were taken from us while their bodies ran: these bodies are gone now.
        self._gone: set[UUID] = set()
        self._gone_but_locked: set[UUID] = set()
        self._undecided = 0
        self._deciding: set[UUID] = set()
        self._overdue_from = 0.0
        self._is_told = False
        self._check_from = 0.0
        self._check_at: float | None = None
        self._keys: set[str] = set()
        self._keys_asked = False
        self._vain_admissions = 0

    def check(self) -> None:
        """Look which of the bodies here run for claims that no longer hold."""
        with self._condition:
            self._is_told = True
            self._condition.notify()

    def wake(self) -> None:
        """Look at the database in the next round."""
        with self._condition:
            self.wake_ups.put(time.monotonic())
            self._condition.notify()

    def put(self, body: Body) -> None:
        """A body has ended. One that has written its own end, and that nothing follows, wakes nobody here but to claim."""
        ended = []
        with self._condition:
            self.bodies.forget(body)
            must_wake = not self._statistics
            if body.interruption is not None and self._recycling.is_limited:
                self._recycling.note_body()
                self._retire_if_due()
            if _is_quiet(body):
                ended = self._close(body)
            else:
                self._ended.append(body)
            if self._ended or must_wake or self._has_work():
                self._condition.notify()
        if ended:
            notifier.announce(ended)

    def _close(self, body: Body) -> list[UUID]:
        """Do what is left to do for a quiet body; return what has ended with it."""
        self.bodies.marks.end(body.mark)
        finished = body.executed and body.executed.finished
        if not finished:
            self._gone.add(body.task.id)
            return []
        self._count([body], {row.id: row.status for row in finished.moved})
        self._log(finished)
        return [row.id for row in finished.moved if row.has_ended]

    def stop(self, grace: float) -> None:
        """Claim nothing more; after the grace, interrupt what still runs."""
        with self._condition:
            if self._interrupt_at is None:
                self._interrupt_at = time.monotonic() + grace
            self._is_stopping = True
            self.bodies.give_back_waiting()
            self._condition.notify()

    def retire(self) -> None:
        """Claim nothing more, and end when all has ended that was claimed; another process may begin in this one's place."""
        with self._condition:
            if not self._is_stopping:
                self._is_stopping = True
                self.bodies.marks.retired.note(time.monotonic())
            self._condition.notify()

    def _retire_if_due(self) -> None:
        if self._is_stopping or not self._recycling.is_limited:
            return
        if why := self._recycling.why_due(len(self.bodies.known())):
            logger.info("process retires, for %s process=%s", why, self.process_id)
            self.retire()

    def give_up(self, body: Body) -> None:
        """Go on without a body that was interrupted and does not end: only the end of this process can stop it."""
        interruption = body.interruption
        if interruption is None or interruption.has_left:
            return
        logger.error("a body does not end; its process does task=%s name=%s", body.task.id, body.task.name)
        with self._condition:
            self.bodies.let_linger(body)
            self.retire()
            self.stop(self.options.grace)
            if interruption.why is not Why.TIMEOUT:
                return
            self._undecided += 1
        overdue.decide([body.task], lambda outcome: self._replace(body, outcome), interruption)

    def _replace(self, body: Body, outcome: Outcome) -> None:
        """Let a task go on without its body."""
        seconds = time.monotonic() - body.claimed_at
        executed = Executed(outcome._replace(lingers_in=self.process_id))
        stand_in = Body(body.task, body.is_coroutine, executed=executed, seconds=seconds, is_stand_in=True)
        with self._condition:
            self._undecided -= 1
            if body.executed is None:
                self._ended.append(stand_in)
            self._condition.notify()

    def _finish_overdue(self) -> None:
        """Say how tasks end whose bodies were overdue when their processes were killed for it; several may do so at once."""
        if time.monotonic() < self._overdue_from or self._is_stopping:
            return
        self._overdue_from = time.monotonic() + conf().POLL_INTERVAL / 2
        tasks = [task for task in engine.overdue(registry.names()) if task.id not in self._deciding]
        if tasks:
            self._deciding.update(task.id for task in tasks)
            overdue.decide(tasks, self._end_overdue)

    def _end_overdue(self, outcome: Outcome) -> None:
        with self._condition:
            self._ended.append(Body(outcome.task, False, executed=Executed(outcome), is_stand_in=True))
            self._condition.notify()

    @property
    def has_undecided(self) -> bool:
        """Say whether it ends before it was decided what follows on a timeout here."""
        return self._undecided > 0

    @property
    def has_room(self) -> bool:
        """Say whether this process could claim something."""
        return self._room > 0

    @property
    def _room(self) -> int:
        if self._is_stopping:
            return 0
        room = self.bodies.room
        return (
            room if not self._recycling.is_limited else int(min(room, self._recycling.left(len(self.bodies.known()))))
        )

    def run(self) -> None:
        logger.debug("engine started process=%s", self.process_id)
        database.use_read_committed()
        while not self._can_end():
            self._sleep()
            try:
                self._round()
                self._failures = 0
            except DatabaseError as error:
                self._back_off(error)
        self.is_done.set()
        logger.debug("engine ended process=%s counts=%s", self.process_id, dict(self.counts))

    def _can_end(self) -> bool:
        with self._condition:
            idle = not self._ended and not self._unwritten and not self._must_say
            is_over = self.bodies.is_idle and not self._undecided
            if self.suspects and idle and is_over and not self.claims.has_more and not self.wake_ups.is_pending:
                return True
            return self._is_stopping and idle and (is_over or self._has_given_up())

    def _has_given_up(self) -> bool:
        """Say whether only that is left which nothing but the end of the process can stop."""
        if not self._has_interrupted or self._interrupt_at is None:
            return False
        return time.monotonic() > self._interrupt_at + _CANCEL_WITHIN

    def _sleep(self) -> None:
        with self._condition:
            while self._failures and self._retry_at and (left := self._retry_at - time.monotonic()) > 0:
                self._condition.wait(left)
            while not self._has_work() and (pause := self._pause()) > 0:
                self._condition.wait(pause)

    def _has_work(self) -> bool:
        is_over = self.bodies.is_idle and not self._undecided
        has_stopped = self._must_say or (self._is_stopping and is_over and not self._unwritten)
        is_told = self._is_told and time.monotonic() >= self._check_from
        return bool(
            self._ended
            or self._gone
            or self._is_past(self.wake_ups.due_at)
            or is_told
            or has_stopped
            or (self.claims.has_more and self.has_room)
        )

    def _pause(self) -> float:
        times = [self._retry_at, self._look_at, self._due_at, self._settle_at, self._old_at, self._reconcile_at]
        times += [self._statistics.due_at, self._check_at, self.wake_ups.due_at]
        if self._is_told:
            times.append(self._check_from)
        if self._interrupt_at is not None and not self._has_interrupted:
            times.append(self._interrupt_at)
        elif self._interrupt_at is not None:
            times.append(max(self._interrupt_at + _CANCEL_WITHIN, time.monotonic() + _LOCKED_PAUSE))
        now = time.monotonic()
        return min([_LONGEST_SLEEP, *(at - now for at in times if at is not None)])

    def _back_off(self, error: DatabaseError) -> None:
        self._failures += 1
        pause = min(_LONGEST_BACKOFF, 0.05 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        logger.warning("database unavailable error=%s; next try in %.1f s", database.first_line(error), pause)
        database.mend()
        self._retry_at = time.monotonic() + pause
        self.wake_ups.is_pending = True

    def _round(self) -> None:
        with self._condition:
            ended, self._ended = self._ended, []
            woken = self.wake_ups.take()
        began = time.monotonic()
        self._unwritten += ended
        self._retry_at = None
        if self._interrupt_at is not None and time.monotonic() >= self._interrupt_at and not self._has_interrupted:
            self._interrupt()
        try:
            self._give_back_unknown()
            finished = self._exchange(woken)
            self._end_lingering()
            self._check_claims()
            self._admit()
            self._settle(finished, self._is_past(self._settle_at))
            if self._must_say or self._is_past(self._statistics.due_at):
                self._say_counts()
            if woken:
                is_vain = self.claims.vain > 0 and not finished.moved and not self.claims.has_more
                with self._condition:
                    self.wake_ups.note(began, time.monotonic(), is_vain=is_vain)
            if woken and self._look_at is None:
                self._look_at = time.monotonic() + _LOOK_LATER
            if self._is_past(self._look_at) or self._is_past(self._due_at):
                self._look()
            self._old_at = self._after(self.bodies.too_old())
        except BaseException:
            self.wake_ups.is_pending |= woken
            raise

    def _give_back_unknown(self) -> None:
        """Give back what an exchange that broke off has claimed without our hearing of it, once it is seen.

        Its commit may come long after its connection went away: so again and again for a while, and now and then for ever. A
        process that nothing of the kind has happened to need not look once it has nothing left to do.
        """
        if not self._is_past(self._reconcile_at):
            return
        now = time.monotonic()
        known = [*self.bodies.known(), *(body.task.id for body in [*self._unwritten, *self._ended])]
        holds, lingering_ids = engine.unknown(self.process_id, known, after=_UNKNOWN_AFTER)
        if lingering_ids:
            lingering.end([self.process_id], lingering_ids)
        if holds:
            for task in engine.hand_back(self.process_id, known, before=now - _UNKNOWN_AFTER, is_own=True):
                logger.warning("gave back a claim that nobody here knew of task=%s", task.id)
        is_suspicious = now < self._broke_at + conf().LEASE
        has_broken = self._broke_at > -inf
        again = now + (_RECONCILE_SOON if is_suspicious else conf().LEASE)
        self._reconcile_at = again if has_broken or not self.bodies.is_idle else None

    def _after(self, seconds: float | None) -> float | None:
        return None if seconds is None else time.monotonic() + seconds

    def _is_past(self, at: float | None) -> bool:
        return at is not None and time.monotonic() >= at

    def _interrupt(self) -> None:
        """The grace is over: give back what still runs. Whoever commits first, the body or this, the other is fenced.

        A body that runs on for a moment keeps its place, and its task does not start elsewhere before it is gone.
        """
        self._has_interrupted = True
        for body in self.bodies.interrupt():
            outcome = given_back(body.task)
            if not body.take_start():
                outcome = interrupted(body.task)._replace(lingers_in=self.process_id)
            stopped = Body(body.task, body.is_coroutine, executed=Executed(outcome), is_stand_in=True)
            self._unwritten.append(stopped)

    def _check_claims(self) -> None:
        """Tell bodies whose tasks were taken from us meanwhile: those that run for long now and then, all if we were told."""
        now = time.monotonic()
        is_told = self._is_told and now >= self._check_from
        if not is_told and not self._is_past(self._check_at):
            return
        bodies = self.bodies.begun_before(now if is_told else now - conf().POLL_INTERVAL)
        if is_told:
            self._is_told = False
            self._check_from = now + _CHECK_PAUSE
        self._check_at = None if self.bodies.is_idle else now + conf().POLL_INTERVAL
        if not bodies:
            return
        ids, claims = [body.task.id for body in bodies], [body.task.claims for body in bodies]
        overtaken = lingering.overtaken(self.process_id, ids, claims)
        for body in bodies:
            if body.task.id in overtaken and body.executed is None:
                self.bodies.overtake(body, terminate=overtaken[body.task.id])

    def _end_lingering(self) -> None:
        """Let tasks that were taken from us start elsewhere, now that their bodies here are gone."""
        with self._condition:
            gone, self._gone = self._gone | self._gone_but_locked, set()
        if not gone:
            return
        self._gone_but_locked = gone  # until it is done
        self._gone_but_locked = lingering.end([self.process_id], list(gone))
        if self._gone_but_locked:
            self._retry_at = time.monotonic() + _LOCKED_PAUSE

    def _exchange(self, woken: bool) -> Finished:
        """Write what has ended and claim what fits; keep what somebody has locked for another round."""
        finished = Finished()
        bodies = self._unwritten
        to_write, written = [], []
        for body in _once_each(bodies):
            outcome = body.executed.outcome if body.executed else None
            if outcome is not None:
                to_write.append((body, outcome))
                continue
            written.append(body)
            if body.executed and body.executed.finished:
                finished.add(body.executed.finished)
        outcomes = [outcome for _, outcome in to_write]
        # A link of a chain, or a parent: what follows can be claimed in the same round trip.
        self.claims.has_more |= any(outcome.made or outcome.task.previous_id for outcome in outcomes)
        wish = self.claims.wish(self._room, woken=woken)
        keys = {body.task.key for body in bodies if body.task.key is not None}
        wish = wish and replace(wish, own_keys=[*self._keys, *keys])
        locked = self._write(outcomes, wish, finished) if outcomes or wish else set()
        self._unwritten = [body for body, outcome in to_write if outcome.task.id in locked] if locked else []
        if locked:
            self._retry_at = time.monotonic() + _LOCKED_PAUSE
        moved = {row.id: row.status for row in finished.moved}
        self._let_go(bodies, moved, locked)
        self._keys |= keys
        if any(body.task.scheduled_for is not None for body in bodies):
            self._has_ended_runs = True  # the next tick may wait for it
            self._look_at = 0.0
        with self._condition:
            # A body that was interrupted and ended all the same is counted once.
            self._count(chain((body for body, _ in to_write), written), moved)
        for outcome in outcomes:
            if outcome.delay is not None:  # it is tried again, or it sleeps
                self._expect(outcome.delay)
        if Status.SCHEDULED in moved.values():
            self._look_at = 0.0
        self._log(finished)
        return finished

    def _let_go(self, bodies: Sequence[Body], moved: Mapping[UUID, Status], locked: Set[UUID]) -> None:
        """Forget bodies that are written, or were overtaken: of those somebody may wait to hear that they are gone."""
        for body in bodies:
            if locked and not _is_written(body) and body.task.id in locked:
                continue
            self.bodies.marks.end(body.mark)
            body.mark = None
            if body.is_stand_in:
                self._deciding.discard(body.task.id)
            elif body.task.id not in moved:
                self._gone.add(body.task.id)

    @property
    def _must_say(self) -> bool:
        """Say whether this process, which will soon end, has counts left."""
        return bool(self._statistics) and (self._is_stopping or self.suspects)

    def _say_counts(self) -> None:
        """Write what was counted; what cannot be written is forgotten, and holds up nothing."""
        with self._condition:
            counts = self._statistics.take()
        try:
            engine.count(self.process_id, counts)
        except DatabaseError as error:
            logger.warning("statistics not written error=%s", database.first_line(error))

    def _count(self, bodies: Iterable[Body], moved: Mapping[UUID, Status]) -> None:
        for body in bodies:
            task, executed = body.task, body.executed
            status = moved.get(task.id)
            if status is None or executed is None:
                continue
            # What wrote its own end has returned; what could not be stored has failed all the same.
            kind = "success" if executed.outcome is None else executed.outcome.kind
            if kind == "success" and status == Status.FAILURE:
                kind = "error"
            if kind is not None:
                self._statistics.note(task.queue, task.name, kind, ran=body.seconds, waited=task.waited)

    def _write(self, outcomes: Sequence[Outcome], wish: Wish | None, finished: Finished) -> set[UUID]:
        """Write a list; return the tasks that somebody has locked. A list that fails as a whole is written one by one."""
        asked_at = time.monotonic()
        if wish is not None and self._reconcile_at is None:
            self._reconcile_at = asked_at + conf().LEASE
        try:
            this, claimed, ready, keys_asked = engine.exchange(outcomes, wish)
        except (DataError, IntegrityError) as error:
            if len(outcomes) > 1:
                return set().union(*(self._write([outcome], None, finished) for outcome in outcomes))
            instead = executor.conflicted(outcomes[0], error) or _unstorable(outcomes[0], error)
            return self._write([instead], None, finished)
        except OperationalError as error:
            if not unique.is_busy(error):
                self._broke_at = self._reconcile_at = time.monotonic()
                raise
            if len(outcomes) > 1:
                return set().union(*(self._write([outcome], None, finished) for outcome in outcomes))
            return {outcomes[0].task.id}
        except DatabaseError:
            self._broke_at = self._reconcile_at = time.monotonic()
            raise
        failpoint("rounds.exchanged")
        self._keys_asked = self._keys_asked or keys_asked
        if wish is not None:
            this.queues -= self._start(claimed, wish, ready, asked_at)
        finished.add(this)
        if this.written == len(outcomes):
            return set()
        moved = {row.id for row in this.moved}
        missing = [outcome for outcome in outcomes if outcome.task.id not in moved]
        locked = engine.still_mine(missing)
        self.counts["fenced"] += len(missing) - len(locked)
        self.counts["locked"] += len(locked)
        return locked

    def _admit(self) -> None:
        """Settle the keys of what has ended here, and any that others have asked for: a place may be free for the next one."""
        keys, self._keys = self._keys, set()
        if self._keys_asked:
            self._keys_asked = False
            self._note_admitted(admission.admit_all(_SETTLE_BUDGET))
        elif keys:
            self._note_admitted(admission.admit(sorted(keys)))

    def _note_admitted(self, admitted: Admitted) -> None:
        if admitted.queues:
            self.claims.has_more = True
            notifier.wake(admitted.queues)
        if admitted.next_look:
            self._expect(admitted.next_look)
        self._vain_admissions = 0 if admitted.is_complete or admitted.queues else self._vain_admissions + 1
        if not admitted.is_complete:
            again = time.monotonic() + min(_LONGEST_KEY_PAUSE, _KEY_PAUSE * 2 ** min(self._vain_admissions, 10))
            self._look_at = again if self._look_at is None else min(self._look_at, again)

    def _settle(self, finished: Finished, now: bool) -> None:
        """Settle what was asked for, here or by others, and say who has ended and where there is work."""
        ended = [row.id for row in finished.moved if row.has_ended]
        queues = set(finished.queues)
        if finished.asked and self._settle_at is None:
            self._settle_at = max(time.monotonic(), self._vain_until)
        if now or self._is_past(self._settle_at):
            settled = settle.settle_all(_SETTLE_BUDGET)
            self._settle_at = None if settled.is_complete else time.monotonic()
            self._vain_until = 0.0 if settled.moved else time.monotonic() + _VAIN_SETTLE_PAUSE
            ended += settled.ended
            queues |= settled.queues
        if ended:
            notifier.announce(ended)
        if queues:
            self.claims.has_more = True
            notifier.wake(queues)

    def _look(self) -> None:
        """See to what others have left: requests to settle, and tasks that are due."""
        self._look_at = None
        self._finish_overdue()
        to_settle, seconds = engine.peek()
        self._due_at = None
        if to_settle:
            self._settle(Finished(), True)
            self._note_admitted(admission.admit_all(_SETTLE_BUDGET))
        if seconds is not None and seconds <= 0:
            self._promote()
        elif seconds is not None:
            self._expect(seconds)
        if self.options.scheduler and not self.suspects and not self._is_stopping:
            self._fire()

    def _fire(self) -> None:
        """Decide the ticks that are due, and be awake for the next one. What somebody has locked is left to the poll."""
        seconds = schedules.next_tick()
        if seconds is not None and seconds <= 0:
            fired = schedules.fire_all(_SETTLE_BUDGET)
            self.claims.has_more |= bool(fired.tasks)
            if fired.revoked:
                notifier.announce(fired.revoked)
                self._settle(Finished(), True)
            seconds = schedules.next_tick()
            if fired.decided:
                self._look_at = 0.0  # for their keys, and for what there was no time for
        elif self._has_ended_runs:
            schedules.pause_failing()
        self._has_ended_runs = False
        if seconds is not None and seconds > 0:
            self._expect(seconds)

    def _promote(self) -> None:
        if queues := engine.promote():
            self.claims.has_more = True
            notifier.wake(queues)
        if expired := engine.expire():
            notifier.announce(expired)
            self._settle(Finished(), True)
        self._note_admitted(admission.admit_all(_SETTLE_BUDGET))
        _, seconds = engine.peek()
        if seconds is not None:  # one that is due still is locked by somebody
            self._expect(max(seconds, _LOCKED_PAUSE))

    def _expect(self, seconds: float) -> None:
        at = time.monotonic() + min(max(seconds, 0.0), _LONGEST_SLEEP) + 0.001
        self._due_at = at if self._due_at is None else min(self._due_at, at)

    def _start(self, claimed: Sequence[Claimed], wish: Wish, ready: Sequence[str] | None, asked_at: float) -> set[str]:
        """Start what was claimed; return the queues that have nothing left."""
        if claimed:
            failpoint("rounds.claimed")
        for task in claimed:
            task_logger.debug("started task=%s name=%s attempt=%s", task.id, task.name, task.attempt)
            self.bodies.start(task, asked_at)
        if claimed:
            time.sleep(0)  # whoever has just been woken needs the interpreter more than what is left to do here
        with self._condition:
            if self._recycling.is_limited and self._recycling.left(len(self.bodies.known())) <= 0:
                self._retire_if_due()
        if claimed and self._check_at is None:
            self._check_at = time.monotonic() + conf().POLL_INTERVAL
        empty, left_to_others = self.claims.note(wish, claimed, ready)
        if left_to_others:
            notifier.wake(left_to_others)
        return empty

    def _log(self, finished: Finished) -> None:
        if task_logger.isEnabledFor(logging.INFO):
            for row in finished.moved:
                task_logger.info("task=%s status=%s", row.id, row.status.value)


def _once_each(bodies: Sequence[Body]) -> Iterable[Body]:
    """Leave out what stands in for a body that has ended all the same: then its own outcome counts."""
    if not any(body.is_stand_in for body in bodies):
        return bodies
    in_turn = sorted(bodies, key=lambda body: body.is_stand_in)
    return {(body.task.id, body.task.claims): body for body in reversed(in_turn)}.values()


def _is_written(body: Body) -> bool:
    return body.executed is None or body.executed.outcome is None


def _is_quiet(body: Body) -> bool:
    """Say whether a body has left nothing to be written, settled or claimed."""
    finished = body.executed and body.executed.finished
    follows = body.task.scheduled_for is not None or (finished and (finished.asked or finished.queues))
    return _is_written(body) and body.task.key is None and not follows


def _unstorable(outcome: Outcome, error: DatabaseError) -> Outcome:
    """The database refused what the body left: that is the body's failure, and would be again."""
    return Outcome(
        outcome.task,
        states.FAIL,
        "error",
        error=fit(f"What the body left cannot be stored: {error}".strip()),
        exception="cq.exceptions.NotSerializable",
    )
