"""Decides what becomes of a run and makes the broker agree, however long that takes.

A settlement is repeated with backoff while the broker cannot do it, until it is done, the delivery is lost (then the
broker delivers the message again) or the worker is told to give up. It is never skipped to make progress.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Final

from qbridge_core.client import QueueClient, worker_identity
from qbridge_core.envelope import MalformedTaskError
from qbridge_core.errors import (
    BrokerUnavailableError,
    DeliveryLostError,
    NotConnectedError,
    QBridgeError,
    RemoteError,
    TransientError,
)
from qbridge_core.lifecycle import Lifecycle
from qbridge_core.logs import logger
from qbridge_core.message import CRASHES, MAX_EXCEPTION_MESSAGE_CHARS, Delivery, Failure, Reason, meta_int
from qbridge_core.outage import Outage
from qbridge_core.outcome import Outcome, Tally, dead_lettered
from qbridge_core.problem import Problem
from qbridge_core.retry import RetryPolicy
from qbridge_core.run import Run
from qbridge_core.suspects import Suspects
from qbridge_core.verdict import Action, Judged, Verdict, judge

_log: Final = logger("qbridge.worker")
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a worker does with its runs.

    Attributes:
        queue: the input queue.
        policy: retries and their delays.
        task_timeout: seconds that a run may take.
        max_crashes: so many deaths of processes are enough.
        processes: True when handlers run in processes of their own, whose deaths are charged to their tasks alone.
        redact: what may be shown of a text from a handler's exception.
    """

    queue: str
    policy: RetryPolicy
    task_timeout: float
    max_crashes: int
    processes: bool = False
    redact: Callable[[str], str] | None = None


