"""Watches over coroutines: ends those whose time is over, and leaves a loop to the one of them that blocks it.

A coroutine whose time is over is cancelled, and its slot is free though it may go on. When the loop does not answer by
then, one of the coroutines blocks it: that one is charged for its time, the others go back to the queue uncharged, and
there is a new loop. Where several pools share the loop, the one that finds it blocked has it replaced, and each takes
from it what is its own.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Final, Protocol

from qbridge_core.contract.message import Delivery
from qbridge_core.execute import loopthread
from qbridge_core.execute.coroutines import AsyncHandler
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.frames import calls
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Stalled
from qbridge_core.task.run import Run
from qbridge_core.work.coroutinechores import HeldTask
from qbridge_core.work.job import Job

_log: Final = logger("qbridge.worker")
_LOOK_EVERY: Final = 0.1
_LOOK_FOR_ENDED: Final = 1.0
_ASK_EVERY: Final = 5.0
_LAST_STARTED: Final = 1.0
"""Runs are looked at in the order of their start, give or take so many seconds."""
_OURS: Final = (loopthread.__file__, os.path.join(os.path.dirname(__file__), "coroutinepool.py"))
"""Through these a handler is called."""


class Holder(Protocol):
    """Who has the coroutines."""

    job: Job

    def settle(self, held: HeldTask, action: Callable[[], object]) -> None:
        """Have a thread settle it."""
        ...

    def refill(self) -> None:
        """Have the loop start more of them."""
        ...

    def ended(self, held: HeldTask, loop: LoopThread, error: BaseException | None) -> None:
        """In the loop: a coroutine has ended, so see to its settlement, unless somebody else does."""
        ...

    def fail(self, error: BaseException) -> None:
        """Keep the first error, and end with it."""
        ...


class CoroutineWatch:
    """The watch over the coroutines of a pool.

    Args:
        pool: has them.
        handler: has the loop that they run on.
        held_tasks: those that are not settled, in the order of their start, nearly.
    """

    def __init__(self, pool: Holder, handler: AsyncHandler, held_tasks: Iterable[HeldTask]) -> None:
        self._pool = pool
        self._consequences = pool.job.consequences
        self._hand_back = pool.job.settler.hand_back
        self._shortest = pool.job.shortest_timeout
        self._handler = handler
        self._held = held_tasks
        handler.runs_on = self._runs_on
        self._replaced = 0
        self._asked: LoopThread | None = None
        self._look_at = self._ask_at = 0.0
        self._overdue: dict[HeldTask, None] = {}
        """Their time is over, and the loop has not cancelled them yet; whoever takes one out settles it."""

    def look(self, now: float) -> float:
        """End the runs whose time is over, and give up what hangs; return the seconds until the next one can be."""
        if self._replaced != self._handler.replaced:  # before those are late whose loop another pool has replaced
            _say_what_goes_back(self._take_from_replaced())
        wait = self._expire_runs(now)
        if now > self._look_at:
            self._look_at = now + _LOOK_FOR_ENDED
            self._find_ended()
        if now > self._ask_at:
            self._ask_at = now + _ASK_EVERY
            self._ask()
        return min(wait, _LOOK_EVERY) if self._look_at_loop(now) else wait

    def stalled(self, now: float) -> list[Stalled]:
        """Whether the loop answers. Waits for nobody."""
        loop = self._asked
        return [] if loop is None or loop.replaced or loop.stopping else [loop.stalled(now)]

    def _ask(self) -> None:
        """Find out whether the loop turns; only then is it known that one without a late task does."""
        loop = self._handler.loop()
        self._asked = loop
        if loop is not None and loop.opened_at < math.inf:
            loop.ask(_ASK_EVERY / 2)  # others may have asked

    def take_overdue(self) -> list[HeldTask]:
        """Take over what is not cancelled yet."""
        return [held for held in list(self._overdue) if self._takes_overdue(held)]

    def _expire_runs(self, now: float) -> float:
        wait = self._shortest
        for held in list(self._held):
            run, loop = held.run, held.loop
            if run is None or loop is None or run.awaits_turn:
                continue
            left = run.deadline - now
            if left > 0:
                wait = min(wait, left)
                others = left - (run.terms.timeout - self._shortest)  # until one that has started later may be late
                if others > _LAST_STARTED:
                    wait = min(wait, others)
                    break  # they are in the order of their start, nearly
            elif run.cancel():
                self._expire(held, loop)
        return wait

    def _expire(self, held: HeldTask, loop: LoopThread) -> None:
        """Have the loop cancel a coroutine, whose run this pool has the right to settle."""
        self._overdue[held] = None
        if held.run is not None:
            self._pool.job.abandoned.watch(held.run)
        if loop.replaced and held.run is not None:
            self._take(held, held.run, loop)
            return
        loop.ask()
        loop.post(functools.partial(self.cancel, held, loop))

    def cancel(self, held: HeldTask, loop: LoopThread) -> None:
        """In the loop: end a coroutine whose result no longer counts."""
        try:
            if held.task is not None:
                loop.cancelled[held] = monotonic(), self._handler
                held.task.cancel()
            self._charge_overdue(held, None)
            if loop.replaced:
                self.leave(loop)
        except BaseException as exc:  # noqa: BLE001 - no slot is lost in silence
            self._pool.fail(exc)

    def _charge_overdue(self, held: HeldTask, stack: FrameType | None) -> None:
        run = held.run
        if self._takes_overdue(held) and run is not None:
            self._pool.settle(held, functools.partial(self._consequences.timed_out, run, stack))

    def _takes_overdue(self, held: HeldTask) -> bool:
        try:
            del self._overdue[held]
        except KeyError:
            return False  # somebody else was quicker
        return True

    def _find_ended(self) -> None:
        """Look for coroutines that have ended without having said so: most were cancelled before their first step."""
        for held in list(self._held):
            task, loop = held.task, held.loop
            if task is not None and loop is not None and task.done():
                loop.post(functools.partial(self._end, held, task, loop))

    def _end(self, held: HeldTask, task: asyncio.Task[None], loop: LoopThread) -> None:
        """In the loop: see to a task whose coroutine does not."""
        try:
            if held.task is task:
                error = None if task.cancelled() else task.exception()
                self._pool.ended(held, loop, error or asyncio.CancelledError())
        except BaseException as exc:  # noqa: BLE001 - no slot is lost in silence
            self._pool.fail(exc)

    def _look_at_loop(self, now: float) -> bool:
        """Replace the loop when it is blocked; True while that is not known."""
        loop = self._handler.loop()
        if loop is None or not loop.was_asked or not (self._overdue or _is_silent(loop, self._shortest, now)):
            return False
        if loop.is_blocked():
            self._replace(loop)
            return False
        return True

    def _replace(self, loop: LoopThread) -> None:
        """Leave a loop to what blocks it."""
        self._handler.replace(loop)
        _report(loop.blocked_by, loop.blocker().stack, len(self._take_from_replaced()))

    def _take_from_replaced(self) -> list[Delivery]:
        """Take what is to go on from loops that were replaced; what goes back to the queue."""
        self._replaced = self._handler.replaced  # before the look: what is replaced meanwhile has another look
        go_back = [
            held.delivery
            for held in list(self._held)
            if held.run is not None
            and held.loop is not None
            and held.loop.replaced
            and self._take(held, held.run, held.loop)
        ]
        self._pool.refill()
        return go_back

    def _take(self, held: HeldTask, run: Run, loop: LoopThread) -> bool:
        """Take a coroutine from a loop that was replaced, unless it has blocked that: it keeps its time.

        Whether it goes back, uncharged.
        """
        overdue = self._takes_overdue(held)
        if not overdue and (run is loop.blocked_by or not run.cancel()):
            return False  # or it has just ended
        goes_back = run is not loop.blocked_by and (loop.blocked_by is not None or not overdue)
        if goes_back:
            self._pool.job.abandoned.watch(run, is_late=False)
            self._pool.settle(held, functools.partial(self._hand_back, held.delivery))
        else:
            stack = loop.blocker().stack
            self._pool.settle(held, functools.partial(self._consequences.timed_out, run, stack))
        loop.post(functools.partial(self.cancel, held, loop))
        return goes_back

    def _runs_on(self, loop: LoopThread) -> bool:
        """In any thread: whether a coroutine runs there whose result counts."""
        return any(held.loop is loop for held in list(self._held))

    def leave(self, loop: LoopThread) -> None:
        """In a loop that was replaced: end it when nothing runs there whose result counts."""
        if not loop.stopping and not self._handler.needs(loop):
            loop.stop()


def _is_silent(loop: LoopThread, shortest: float, now: float) -> bool:
    """Whether it is in what is no task for longer than a task may take: no deadline of a task ends that."""
    patience = max(shortest, _ASK_EVERY)  # a machine that is busy may not turn it for a moment
    return loop.stalled(now).seconds > patience and loop.blocker().run is None


def _report(blocker: Run | None, stack: FrameType | None, others: int) -> None:
    """Say who blocks the loop, and where."""
    name = "something that is no task" if blocker is None else f"task {blocker.task_id} of {blocker.delivery.queue}"
    _log.error(
        "the event loop of the handlers is blocked by %s; there is a new one, and %d tasks that waited on the old one "
        "go back to the queue, nothing counted. It is blocked at %s",
        name, others, _where(stack), extra={} if blocker is None else blocker.log_fields(),
    )  # fmt: skip


def _say_what_goes_back(deliveries: Sequence[Delivery]) -> None:
    """Say what the end of a loop means to a pool that has not found it blocked."""
    if deliveries:
        _log.warning(
            "%d tasks of %s go back to the queue, nothing counted: the event loop that they share is blocked",
            len(deliveries), deliveries[0].queue,
        )  # fmt: skip


def _where(stack: FrameType | None) -> str:
    """A stack in one line, from the handler inwards, since a log has one line for each record."""
    found = calls(stack) if stack is not None else []
    ours = [number for number, call in enumerate(found) if call.filename in _OURS]
    inner = found[ours[-1] + 1 :] if ours else found
    return ", ".join(f"{call.filename}:{call.lineno} in {call.name}" for call in inner) or "an unknown place"
