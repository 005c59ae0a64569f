"""What threads do for a task of a coroutine: they decide whether it may run, and see to what becomes of it."""

from __future__ import annotations

import functools
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from qbridge_core.contract.envelope import Task
from qbridge_core.contract.headers import REASON
from qbridge_core.contract.message import Delivery
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.context import current_run
from qbridge_core.task.foreign import Step, Watched
from qbridge_core.task.run import Run, task_id_of
from qbridge_core.task.terms import Terms
from qbridge_core.task.verdict import name_of
from qbridge_core.work.job import Job
from qbridge_core.work.settlingthreads import Chore
from qbridge_core.work.worker import READING_TIME

if TYPE_CHECKING:
    import asyncio


class HeldTask:
    """One delivery, from its start to the confirmation of its settlement.

    Attributes:
        delivery: the message.
        run: its run, when it has one.
        payload: for the handler; None once that has it.
        context: the one that its hooks share; None as long as nothing is in it.
        loop: where its coroutine runs or is about to start; None before and after that.
        task: the coroutine's task, until that ends.
    """

    __slots__ = ("context", "delivery", "loop", "payload", "run", "task")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.run: Run | None = None
        self.payload: Any = None
        self.context: Context | None = None
        self.loop: LoopThread | None = None
        self.task: asyncio.Task[None] | None = None


class Slots(Protocol):
    """What has a slot for each task."""

    job: Job

    def start_soon(self, held: HeldTask) -> None:
        """Have the loop start a coroutine; in one of the threads."""
        ...

    def release(self, held: HeldTask) -> None:
        """A task is settled, in one of the threads: its slot is free."""
        ...


class SettlementChore(Chore):
    """Settles a task.

    Args:
        context: where its hooks are called.
        step: how to settle it; None when it is settled already.
        repeatable: False when it must not be done again from its beginning.
    """

    __slots__ = ("_held", "_pool", "_repeatable", "_step")

    def __init__(
        self, pool: Slots, held: HeldTask, context: Context, step: Step | None, *, repeatable: bool = True
    ) -> None:
        super().__init__(context)
        self._pool, self._held, self._step, self._repeatable = pool, held, step, repeatable

    def do(self, watched: Watched) -> None:
        """Do it."""
        if self._step is not None:
            if self._repeatable:
                watched.do(self._step)
            else:
                self._step.do()
        self._pool.release(self._held)

    def rest(self, step: Step | None) -> Chore:
        """The step is repeated without the call that hangs, unless the task is settled."""
        return SettlementChore(self._pool, self._held, self.context.copy(), step)


class PreparationChore(Chore):
    """Decides whether a task may run, tells of its start, and starts it; as a worker's thread does."""

    __slots__ = ("_held", "_pool", "_task", "_terms")

    def __init__(self, pool: Slots, held: HeldTask, context: Context, task: Task, terms: Terms) -> None:
        super().__init__(context)
        self._pool, self._held, self._task, self._terms = pool, held, task, terms

    def do(self, watched: Watched) -> None:
        """Do it."""
        held, job = self._held, self._pool.job
        delivery = held.delivery
        task_id = self._task.task_id or task_id_of(delivery)
        if not self._may_run(watched, delivery, task_id):
            self._pool.release(held)
            return
        if job.lifecycle.order is not None:
            job.lifecycle.order.wait(task_id)  # before the clock starts
        run = self.run = held.run = Run(delivery, task_id, self._terms)
        held.payload = self._task.payload
        current_run.set(run)
        if not job.dispatcher.ending:
            job.lifecycle.task_started(queue=delivery.queue, task_id=task_id, attempt=run.attempt)

    def after(self) -> None:
        """Start it."""
        if self.run is not None and not self.run.cancelled:  # while a hook took its time
            self._pool.start_soon(self._held)
            self.run = None

    def rest(self, step: Step | None) -> Chore:
        """Only what settles a task calls foreign code that no deadline covers."""
        return SettlementChore(self._pool, self._held, self.context.copy(), step)

    def expired(self) -> Chore:
        """The hook that tells of the start hangs."""
        return _expired(self._pool, self._held, self.context)

    def _may_run(self, watched: Watched, delivery: Delivery, task_id: str) -> bool:
        job = self._pool.job
        if delivery.noted is not None:
            if job.consequences.settle_noted(delivery, delivery.noted):
                return False
        elif REASON in delivery.meta:
            delivery.begin_anew()
        if job.poison is not None and (delivery.crashes or delivery.suspected):
            return bool(watched.do(Step(functools.partial(job.poison.admit, delivery, task_id))))
        return True


class FailureChore(Chore):
    """Finds out what a coroutine's exception asks for, and does it. The exception's own code may hang."""

    __slots__ = ("_error", "_held", "_pool")

    def __init__(self, pool: Slots, held: HeldTask, context: Context, error: BaseException) -> None:
        super().__init__(context)
        self._pool, self._held, self._error = pool, held, error

    def do(self, watched: Watched) -> None:
        """Do it."""
        run, consequences, error = self._held.run, self._pool.job.consequences, self._error
        assert run is not None  # noqa: S101 - it has raised this
        run.deadline = max(run.deadline, monotonic() + READING_TIME)
        run.raised = name_of(type(error))
        self.run = run
        verdict = consequences.read(run, error)
        in_time = run.claim()
        self.run = None
        if in_time:
            watched.do(Step(functools.partial(consequences.failed, run, error, verdict)))
            self._pool.release(self._held)

    def rest(self, step: Step | None) -> Chore:
        """As for each settlement."""
        return SettlementChore(self._pool, self._held, self.context.copy(), step)

    def expired(self) -> Chore:
        """It cannot be read in time."""
        return _expired(self._pool, self._held, self.context)


def _expired(pool: Slots, held: HeldTask, context: Context) -> Chore:
    run, consequences = held.run, pool.job.consequences
    assert run is not None  # noqa: S101 - its time is over
    if run.raised:
        action = functools.partial(consequences.unreadable, run, run.raised)
    else:
        action = functools.partial(consequences.timed_out, run, None)
    return SettlementChore(pool, held, context.copy(), Step(action))
