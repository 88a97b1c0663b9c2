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
from queue import SimpleQueue
from uuid import UUID

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

from cq import executor, registry
from cq.executor import Executed
from cq.outcome import Claimed, given_back, interrupted
from cq.transactions import Block
from cq.worker.marks import Marks
from cq.worker.options import AHEAD_SECONDS, LONGEST_WAIT

logger = logging.getLogger("cq.worker")


@dataclass(slots=True, eq=False)
class Body:
    """One claimed task on its way through this process."""

    task: Claimed
    is_coroutine: bool
    mark: int | None = None
    executed: Executed | None = None
    claimed_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


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
    ) -> None:
        self.marks = marks
        self.loop = loop
        self.ended = ended
        self.running: Mapping[bool, dict[UUID, Body]] = {is_coroutine: {} for is_coroutine in (True, False)}
        self._threads = threads
        self._most_ahead = ahead
        self._coroutines = coroutines
        self._waiting: deque[Body] = deque()
        self._may_start: SimpleQueue[None] = SimpleQueue()
        self._duration = AHEAD_SECONDS
        self._tasks: set[asyncio.Task[None]] = set()
        for number in range(threads):
            threading.Thread(target=self._run_functions, name=f"cq-body-{number}", daemon=True).start()

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
        return min(self._most_ahead, max(0, int(self._threads * (AHEAD_SECONDS / max(self._duration, 1e-5) - 1))))

    def start(self, task: Claimed) -> None:
        """Start a body now; there is room, or it was not claimed."""
        definition = registry.find(task.name)
        body = Body(task, definition is not None and definition.is_coroutine)
        self.running[body.is_coroutine][task.id] = body
        if body.is_coroutine:
            self.loop.call_soon_threadsafe(self._start_coroutine, body)
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
        """Cancel coroutines; return all that still runs. What is in threads, only the end of the process can stop."""
        self.loop.call_soon_threadsafe(self._cancel_coroutines)
        return [body for running in self.running.values() for body in list(running.values()) if body.executed is None]

    def known(self) -> list[UUID]:
        """Return the tasks that this process knows to be its own."""
        return [task_id for running in self.running.values() for task_id in list(running)]

    def forget(self, body: Body) -> None:
        """Free the slot of a body that has ended; called by whoever it is handed over to, who sees both as one."""
        running = self.running[body.is_coroutine]
        if running.get(body.task.id) is body:
            del running[body.task.id]

    def _run_functions(self) -> None:
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
            body.executed = self._execute(body, block)
            body.seconds = time.monotonic() - began
            self._duration += 0.2 * (body.seconds - self._duration)
            self.ended(body)

    def _execute(self, body: Body, block: Block) -> Executed:
        try:
            return executor.execute(body.task, partial(self._mark, body), block)
        except BaseException:  # nothing that a body leaves behind may cost the worker a thread
            logger.exception("a body could not be ended in order task=%s", body.task.id)
            return Executed(interrupted(body.task))

    def _start_coroutine(self, body: Body) -> None:
        task = self.loop.create_task(self._run_coroutine(body), name=str(body.task.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_coroutine(self, body: Body) -> None:
        """Run a coroutine; what it calls in threads has a thread and connections of its own."""
        began = time.monotonic()
        try:
            async with ThreadSensitiveContext():
                body.executed = await executor.aexecute(body.task, partial(self._mark, body))
                await sync_to_async(connections.close_all)()
        except asyncio.CancelledError:
            body.executed = body.executed or Executed(interrupted(body.task))
        body.seconds = time.monotonic() - began
        self.ended(body)

    def _cancel_coroutines(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _mark(self, body: Body) -> None:
        body.mark = self.marks.start(body.task.id)
