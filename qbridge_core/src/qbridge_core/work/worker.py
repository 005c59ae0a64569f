"""Worker threads, and the watch over their timeouts.

The threads are daemons on purpose: a handler that never returns cannot be stopped from outside in CPython, and
``ThreadPoolExecutor`` would make the interpreter wait for it at exit. A worker whose run times out is abandoned to
its handler and replaced at once; what the handler does later changes nothing any more. The same happens to one whose
hook, ``redact`` or backoff does not return (:mod:`qbridge_core.task.foreign`).
"""

from __future__ import annotations

import functools
import sys
import threading
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final, Protocol

from qbridge_core.contract.envelope import MalformedTaskError, read_task
from qbridge_core.contract.headers import REASON, TASK_ID, meta_text
from qbridge_core.contract.message import Delivery, new_id
from qbridge_core.errors import NotConnectedError, TooManyStuckTasksError
from qbridge_core.execute.executor import Executor, refuse_unstarted
from qbridge_core.execute.interrupt.interrupter import interrupter
from qbridge_core.execute.interrupt.late import Late
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.forks import end_copy, process
from qbridge_core.runtime.logs import logger
from qbridge_core.task.context import current_run, current_state
from qbridge_core.task.foreign import GivenUp, Step, Watched, patience
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Verdict, name_of
from qbridge_core.work.intake import Intake
from qbridge_core.work.poison.isolation import Isolation
from qbridge_core.work.poison.observer import current_observer
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.settle import Settler
from qbridge_core.work.watch import Bell

_log: Final = logger("qbridge.worker")

_AT_ONCE: Final = 32
READING_TIME: Final = 1.0
"""Seconds that it may take at least to find out what an exception says."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a pool works with."""

    executor: Executor
    intake: Intake
    settler: Settler
    lifecycle: Lifecycle
    task_timeout: float
    max_message_bytes: int
    poison: PoisonRule | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """What a thread that was given up leaves to the one in its place.

    Attributes:
        delivery: the message.
        step: what is left to be done with it; None when it is settled.
        context: the context of its run.
    """

    delivery: Delivery
    step: Step | None
    context: Context | None


