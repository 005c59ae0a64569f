"""A worker thread: takes one delivery after the other, and runs the handler on it.

The threads are daemons on purpose: a handler that never returns cannot be stopped from outside in CPython, and
``ThreadPoolExecutor`` would make the interpreter wait for it at exit. A worker whose run times out is abandoned to
its handler and replaced at once; what the handler does later changes nothing any more. The same happens to one whose
hook, ``redact`` or backoff does not return (:mod:`qbridge_core.task.foreign`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final

from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.headers import REASON
from qbridge_core.contract.message import Delivery
from qbridge_core.execute.executor import refuse_unstarted
from qbridge_core.execute.interrupt.interrupter import interrupter
from qbridge_core.execute.interrupt.late import Late
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.forks import end_copy, process
from qbridge_core.runtime.logs import logger
from qbridge_core.task import foreign
from qbridge_core.task.context import HandlerTimeout, current_run, current_state
from qbridge_core.task.foreign import GivenUp, Step, Watched
from qbridge_core.task.run import Run, in_words, task_id_of
from qbridge_core.task.scope import Scope
from qbridge_core.task.verdict import Verdict, name_of
from qbridge_core.work.job import Job
from qbridge_core.work.poison.observer import current_observer

_log: Final = logger("qbridge.worker")

_RUN_HOOK: Final = "a plugin's qbridge_task_run"
READING_TIME: Final = 1.0
"""Seconds that it may take at least to find out what an exception says."""


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

    :class:`~qbridge_core.work.batchworker.BatchWorker` runs several in one go.

    It holds its thread instead of being one: the names of ``threading.Thread`` differ from release to release.

    Args:
        job: what to do.
        ended: called when this thread is about to end, with what ended it too early.
        rest: what another thread has left, to be done before the first delivery.
    """

    _takes_many = False

    def __init__(
        self, job: Job, ended: Callable[[Worker, BaseException | None], None], rest: Rest | None = None
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="qbridge-worker", daemon=True)
        self._tell_ended = ended
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
        """Work until the dispatcher closes or the watchdog gives this thread up."""
        error: BaseException | None = None
        self.watched.begin()
        current_state.set(self._job.executor.state)
        try:
            self._work()
        except BaseException as exc:  # noqa: BLE001 - the supervisor raises it
            error = None if self.abandoned else exc
        self._end(error)

    def _work(self) -> None:
        executor, dispatcher, takes_many = self._job.executor, self._job.dispatcher, self._takes_many
        if self._rest is not None:
            self._go_on(self._rest)
            self._rest = None
            if self.abandoned:
                return
        if executor.prepare():
            current_observer().ready()
        while not self.abandoned and executor.prepare() and (delivery := dispatcher.take()) is not None:
            self.watched.turns += 1
            if takes_many and self._run_together(delivery):
                continue
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
                    dispatcher.done(delivery)
            self.context = self.delivery = None
            del context, delivery  # an idle worker holds nothing of its last task

    def _run_together(self, delivery: Delivery) -> bool:
        """Run it with others; False when it is to be run alone, or this kind of worker runs none together."""
        del delivery
        return False

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
                self._job.dispatcher.done(rest.delivery)
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
            self._tell_ended(self, error)

    @property
    def unfinished(self) -> Sequence[Run]:
        """In any thread: what it runs."""
        run = self.running
        return [] if run is None else [run]

    def still_runs(self, run: Run) -> bool:
        """In any thread: whether what seems to be at work is."""
        return self.running is run

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
            task, terms = job.reader.read(delivery)
        except UnfitError as exc:
            self.watched.do(Step(functools.partial(job.consequences.unfit, delivery, exc)))
            return
        if (delivery.noted is not None or REASON in delivery.meta) and self._is_settled_by_history(delivery):
            return
        task_id = task.task_id or task_id_of(delivery)
        if (delivery.crashes or delivery.suspected) and not self._may_run_here(delivery, task_id):
            return
        order = job.lifecycle.order
        if order is not None:
            order.wait(task_id)  # before the clock starts
        self._perform(Run(delivery, task_id, terms), task.payload)

    def _perform(self, run: Run, payload: object) -> None:
        job = self._job
        self.running = run
        if job.dispatcher.ending:
            # Too late to start. The pool, which closes first and then takes over what runs, does not miss it either.
            self._give_back(run)
            return
        current_run.set(run)
        if job.lifecycle.order is not None:  # otherwise nobody listens
            job.lifecycle.task_started(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt)
        if (run_hooks := job.run_hooks) is not None:
            foreign.call(_RUN_HOOK, None, functools.partial(run_hooks.enter, run), None)
        if run.cancelled:  # while a hook took its time
            self.abandoned = True
            if run.scope is not None:
                run.scope.leave(HandlerTimeout("its time was over before it began"))
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
            return self._job.consequences.settle_noted(delivery, delivery.noted)
        delivery.begin_anew()
        return False

    def _give_back(self, run: Run, reason: Exception | None = None) -> None:
        """Return what did not start, unless somebody else does."""
        if not run.claim():
            self.abandoned = True
            return
        self.running = None
        if reason is not None:
            say_unstarted(run, reason)
        self._job.settler.hand_back(run.delivery)

    def _finish(self, run: Run, duration: float, error: BaseException | None) -> None:
        """Settle the run, unless the watchdog did."""
        consequences = self._job.consequences
        verdict: Verdict | None = None
        if error is not None and duration <= run.terms.timeout:
            # Before the claim: the watch sees that this run has not ended when the exception's own code hangs.
            run.deadline = max(run.deadline, monotonic() + READING_TIME)
            run.raised = name_of(type(error))
            verdict = consequences.read(run, error)
        in_time = run.claim()
        self.running = None
        if not in_time:
            self.abandoned = True  # the watchdog has replaced this thread, or the pool is closing
            if run.scope is not None:
                run.scope.leave(error)
            say_late(run, duration)
            return
        if run.scope is not None:
            self.watched.do(Step(functools.partial(self._leave_and_settle, run, run.scope, duration, error, verdict)))
        elif duration > run.terms.timeout:
            self.watched.do(Step(functools.partial(consequences.timed_out, run, None)))
        elif error is None or verdict is None:
            self._job.settler.acknowledge(run, duration)
        else:
            self.watched.do(Step(functools.partial(consequences.failed, run, error, verdict)))

    def _leave_and_settle(
        self, run: Run, scope: Scope, duration: float, error: BaseException | None, verdict: Verdict | None
    ) -> None:
        """The same, once what plugins have entered around the run is left; a plugin that hangs there is left behind."""
        foreign.call(_RUN_HOOK, "left", functools.partial(scope.leave, error), None)
        consequences = self._job.consequences
        if duration > run.terms.timeout:
            consequences.timed_out(run, None)
        elif error is None or verdict is None:
            foreign.settled()  # an acknowledgement is not repeated from here
            self._job.settler.acknowledge(run, duration)
        else:
            consequences.failed(run, error, verdict)


def say_late(run: Run, duration: float) -> None:
    """Say that a run has ended when somebody else had settled it; of one that has not begun there is nothing to say."""
    if run.awaits_turn:
        return
    fields = run.log_fields()
    why = "too late" if duration > run.terms.timeout else "when it had been given back"
    _log.warning(
        "%s ended %.3f s after its start, %s; its result is ignored", in_words(fields), duration, why, extra=fields
    )


def say_hook_hangs(run: Run, hook: str) -> None:
    """Say that the time of a run was over in a hook."""
    fields = run.log_fields()
    _log.error("%s has used up the time of %s and not returned", hook, in_words(fields).rstrip(","), extra=fields)


def say_unstarted(run: Run, reason: Exception) -> None:
    """Say that a run has not begun, and why."""
    fields = run.log_fields()
    _log.warning("%s did not start and goes back to the queue: %s", in_words(fields), reason, extra=fields)


_ENTRY: Final = Worker._perform.__code__