class Settler:
    """Settles the runs of one queue. Thread-safe.

    Args:
        client: the broker.
        rules: what to do with them.
        lifecycle: hooks to call after a settlement.
        tally: counts the outcomes.
        give_up: set when the worker must end now; pending settlements are then left to the broker.
        suspects: where messages go that may have killed a worker; None when the backend cannot tell.
    """

    def __init__(
        self,
        client: QueueClient,
        rules: Rules,
        lifecycle: Lifecycle,
        tally: Tally,
        give_up: threading.Event,
        suspects: Suspects | None = None,
    ) -> None:
        self._client = client
        self._rules = rules
        self._lifecycle = lifecycle
        self._tally = tally
        self._give_up = give_up
        self._suspects = suspects
        self._outage = Outage()

    def succeeded(self, run: Run, duration: float) -> None:
        """Acknowledge a message whose handler returned."""
        if not self._persist(lambda: self._client.ack(run.delivery), run.log_fields):
            return
        self._tally.add(Outcome.SUCCEEDED)
        self._lifecycle.task_succeeded(
            queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, duration=duration
        )
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("task %s succeeded after %.3f s", run.task_id, duration, extra=run.log_fields())

    def failed(self, run: Run, exc: BaseException) -> None:
        """Do what the handler's exception asks for, or retry or dead-letter the message."""
        shown = exc
        if type(exc) is Judged:
            verdict = exc.verdict
            shown = RemoteError(verdict.problem.message, verdict.problem.exception_type, verdict.problem.traceback)
        else:
            verdict = judge(exc, self._rules.policy)
        problem = verdict.problem
        if verdict.action is Action.POSTPONE:
            self._postpone(run, verdict)
            return
        self._lifecycle.task_failed(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, exception=shown)
        if verdict.action is Action.REJECT:
            self._dead_letter(run.delivery, self._run_failure(run, problem))
        elif verdict.action is Action.CRASH:
            self._count_crash(run, problem)
        else:
            self._count_failure(run, problem, verdict.rule, delay=verdict.delay, final=verdict.final)

    def timed_out(self, run: Run, stack: FrameType | None) -> None:
        """Retry or dead-letter a message whose handler ran too long."""
        self._lifecycle.task_timed_out(
            queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, timeout=self._rules.task_timeout
        )
        self._count_failure(run, Problem.timed_out(self._rules.task_timeout, stack))

    def malformed(self, delivery: Delivery, exc: MalformedTaskError) -> None:
        """Dead-letter a message that can never run."""
        problem = Problem(Reason.MALFORMED, type(exc).__name__, str(exc))
        failure = self._failure(delivery, problem, delivery.message_id or "", delivery.attempts)
        self._dead_letter(delivery, failure)

    def admit(self, delivery: Delivery, task_id: str) -> bool:
        """Decide about a message whose worker died: True to run it, alone; False when it has been settled."""
        if self._suspects is None:
            return True
        if delivery.queue == self._rules.queue:
            doubtful = delivery.suspected or delivery.crashes > meta_int(delivery.meta, CRASHES)
            if self._rules.processes and not doubtful:
                return True  # it killed child processes of its own, and nobody else's
            self._isolate(delivery, task_id)
        elif delivery.crashes < self._rules.max_crashes:
            self._suspects.began(task_id)
            return True
        else:
            text = f"{delivery.crashes} worker processes died while they ran this task"
            if death := self._suspects.last_death(task_id):
                text += f"; the last one, {death}"
            problem = Problem(Reason.CRASHED, "", text)
            self._dead_letter(delivery, self._failure(delivery, problem, task_id, delivery.attempts))
        return False

    def _isolate(self, delivery: Delivery, task_id: str) -> None:
        """Have the message run alone. However often it was suspected, only a death that it causes alone convicts it."""
        suspects = self._suspects
        assert suspects is not None  # noqa: S101 - admit has looked
        crashes = min(delivery.crashes, self._rules.max_crashes - 1)
        failure = self._failure(replace(delivery, crashes=crashes), Problem(Reason.CRASHED), task_id, delivery.attempts)
        fields = _log_fields(delivery, task_id, delivery.attempts + 1)

        def move() -> None:
            self._client.reject(delivery, requeue=True, failure=failure, queue=suspects.queue)

        if self._persist(move, lambda: fields):
            _log.warning("task %s was held by a worker that died; it runs alone now", task_id, extra=fields)
            suspects.moved()

    def hand_back(self, delivery: Delivery) -> None:
        """Return a message to the queue, nothing counted."""
        fields = _log_fields(delivery, delivery.message_id, delivery.attempts + 1)
        if self._persist(lambda: self._client.reject(delivery, requeue=True), lambda: fields):
            self._tally.add(Outcome.HANDED_BACK)

    def _count_failure(
        self, run: Run, problem: Problem, rule: int | None = None, *, delay: float | None = None, final: bool = False
    ) -> None:
        failure = self._run_failure(run, problem)
        policy_delay = self._rules.policy.next_delay(run.attempt, rule)
        if final or policy_delay is None:
            self._dead_letter(run.delivery, failure)
        else:
            self._retry(run, failure, self._possible(policy_delay if delay is None else delay))

    def _count_crash(self, run: Run, problem: Problem) -> None:
        """A child process died of this task alone: no attempt is counted, and enough deaths convict it."""
        crashes = min(run.delivery.crashes, self._rules.max_crashes - 1) + 1
        failure = replace(self._run_failure(run, problem), attempts=run.delivery.attempts, crashes=crashes)
        if crashes >= self._rules.max_crashes:
            self._dead_letter(run.delivery, failure)
        else:
            self._retry(run, failure, self._possible(self._rules.policy.pause(crashes)))

    def _postpone(self, run: Run, verdict: Verdict) -> None:
        delay = self._possible(verdict.delay or 0.0)
        if self._persist(lambda: self._client.reject(run.delivery, requeue=True, delay=delay), run.log_fields):
            self._tally.add(Outcome.SNOOZED)
            why = verdict.problem.redacted(self._rules.redact).message[:MAX_EXCEPTION_MESSAGE_CHARS]
            _log.info("task %s snoozed for %g s: %s", run.task_id, delay, why, extra=run.log_fields())

    def _possible(self, delay: float) -> float:
        """The delay as far as the backend can hold it: running too early loses nothing."""
        capabilities = self._client.capabilities
        if not capabilities.delay:
            return 0.0
        if delay > capabilities.max_delay:
            _log.warning("a delay of %g s is cut to the %g s that the broker can hold", delay, capabilities.max_delay)
        return min(delay, capabilities.max_delay)

    def _retry(self, run: Run, failure: Failure, delay: float) -> None:
        # A suspect that ran alone goes back to the queue itself.
        back = None if run.delivery.queue == self._rules.queue else self._rules.queue

        def reject() -> None:
            self._client.reject(run.delivery, requeue=True, delay=delay, failure=failure, queue=back)

        if not self._persist(reject, run.log_fields):
            return
        self._tally.add(Outcome.RETRIED)
        _log.warning(
            "task %s %s in attempt %d (%s); next attempt in %g s",
            run.task_id, failure.reason, run.attempt, _in_words(failure), delay,
            extra=run.log_fields(),
        )  # fmt: skip
        self._lifecycle.task_retried(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, delay=delay)

    def _dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        fields = _log_fields(delivery, failure.task_id, failure.attempts)
        if not self._persist(lambda: self._client.reject(delivery, requeue=False, failure=failure), lambda: fields):
            return
        self._tally.add(dead_lettered(failure.reason))
        _log.error(
            "task %s dead-lettered: %s after %d attempts (%s)",
            failure.task_id, failure.reason, failure.attempts, _in_words(failure),
            extra=fields,
        )  # fmt: skip
        self._lifecycle.task_dead_lettered(queue=delivery.queue, task_id=failure.task_id, failure=failure)

    def _run_failure(self, run: Run, problem: Problem) -> Failure:
        return self._failure(run.delivery, problem, run.task_id, run.attempt)

    def _failure(self, delivery: Delivery, problem: Problem, task_id: str, attempts: int) -> Failure:
        now = time.time()
        problem = problem.redacted(self._rules.redact)
        return Failure(
            reason=problem.reason,
            attempts=attempts,
            crashes=delivery.crashes,
            exception_type=problem.exception_type,
            exception_message=problem.message,
            traceback=problem.traceback,
            first_failed_at=delivery.first_failed_at or now,
            last_failed_at=now,
            source_queue=self._rules.queue,
            task_id=task_id,
            worker=worker_identity(),
        )

    def _persist(self, action: Callable[[], None], describe: Callable[[], dict[str, object]]) -> bool:
        """Repeat a settlement until it is done; False when the broker will deliver the message again instead."""
        try:
            action()
        except Exception as exc:  # noqa: BLE001 - a backend's bug must not end the worker
            return self._insist(exc, action, describe())
        return True

    def _insist(self, exc: Exception, action: Callable[[], None], fields: dict[str, object]) -> bool:
        """Go on after a first failure."""
        pause = _FIRST_PAUSE
        self._outage.began()
        try:
            while self._can_be_repeated(exc, fields):
                if self._give_up.wait(pause):
                    return False
                pause = min(pause * 2, _LONGEST_PAUSE)
                try:
                    action()
                except Exception as again:  # noqa: BLE001 - as above
                    exc = again
                else:
                    return True
            return False
        finally:
            self._say_that_it_is_over(self._outage.ended())

    def _can_be_repeated(self, exc: Exception, fields: dict[str, object]) -> bool:
        task_id = fields["qbridge_task_id"]
        if isinstance(exc, DeliveryLostError | NotConnectedError):
            _log.warning("task %s will be delivered again: %s", task_id, exc, extra=fields)
            return False
        if isinstance(exc, QBridgeError):
            # A permanent error too: somebody may put right the queue or the permission that it complains of. The
            # worker is held meanwhile, so that no more is taken than can be settled.
            self._complain(exc, fields)
            return True
        # Holding the worker would stop other tasks; acknowledging would lose this one. Unsettled, it stays with the
        # broker, which delivers it again when this client disconnects.
        _log.error("task %s cannot be settled; it stays with the broker", task_id, exc_info=exc, extra=fields)
        return False

    def _complain(self, exc: QBridgeError, fields: dict[str, object]) -> None:
        """Once for all tasks that wait for the same, and then each minute; the client may do so itself."""
        transient = isinstance(exc, TransientError)
        said_by_client = self._client.logs_outages and isinstance(exc, BrokerUnavailableError)
        loud = not said_by_client and self._outage.is_news(exc)
        _log.log(
            (logging.WARNING if transient else logging.ERROR) if loud else logging.DEBUG,
            "task %s cannot be settled%s: %s; it is tried again until it works",
            fields["qbridge_task_id"], " yet" if transient else "", exc, extra=fields,
        )  # fmt: skip

    def _say_that_it_is_over(self, seconds: float | None) -> None:
        if seconds is not None and self._outage.was_reported:
            _log.info("no task of %s waits to be settled any more, after %.1f s", self._rules.queue, seconds)


def _in_words(failure: Failure) -> str:
    return ": ".join(text for text in (failure.exception_type, failure.exception_message) if text)


def _log_fields(delivery: Delivery, task_id: str | None, attempt: int) -> dict[str, object]:
    return {"qbridge_task_id": task_id, "qbridge_queue": delivery.queue, "qbridge_attempt": attempt}