class Worker:
    """One slot: takes deliveries and runs the handler on them, one at a time, in a thread of its own.

    It holds its thread instead of being one: the names of ``threading.Thread`` differ from release to release.

    Args:
        pool: where it belongs; told when this thread is about to end.
        job: what to do.
        rest: what another thread has left, to be done before the first delivery.
    """

    def __init__(self, pool: WorkerPool, job: Job, rest: Rest | None = None) -> None:
        self._thread = threading.Thread(target=self._run, name="qbridge-worker", daemon=True)
        self._pool = pool
        self.running: Run | None = None
        self.delivery: Delivery | None = None
        self.context: Context | None = None
        self.abandoned = False
        self.hangs_outside = False  # in something else than its handler
        self.watched = Watched()
        self._job = job
        self._rest = rest
        self._ending = threading.Lock()
        self._ended = False

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The identifier of the thread, which may belong to another one after the end of this one."""
        return self._thread.ident

    def _run(self) -> None:
        """Work until the intake closes or the watchdog gives this thread up."""
        error: BaseException | None = None
        self.watched.begin()
        current_state.set(self._job.executor.state)
        try:
            self._work()
        except BaseException as exc:  # noqa: BLE001 - the supervisor raises it
            error = None if self.abandoned else exc
        self._end(error)

    def _work(self) -> None:
        executor, intake = self._job.executor, self._job.intake
        if self._rest is not None:
            self._go_on(self._rest)
            self._rest = None
            if self.abandoned:
                return
        if executor.prepare():
            current_observer().ready()
        while not self.abandoned and executor.prepare() and (delivery := intake.take()) is not None:
            # In a context of its own: what one task sets there is nothing to the next one. Its hooks see it too.
            context = self.context = copy_context()
            self.delivery = delivery
            try:
                context.run(self._handle, delivery)
            except GivenUp:
                self.abandoned = True
                return
            finally:
                if not self.abandoned:  # otherwise its replacement does
                    intake.done(delivery)
            self.context = self.delivery = None
            del context, delivery  # an idle worker holds nothing of its last task

    def _go_on(self, rest: Rest) -> None:
        """Do what another thread has left: the broker may be slow, so the watch does not."""
        self.delivery = rest.delivery
        # A copy, for the thread that was given up holds the context itself. Hooks see what the run has set in it.
        self.context = copy_context() if rest.context is None else rest.context.copy()
        try:
            if rest.step is not None:
                self.context.run(self.watched.do, rest.step)
        except GivenUp:
            self.abandoned = True
            return
        finally:
            if not self.abandoned:
                self._job.intake.done(rest.delivery)
        self.context = self.delivery = None

    def _end(self, error: BaseException | None) -> None:
        try:
            self._job.executor.release()
            with self._ending:
                self._ended = True
                if self.ident is not None:
                    interrupter.forget(self.ident)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, a slot is never lost in silence
            error = exc if error is None else error
        finally:
            self._pool.worker_ended(self, error)

    def interrupt(self, run: Run) -> None:
        """Have the executor end a run, or raise HandlerTimeout in this thread when that can be done."""
        executor = self._job.executor
        if not executor.in_thread:
            executor.cancel(run)
            return
        with self._ending:  # a thread that has ended may have left its identifier to an innocent one
            if executor.own is not None and self.ident is not None and not self._ended:
                interrupter.interrupt(Late(self.ident, executor.own, _ENTRY, lambda: run.in_handler))

    def _handle(self, delivery: Delivery) -> None:
        job = self._job
        try:
            task = read_task(delivery.body, job.max_message_bytes)
        except MalformedTaskError as exc:
            self.watched.do(Step(functools.partial(job.settler.malformed, delivery, exc)))
            return
        if (delivery.noted is not None or REASON in delivery.meta) and self._is_settled_by_history(delivery):
            return
        task_id = task.task_id or meta_text(delivery.meta, TASK_ID) or delivery.message_id or new_id()
        if (delivery.crashes or delivery.suspected) and not self._may_run_here(delivery, task_id):
            return
        order = job.lifecycle.order
        if order is not None:
            order.wait(task_id)  # before the clock starts
        self._perform(Run(delivery, task_id, job.task_timeout), task.payload)

    def _perform(self, run: Run, payload: object) -> None:
        job = self._job
        self.running = run
        if job.intake.ending:
            # Too late to start. The pool, which closes first and then takes over what runs, does not miss it either.
            self._give_back(run)
            return
        current_run.set(run)
        job.lifecycle.task_started(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt)
        if run.cancelled:  # while a hook took its time
            self.abandoned = True
            return
        error: BaseException | None = None
        forks = process.forks
        run.in_handler = True
        try:
            if (result := job.executor.execute(payload)) is not None:
                refuse_unstarted(result)
        except job.executor.not_started as exc:
            self._give_back(run, exc)
            return
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises is its failure
            error = exc
        run.in_handler = False
        if process.forks != forks:
            end_copy(error)
        self._finish(run, monotonic() - run.started_at, error)
        # The exception's traceback holds this frame, and this frame the exception: without this the cycle (and with it
        # the payload) would wait for the garbage collector.
        error = None

    def _may_run_here(self, delivery: Delivery, task_id: str) -> bool:
        """Ask the rule on poison messages, where the backend can tell which those may be."""
        rule = self._job.poison
        return rule is None or bool(self.watched.do(Step(functools.partial(rule.admit, delivery, task_id))))

    def _is_settled_by_history(self, delivery: Delivery) -> bool:
        """Look at what was decided about a message when it was here before, or in the queue that it is a letter of."""
        if delivery.noted is not None:
            return self._job.settler.settle_noted(delivery, delivery.noted)
        delivery.begin_anew()
        return False

    def _give_back(self, run: Run, reason: Exception | None = None) -> None:
        """Return what did not start, unless somebody else does."""
        if not run.claim():
            self.abandoned = True
            return
        self.running = None
        if reason is not None:
            _log.warning("task %s did not start and goes back: %s", run.task_id, reason, extra=run.log_fields())
        self._job.settler.hand_back(run.delivery)

    def _finish(self, run: Run, duration: float, error: BaseException | None) -> None:
        """Settle the run, unless the watchdog did."""
        settler = self._job.settler
        verdict: Verdict | None = None
        if error is not None and duration <= self._job.task_timeout:
            # Before the claim: the watch sees that this run has not ended when the exception's own code hangs.
            run.deadline = max(run.deadline, monotonic() + READING_TIME)
            run.raised = name_of(type(error))
            verdict = settler.read(error)
        in_time = run.claim()
        self.running = None
        if not in_time:
            self.abandoned = True  # the watchdog has replaced this thread, or the pool is closing
            _log.warning(
                "the handler of task %s ended %.3f s after its start, too late; its result is ignored",
                run.task_id, duration, extra=run.log_fields(),
            )  # fmt: skip
            return
        if duration > self._job.task_timeout:
            self.watched.do(Step(functools.partial(settler.timed_out, run, None)))
        elif error is None or verdict is None:
            settler.succeeded(run, duration)
        else:
            self.watched.do(Step(functools.partial(settler.failed, run, error, verdict)))


_ENTRY: Final = Worker._perform.__code__


class Pool(Protocol):
    """What runs tasks in a number of slots, as a session sees it."""

    error: BaseException | None
    """Why it cannot go on."""

    def start(self) -> None:
        """Begin to take messages."""
        ...

    @property
    def alive(self) -> bool:
        """True while it takes messages, or holds some that are not settled."""
        ...

    def owns_current_thread(self) -> bool:
        """True in a thread that it waits for."""
        ...

    def runs(self, run: Run | None) -> bool:
        """True for a run of its own that has not ended."""
        ...

    def expire(self) -> float:
        """End the runs whose time is over, and give up what hangs; return the seconds until the next one can be."""
        ...

    def count_stuck(self) -> None:
        """Have an error when too many handlers, or hooks and the like, hang."""
        ...

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        ...


def too_many(stuck: int, outside: int) -> TooManyStuckTasksError:
    """The error of a pool in which so many handlers hang, and so many of them outside of their own code."""
    return TooManyStuckTasksError(
        f"{stuck} handlers did not end after their timeout and hang"
        + (f" ({outside} of them in a hook, redact, a backoff or an exception)" if outside else "")
        + "; restart this process"
    )


class WorkerPool:
    """A fixed number of worker slots. Beyond the first few, threads are started when there is work for them.

    Call ``expire`` again after the seconds it returns, from one thread.

    Args:
        job: what the workers do.
        size: how many.
        max_abandoned: with more threads than this stuck in their handlers the pool has an ``error``.
        bell: rung whenever the watch should look at the pool again.
        isolation: has threads that are watched as well, if there is one.
    """

    def __init__(self, job: Job, size: int, max_abandoned: int, bell: Bell, isolation: Isolation | None = None) -> None:
        self._job = job
        self._isolation = isolation
        self._patience = patience(job.task_timeout)
        self._size = size
        self._bell = bell
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._abandoned: set[Worker] = set()
        self._max_abandoned = max_abandoned
        self._growing = threading.Lock()
        self.error: BaseException | None = None

    def start(self) -> None:
        """Fill the slots."""
        first = min(self._size, _AT_ONCE) if self._job.executor.in_thread else self._size
        for _ in range(first):
            self._add(None)
        self._job.intake.need = self._grow
        self._job.intake.unstarted = self._size - first
        self._grow(1)  # all of the first may have a task by now, and somebody must read

    @property
    def alive(self) -> bool:
        """True while a worker that was not abandoned has not ended."""
        with self._lock:
            return bool(self._workers)

    def owns_current_thread(self) -> bool:
        """True in a worker's thread, an abandoned one included."""
        ident = threading.get_ident()
        with self._lock:
            return any(worker.ident == ident for worker in self._workers | self._abandoned)

    def runs(self, run: Run | None) -> bool:
        """True for a run of one of its workers that has not ended."""
        return run is not None and any(worker.running is run for worker in self._snapshot())

    def expire(self) -> float:
        """End the runs whose time is over, and give up what hangs; return the seconds until the next one can be."""
        now = monotonic()
        timeout = self._job.task_timeout
        # A run that starts later than now cannot expire before now + timeout, so no timer per task is needed.
        wait = timeout
        for worker in self._snapshot():
            run = worker.running
            if run is None:
                if worker.watched.give_up(self._patience):
                    self._replace(worker)
                continue
            left = run.deadline - now
            if left > 0:
                wait = min(wait, left)
            elif run.cancel():
                self._abandon(worker, run)
        if self._isolation is not None:
            self._isolation.expire()
        self.count_stuck()
        return wait

    def count_stuck(self) -> None:
        """Have an error when too many handlers, or hooks and the like, hang."""
        with self._lock:
            outside = sum(worker.hangs_outside for worker in self._abandoned)
            abandoned = len(self._abandoned) - outside
        if self._isolation is not None:
            outside += self._isolation.hanging
        stuck = self._job.executor.stuck(abandoned) + outside
        if stuck > self._max_abandoned and self.error is None:
            self.error = too_many(stuck, outside)

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        runs = [worker.running for worker in self._snapshot()]
        return [run for run in runs if run is not None and run.cancel()]

    def worker_ended(self, worker: Worker, error: BaseException | None) -> None:
        """Called by a worker's thread when it ends."""
        with self._lock:
            self._workers.discard(worker)
            self._abandoned.discard(worker)
        if error is not None and self.error is None:
            self.error = error
            if not isinstance(error, NotConnectedError):
                _log.error("a worker thread broke", exc_info=error)
        self._bell.notify()

    def _abandon(self, worker: Worker, run: Run) -> None:
        """Leave a thread to its run, which is too late; another one settles that."""
        executor, settler = self._job.executor, self._job.settler
        stack = sys._current_frames().get(worker.ident or 0) if executor.in_thread else None
        if not run.in_handler:
            worker.hangs_outside = True
        self._leave(worker)
        worker.interrupt(run)
        if run.raised:
            step = Step(functools.partial(settler.unreadable, run, run.raised))
        else:
            step = Step(functools.partial(settler.timed_out, run, stack))
        if call := worker.watched.call:  # the hook that tells of the start
            _log.error("%s has not returned within the time of task %s", call.name, run.task_id, extra=run.log_fields())
        self._add(Rest(run.delivery, step, worker.context))

    def _replace(self, worker: Worker) -> None:
        """Leave a thread to the foreign code that it is in; another one does the rest without that."""
        delivery = worker.delivery
        assert delivery is not None  # noqa: S101 - the call is made for one, and the thread cannot go on
        worker.hangs_outside = True
        self._leave(worker)
        self._job.lifecycle.give_up(worker.watched.thread)
        self._add(Rest(delivery, worker.watched.step, worker.context))

    def _leave(self, worker: Worker) -> None:
        worker.abandoned = True
        with self._lock:
            if worker in self._workers:  # it may have ended since its run was taken over, and would be counted for ever
                self._workers.discard(worker)
                self._abandoned.add(worker)
        if worker.hangs_outside:
            self._job.executor.release(worker.watched.thread)

    def _add(self, rest: Rest | None) -> None:
        worker = Worker(self, self._job, rest)
        with self._lock:
            self._workers.add(worker)
        try:
            worker.start()
        except RuntimeError as exc:  # the system has no thread left: what is not settled the broker delivers again
            self.worker_ended(worker, exc)

    def _grow(self, count: int) -> None:
        """Start so many more workers, as far as there may be more."""
        with self._growing:
            self._start_more(min(count, self._job.intake.unstarted))

    def _start_more(self, count: int) -> None:
        intake = self._job.intake
        for _ in range(count):
            worker = Worker(self, self._job)
            with self._lock:
                self._workers.add(worker)
                running = len(self._workers)
            try:
                worker.start()
            except RuntimeError as exc:  # the others go on
                with self._lock:
                    self._workers.discard(worker)
                intake.unstarted = 0
                _log.warning("no more than %d of %d workers can run: %s", running - 1, self._size, exc)
                return
            intake.unstarted -= 1

    def _snapshot(self) -> list[Worker]:
        with self._lock:
            return list(self._workers)
