"""Runs coroutines on an event loop, with no thread for each.

One thread reads messages, as many as slots are free (``coroutinefeeder``), and wakes the loop once for all that have
come. The loop starts them, and acknowledges what succeeds where the client promises that this does not wait. All else
that becomes of a task may wait for the broker or for a user's code, so a few threads do it (``settlingthreads``). A
slot is free again when its task is settled. Late ones are ended by the watch over them (``coroutinewatch``).
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import threading
from collections.abc import Callable, Container, Iterable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Final, cast

from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.headers import REASON
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import NotConnectedError
from qbridge_core.execute.coroutines import AsyncHandler
from qbridge_core.execute.executor import refuse_unstarted
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.forks import end_copy
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Stalled
from qbridge_core.task.context import current_run, current_state
from qbridge_core.task.foreign import Step, Watched, patience
from qbridge_core.task.run import Run, task_id_of
from qbridge_core.work.coroutinechores import FailureChore, HeldTask, PreparationChore, SettlementChore
from qbridge_core.work.coroutinefeeder import CoroutineFeeder
from qbridge_core.work.coroutinewatch import CoroutineWatch
from qbridge_core.work.job import Job
from qbridge_core.work.pool import too_many
from qbridge_core.work.settlingthreads import SettlingThreads
from qbridge_core.work.watch import Bell
from qbridge_core.work.worker import say_late

if TYPE_CHECKING:
    from qbridge_core.work.pooled.suspects import AnyIsolation

_log: Final = logger("qbridge.worker")
_BATCH: Final = 200
"""So many tasks are started before the others on the loop get a turn."""


class CoroutinePool:
    """A fixed number of slots for coroutines; in the place of a :class:`~qbridge_core.work.workerpool.WorkerPool`.

    Call ``expire`` again after the seconds it returns, from one thread.

    Attributes:
        job: what to do.
        error: why it cannot go on.

    Args:
        job: what to do, with an :class:`~qbridge_core.execute.coroutines.AsyncHandler`.
        size: how many tasks run at once.
        max_abandoned: with more coroutines and threads than this that hang the pool has an ``error``.
        bell: rung whenever the watch should look at the pool again.
        isolation: has threads that are watched as well, if there is one.
    """

    def __init__(
        self,
        job: Job,
        size: int,
        max_abandoned: int,
        bell: Bell,
        isolation: AnyIsolation | None = None,
    ) -> None:
        handler = cast("AsyncHandler", job.executor)
        self.job = job
        self._handler = handler
        self._function = handler.function
        self._isolation = isolation
        self._size = size
        self._max_abandoned = max_abandoned
        self._bell = bell
        self._idle = job.dispatcher.idle
        self._take_ready = job.dispatcher.take_ready
        self._pid = os.getpid()
        self._held: dict[HeldTask, None] = {}
        self._acks_at_once = False
        self._feeder = CoroutineFeeder(job.dispatcher, self._start_suspect, self.refill, self.fail, bell)
        self._hungry = self._feeder.hungry
        self._threads = SettlingThreads(size, patience(job.longest_timeout), job.lifecycle, self.fail)
        self._watch = CoroutineWatch(self, handler, self._held)
        handler.moved = bell.notify
        self.error: BaseException | None = None

    # ------------------------------------------------------------------ for the session

    def start(self) -> None:
        """Begin to take messages."""
        self._acks_at_once = self.job.settler.acks_at_once
        self._idle.add(self._size)
        try:
            self._handler.loop()
            self._feeder.start()
        except RuntimeError as exc:  # the system has no thread left
            self.fail(exc)

    @property
    def alive(self) -> bool:
        """True while messages are read or tasks are not settled."""
        return self._feeder.feeding or bool(self._held)

    def running_of(self, queues: Container[str]) -> int:
        """How many handlers run now whose messages came from one of these; those that were given up do not count."""
        return sum(held.loop is not None and held.delivery.queue in queues for held in list(self._held))

    def owns_current_thread(self) -> bool:
        """True in a thread that this one waits for."""
        return threading.get_ident() == self._feeder.ident or self._threads.owns_current_thread()

    def runs(self, run: Run | None) -> bool:
        """True for a run that is not settled."""
        return run is not None and any(held.run is run for held in list(self._held))

    def expire(self) -> float:
        """End the runs whose time is over, and give up what hangs; return the seconds until the next one can be."""
        wait = min(self.job.shortest_timeout, self._threads.expire(), self._watch.look(monotonic()))
        self._feeder.look()
        if self.job.dispatcher.ending:
            self._hungry.set()
            if not self.alive:
                self._threads.close()
        if self._isolation is not None:
            self._isolation.expire()
        self.count_stuck()
        return min(wait, self.job.abandoned.look(monotonic()))

    def count_stuck(self) -> None:
        """Have an error when too many handlers, or hooks and the like, hang."""
        outside = self._threads.hanging + (0 if self._isolation is None else self._isolation.hanging)
        stuck = self._handler.stuck(0) + outside
        if stuck > self._max_abandoned and self.error is None:
            self.error = too_many(stuck, outside)

    def busy(self) -> Iterable[Watched]:
        """See :class:`~qbridge_core.work.pool.Pool`."""
        return self._threads.busy()

    def stalled(self, now: float) -> Iterable[Stalled]:
        """See :class:`~qbridge_core.work.pool.Pool`."""
        return self._watch.stalled(now)

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        taken = [(held, held.run) for held in list(self._held)]
        overdue = self._watch.take_overdue()
        claimed = [run for _, run in taken if run is not None and run.cancel()]
        for held, _ in taken:
            self._cancel_before_leaving(held)
        self._threads.close()
        return claimed + [held.run for held in overdue if held.run is not None]

    def _cancel_before_leaving(self, held: HeldTask) -> None:
        """End a coroutine before the lifespan, where there is one; the loop ends what is left after it."""
        loop = held.loop
        if loop is not None and loop.lifespan is not None:
            loop.post(functools.partial(self._watch.cancel, held, loop))

    # ------------------------------------------------------------------ reading

    def _start_suspect(self, delivery: Delivery) -> None:
        """Start a message in a slot that is taken for it."""
        self._idle.add(-1)
        self._post(functools.partial(self._begin, delivery))

    def refill(self) -> None:
        """Have the loop start what has been read."""
        self._post(self._fill)

    def _post(self, call: Callable[[LoopThread], None]) -> None:
        """Have the loop call this, with itself as the argument."""
        loop = self._handler.loop()
        if loop is not None:  # otherwise it is over, and what is left goes back
            loop.post(functools.partial(self._guarded, loop, call))

    def _guarded(self, loop: LoopThread, call: Callable[[LoopThread], None]) -> None:
        """In the loop: no error is lost in silence."""
        try:
            if loop.replaced:
                self._post(call)
            else:
                call(loop)
        except BaseException as exc:  # noqa: BLE001 - the supervisor raises it
            self.fail(exc)

    # ------------------------------------------------------------------ in the loop

    def _fill(self, loop: LoopThread) -> None:
        """Start what has been read, as far as slots are free."""
        for _ in range(_BATCH):
            if self._idle.value <= 0:
                return
            self._idle.add(-1)
            if not self._begin_next(loop):
                return
        self.refill()

    def _begin_next(self, loop: LoopThread) -> bool:
        """Start the next task in a slot that is free; False when none is there, and the slot is idle."""
        delivery = self._take_ready()
        if delivery is not None:
            self._begin(delivery, loop)
            return True
        self._idle.add(1)
        if not self._hungry.is_set():
            self._hungry.set()
        return False

    def _begin(self, delivery: Delivery, loop: LoopThread) -> None:
        job = self.job
        held = HeldTask(delivery)
        self._held[held] = None
        try:
            task, terms = job.reader.read(delivery)
        except UnfitError as exc:
            self.settle(held, functools.partial(job.consequences.unfit, delivery, exc))
            return
        if (
            job.lifecycle.order is not None
            or delivery.crashes
            or delivery.suspected
            or delivery.noted is not None
            or REASON in delivery.meta
        ):
            self._threads.do(PreparationChore(self, held, self._context_of(held), task, terms))
            return
        held.run = Run(delivery, task.task_id or task_id_of(delivery), terms)
        held.payload = task.payload
        self._start(held, loop)

    def _start(self, held: HeldTask, loop: LoopThread) -> None:
        """Start a coroutine, unless somebody else has its run by now."""
        run = held.run
        assert run is not None  # noqa: S101 - it was made before
        held.loop = loop
        if self.job.dispatcher.ending:
            # Too late to start. The session, which first ends the dispatcher and then takes over what runs, does not
            # miss it either.
            if run.claim():
                self.settle(held, functools.partial(self.job.settler.hand_back, held.delivery))
            return
        if run.cancelled:
            return
        run.await_turn()
        coroutine = self._perform(held, run, loop)
        if held.context is None:
            context = self._handler.context_on(loop).copy()
        else:
            context = self._prepared_context(held.context, loop)
        try:
            if loop.loop.get_task_factory() is None:
                held.task = asyncio.Task(coroutine, loop=loop.loop, context=context)
            else:  # older ones know of no context
                held.task = context.run(loop.loop.create_task, coroutine)
        except BaseException as exc:  # noqa: BLE001 - the task factory may raise anything
            coroutine.close()
            self.ended(held, loop, exc)

    def _prepared_context(self, prepared: Context, loop: LoopThread) -> Context:
        """The context of a task whose hooks were called before it was known which loop it would get."""
        context = prepared.copy()
        context.run(current_state.set, loop.context.get(current_state))
        return context

    async def _perform(self, held: HeldTask, run: Run, loop: LoopThread) -> None:
        """Run the handler, and see to what becomes of its task."""
        error: BaseException | None = None
        run.restart()  # until this first step the loop was others'
        payload, held.payload = held.payload, None
        current_run.set(run)
        if (run_hooks := self.job.run_hooks) is not None:
            run_hooks.enter(run)
            held.context = copy_context()  # the hooks that follow see what these have set
        run.in_handler = True
        try:
            refuse_unstarted(await self._function(payload))
        except GeneratorExit:  # nobody runs this any more; a handler's own is found by ``coroutinewatch``
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises is its failure
            error = exc
        finally:
            run.in_handler = False
            if os.getpid() != self._pid:
                end_copy(error)
            if run.scope is not None:
                run.scope.leave(error)
        try:
            self.ended(held, loop, error)
        except BaseException as exc:  # noqa: BLE001 - no slot is lost in silence
            self.fail(exc)
        # The exception's traceback holds this frame, and this frame the exception: without this the cycle (and with it
        # the payload) would wait for the garbage collector.
        error = None

    def ended(self, held: HeldTask, loop: LoopThread, error: BaseException | None) -> None:
        """A coroutine has ended: see to its settlement, unless somebody else does."""
        run, settler = held.run, self.job.settler
        assert run is not None  # noqa: S101 - it was made before
        held.loop = held.task = None
        if loop.cancelled:
            loop.cancelled.pop(held, None)
        now = monotonic()
        duration, in_time = now - run.started_at, now <= run.deadline
        if error is not None and in_time and not run.cancelled:
            self._threads.do(FailureChore(self, held, self._context_of(held), error))
        elif not run.claim():
            say_late(run, duration)
        elif not in_time:
            self.settle(held, functools.partial(self.job.consequences.timed_out, run, None))
        elif self._acks_at_once and not held.delivery.suspected and settler.acknowledge(run, duration, at_once=True):
            del self._held[held]
            if loop.replaced or loop.loop.get_task_factory() is not None:
                self._idle.add(1)  # a factory may start tasks at once, each one within the one before
                self.refill()
            else:
                self._begin_next(loop)
        else:
            self.settle(held, functools.partial(settler.acknowledge, run, duration), repeatable=False)
        if loop.replaced:
            self._watch.leave(loop)

    # ------------------------------------------------------------------ settling

    def settle(self, held: HeldTask, action: Callable[[], object], *, repeatable: bool = True) -> None:
        """Have a thread settle it."""
        held.loop = None
        self._threads.do(SettlementChore(self, held, self._context_of(held), Step(action), repeatable=repeatable))

    def _context_of(self, held: HeldTask) -> Context:
        """The context in which its hooks are called."""
        if held.context is None:
            held.context = self._handler.context.copy()
            held.context.run(current_run.set, held.run)
        return held.context

    def start_soon(self, held: HeldTask) -> None:
        """Have the loop start a coroutine; in one of the threads."""
        if held.run is not None:
            held.run.await_turn()
        loop = self._handler.loop()
        if loop is not None and loop.opened_at < math.inf:  # otherwise it cannot be late for anybody
            held.loop = loop
        self._post(functools.partial(self._start, held))

    def release(self, held: HeldTask) -> None:
        """A task is settled, in one of the threads: its slot is free."""
        dispatcher = self.job.dispatcher
        self._held.pop(held, None)
        dispatcher.done(held.delivery)
        self._idle.add(1)
        if dispatcher.ending:
            self._hungry.set()
            self._bell.notify()
        elif dispatcher.has_ready:
            self.refill()
        else:
            self._hungry.set()

    def fail(self, error: BaseException) -> None:
        """Keep the first error, and end with it."""
        if self.error is None:
            self.error = error
            if not isinstance(error, NotConnectedError):
                _log.error("a worker thread broke", exc_info=error)
        self._bell.notify()
