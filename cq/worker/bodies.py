"""Where bodies run: threads for functions, the event loop for coroutines. Says when one has ended; decides nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from queue import SimpleQueue
from uuid import UUID

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

from cq import executor, registry
from cq.executor import Executed, NotStarted
from cq.interruption import Interruption, Why
from cq.outcome import Claimed, given_back, interrupted
from cq.transactions import Block
from cq.worker.marks import Marks
from cq.worker.options import AHEAD_SECONDS, LONGEST_WAIT
from cq.worker.watchdog import Watchdog

logger = logging.getLogger("cq.worker")


@dataclass(slots=True, eq=False)
class Body:
    """One claimed task on its way through this process."""

    task: Claimed
    is_coroutine: bool
    mark: int | None = None
    executed: Executed | None = None
    # When its claim was sent, and when the answer was there.
    asked_at: float = 0.0
    claimed_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    # The way to stop it; None: it has not begun.
    interruption: Interruption | None = None
    # It stands for one that still runs, and says how that one's task goes on without it.
    is_stand_in: bool = False
    is_terminated: bool = False
    _start: list[None] = field(default_factory=lambda: [None])

    def take_start(self) -> bool:
        """Decide that it begins, or that it never will: whoever takes it first."""
        try:
            self._start.pop()
        except IndexError:
            return False
        return True


class Bodies:
    """All that runs in this process."""

    def __init__(
        self,
        *,
        threads: int,
        ahead: int,
        coroutines: int,
        marks: Marks,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[Body], None],
        given_up: Callable[[Body], object] = lambda _: None,
    ) -> None:
        self.marks = marks
        self.loop = loop
        self.ended = ended
        self.running: Mapping[bool, dict[UUID, Body]] = {is_coroutine: {} for is_coroutine in (True, False)}
        # Those that still run although their tasks have moved on without them; this process ends without waiting for them.
        self.lingering: dict[UUID, Body] = {}
        self.watchdog = Watchdog(given_up)
        self._threads = threads
        self._most_ahead = ahead
        self._coroutines = coroutines
        self._waiting: deque[Body] = deque()
        self._may_start: SimpleQueue[None] = SimpleQueue()
        self._duration = AHEAD_SECONDS
        # Since when each thread has been in its body.
        self._began = [inf] * threads
        self._tasks: set[asyncio.Task[None]] = set()
        for number in range(threads):
            threading.Thread(target=self._run_functions, args=[number], name=f"cq-body-{number}", daemon=True).start()

    @property
    def room(self) -> int:
        """How many tasks to claim now: free slots, and a little work ahead where bodies are short."""
        threads = self._threads - len(self.running[False])
        room = min(threads + self._ahead, self._coroutines - len(self.running[True]))
        return room if threads > 0 or room > self._ahead // 4 else 0

    @property
    def is_idle(self) -> bool:
        """Say whether nothing runs or waits to run."""
        return not any(self.running.values())

    @property
    def has_coroutines(self) -> bool:
        """Say whether coroutines are still running."""
        return bool(self.running[True])

    @property
    def _ahead(self) -> int:
        """As much as recent durations justify, that of the bodies which keep all threads included: what waits behind those is not held."""
        duration = max(self._duration, time.monotonic() - max(self._began), 1e-5)
        return min(self._most_ahead, max(0, int(self._threads * (AHEAD_SECONDS / duration - 1))))

    def start(self, task: Claimed, asked_at: float) -> None:
        """Start a body now; there is room, or it was not claimed."""
        definition = registry.find(task.name)
        body = Body(task, definition is not None and definition.is_coroutine, asked_at=asked_at)
        self.running[body.is_coroutine][task.id] = body
        if body.is_coroutine:
            self.loop.call_soon_threadsafe(self._start_coroutine, body)
        elif task.at_most_once and len(self.running[False]) > self._threads:
            self._give_back(body)  # it is never claimed ahead: whoever dies with it unstarted could not prove that
        else:
            self._waiting.append(body)
            self._may_start.put(None)

    def too_old(self) -> float | None:
        """Give back what has waited too long; return in how many seconds the next one will have."""
        while self._waiting:
            try:
                left = self._waiting[0].claimed_at + LONGEST_WAIT - time.monotonic()
                if left > 0:
                    return left
                self._give_back(self._waiting.popleft())
            except IndexError:  # a thread took it
                return None
        return None

    def give_back_waiting(self) -> None:
        """Give back all that has not started."""
        while self._waiting:
            try:
                self._give_back(self._waiting.popleft())
            except IndexError:
                return

    def _give_back(self, body: Body) -> None:
        body.executed = Executed(given_back(body.task))
        self.ended(body)

    def interrupt(self) -> list[Body]:
        """Interrupt all that still runs, and return it. What does not heed that, only the end of the process can stop."""
        self.loop.call_soon_threadsafe(self._cancel_coroutines)
        bodies = [body for body in self._all() if body.executed is None]
        for body in bodies:
            if body.interruption is not None and not body.is_coroutine:
                body.interruption.interrupt(Why.STOPPED)
        return bodies

    def known(self) -> list[UUID]:
        """Return the tasks that this process knows to be its own, or to linger in it."""
        return [*(body.task.id for body in self._all()), *list(self.lingering)]

    def begun_before(self, monotonic: float) -> list[Body]:
        """Return what has been running since then."""
        return [body for body in self._all() if body.interruption is not None and body.claimed_at <= monotonic]

    def _all(self) -> list[Body]:
        return [body for running in self.running.values() for body in list(running.values())]

    def overtake(self, body: Body, *, terminate: bool) -> None:
        """Tell a body that its task is no longer ours, or interrupt it."""
        interruption = body.interruption
        if interruption is None:
            return
        interruption.tell()
        if terminate and not body.is_terminated:
            body.is_terminated = True
            logger.warning("interrupted, for it was revoked task=%s name=%s", body.task.id, body.task.name)
            self.watchdog.stop(body, interruption)

    def let_linger(self, body: Body) -> None:
        """Go on without a body that does not end: its place is not free, but nothing waits for it any more."""
        self.lingering[body.task.id] = body
        self._remove(self.running[body.is_coroutine], body)

    def forget(self, body: Body) -> None:
        """Free the slot of a body that has ended; called by whoever it is handed over to, who sees both as one."""
        self._remove(self.running[body.is_coroutine], body)
        if self.lingering:
            self._remove(self.lingering, body)

    def _remove(self, bodies: dict[UUID, Body], body: Body) -> None:
        if bodies.get(body.task.id) is body:
            del bodies[body.task.id]

    def _run_functions(self, number: int) -> None:
        block = Block(is_kept=True)
        while True:
            self._may_start.get()
            try:
                body = self._waiting.popleft()
            except IndexError:  # it was given back
                continue
            began = time.monotonic()
            if began - body.claimed_at > LONGEST_WAIT:
                self._give_back(body)
                continue
            self._began[number] = began
            body.executed = self._execute(body, block)
            self._began[number] = inf
            body.seconds = time.monotonic() - began
            self._duration += 0.2 * (body.seconds - self._duration)
            self.ended(body)

    def _execute(self, body: Body, block: Block) -> Executed:
        try:
            return executor.execute(body.task, partial(self._begin, body), block)
        except BaseException:  # nothing that a body leaves behind may cost the worker a thread
            logger.exception("a body could not be ended in order task=%s", body.task.id)
            return Executed(interrupted(body.task))

    def _start_coroutine(self, body: Body) -> None:
        if time.monotonic() - body.claimed_at > LONGEST_WAIT:  # another one has kept the loop to itself
            self._give_back(body)
            return
        task = self.loop.create_task(self._run_coroutine(body), name=str(body.task.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_coroutine(self, body: Body) -> None:
        """Run a coroutine; what it calls in threads has a thread and connections of its own."""
        began = time.monotonic()
        try:
            async with ThreadSensitiveContext():
                body.executed = await executor.aexecute(body.task, partial(self._begin, body))
                await sync_to_async(connections.close_all)()
        except asyncio.CancelledError:
            body.executed = body.executed or Executed(interrupted(body.task))
        body.seconds = time.monotonic() - began
        self.ended(body)

    def _cancel_coroutines(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _begin(self, body: Body, interruption: Interruption) -> None:
        if not body.take_start():
            raise NotStarted
        body.mark = mark = self.marks.start(body.task.id, interruption.deadline)
        if body.asked_at < self.marks.handed_back.at:
            raise NotStarted
        interruption.is_watched = True
        body.interruption = interruption
        if interruption.deadline is not None:
            if mark is not None:
                interruption.left = partial(self.marks.leave, mark)
            self.watchdog.watch(body, interruption)
