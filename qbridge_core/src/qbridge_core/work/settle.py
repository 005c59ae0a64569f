"""Decides what becomes of a run and makes the broker agree, however long that takes.

A settlement is repeated with backoff while the broker cannot do it, until it is done, the delivery is lost (then the
broker delivers the message again) or the worker is told to give up. It is never skipped to make progress. What the
broker refuses for some seconds, because a queue is full or a right is missing, goes back to its queue, which needs
neither; what is to become of it is remembered where it comes again.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import Failure, Noted, Reason
from qbridge_core.contract.envelope import MalformedTaskError
from qbridge_core.contract.headers import MAX_EXCEPTION_MESSAGE_CHARS
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.names import worker_identity
from qbridge_core.errors import MessageTooLargeError, QBridgeError, RemoteError
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.task import foreign
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import Outcome, Tally, dead_lettered
from qbridge_core.task.retry import RetryPolicy
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Action, Judged, Verdict, judge
from qbridge_core.work.repeat import Describe, RefusedError, Repeater

_log: Final = logger("qbridge.worker")


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

    Attributes:
        persist: repeats what the broker must be made to do; see :meth:`Repeater.repeat`.
    """

    def __init__(
        self,
        client: QueueClient,
        rules: Rules,
        lifecycle: Lifecycle,
        tally: Tally,
        give_up: threading.Event,
    ) -> None:
        self._client = client
        self._rules = rules
        self._lifecycle = lifecycle
        self._tally = tally
        repeater = Repeater(rules.queue, give_up, logs_outages=client.logs_outages)
        self.persist, self._insist = repeater.repeat, repeater.insist
        self._refusals = Outage()

    def succeeded(self, run: Run, duration: float) -> None:
        """Acknowledge a message whose handler returned."""
        order = self._lifecycle.order
        told = None if order is None else order.begin(run.task_id)
        try:
            # For each message, so without what ``persist`` takes beside the call itself.
            try:
                self._client.ack(run.delivery)
            except Exception as exc:  # noqa: BLE001 - a backend's bug must not end the worker
                if not self._insist(exc, functools.partial(self._client.ack, run.delivery), run.log_fields):
                    return
            self._tally.add(Outcome.SUCCEEDED)
            self._lifecycle.task_succeeded(
                queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, duration=duration
            )
        finally:
            if order is not None and told is not None:
                order.end(run.task_id, told)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("task %s succeeded after %.3f s", run.task_id, duration, extra=run.log_fields())

    def acknowledge(self, run: Run, duration: float) -> bool:
        """Do what ``succeeded`` does, without waiting for anything; False when it has to be done there.

        Only for an event loop, with a client whose ``ack`` never waits, and where no hook hears of it.
        """
        try:
            self._client.ack(run.delivery)
        except Exception:  # noqa: BLE001 - it is tried again where there is time for it
            return False
        self._tally.add(Outcome.SUCCEEDED)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("task %s succeeded after %.3f s", run.task_id, duration, extra=run.log_fields())
        return True

    @property
    def acks_at_once(self) -> bool:
        """Whether ``acknowledge`` may be called."""
        return self._client.capabilities.instant_ack and self._lifecycle.order is None

    def read(self, exc: BaseException) -> Verdict:
        """What a handler's exception asks for. It runs the exception's own code, which may hang."""
        return exc.verdict if type(exc) is Judged else judge(exc, self._rules.policy)

    def failed(self, run: Run, exc: BaseException, verdict: Verdict) -> None:
        """Do what the handler's exception asks for, or retry or dead-letter the message."""
        shown = exc
        if type(exc) is Judged:
            shown = RemoteError(
                verdict.explanation.message, verdict.explanation.exception_type, verdict.explanation.traceback
            )
        explanation = verdict.explanation
        if verdict.action is Action.POSTPONE:
            self._postpone(run, verdict)
            return
        self._lifecycle.task_failed(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, exception=shown)
        if verdict.action is Action.REJECT:
            self.dead_letter(run.delivery, self._run_failure(run, explanation))
        elif verdict.action is Action.CRASH:
            self.count_crash(run, explanation)
        else:
            self._count_failure(run, explanation, verdict.rule, delay=verdict.delay, final=verdict.final)

    def timed_out(self, run: Run, stack: FrameType | None) -> None:
        """Retry or dead-letter a message whose handler ran too long."""
        self._lifecycle.task_timed_out(
            queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, timeout=self._rules.task_timeout
        )
        self._count_failure(run, Explanation.timed_out(self._rules.task_timeout, stack))

    def unreadable(self, run: Run, exception_type: str) -> None:
        """Retry or dead-letter a message whose handler raised what cannot be read in time."""
        self._count_failure(run, Explanation(Reason.FAILED, exception_type, "(could not be read in time)"))

    def malformed(self, delivery: Delivery, exc: MalformedTaskError) -> None:
        """Dead-letter a message that can never run."""
        explanation = Explanation(Reason.MALFORMED, type(exc).__name__, str(exc))
        failure = self.failure(delivery, explanation, delivery.message_id or "", delivery.attempts)
        self.dead_letter(delivery, failure)

    def settle_noted(self, delivery: Delivery, noted: Noted) -> bool:
        """Dead-letter a message if that was decided when it was here before; False when it may run."""
        if noted.is_final:
            self.dead_letter(delivery, noted.failure)
        return noted.is_final

    def hand_back(self, delivery: Delivery) -> None:
        """Return a message to the queue, nothing counted."""
        fields = log_fields(delivery, delivery.message_id, delivery.attempts + 1)
        if self.persist(lambda: self._client.reject(delivery, requeue=True), lambda: fields):
            self._tally.add(Outcome.HANDED_BACK)

    def _count_failure(
        self,
        run: Run,
        explanation: Explanation,
        rule: int | None = None,
        *,
        delay: float | None = None,
        final: bool = False,
    ) -> None:
        failure = self._run_failure(run, explanation)
        policy_delay = self._rules.policy.next_delay(run.attempt, rule)
        if final or policy_delay is None:
            self.dead_letter(run.delivery, failure)
        else:
            self._retry(run, failure, self._possible(policy_delay if delay is None else delay))

    def count_crash(self, run: Run, explanation: Explanation, crashes: int | None = None) -> None:
        """A child process died of this task alone: no attempt is counted, and after enough deaths it is poison."""
        if crashes is None:
            crashes = min(run.delivery.crashes, self._rules.max_crashes - 1) + 1
        failure = replace(self._run_failure(run, explanation), attempts=run.delivery.attempts, crashes=crashes)
        if crashes >= self._rules.max_crashes:
            self.dead_letter(run.delivery, failure)
        else:
            self._retry(run, failure, self._possible(self._rules.policy.pause(crashes)))

    def _postpone(self, run: Run, verdict: Verdict) -> None:
        delay = self._possible(verdict.delay or 0.0)

        def reject() -> None:
            self._client.reject(run.delivery, requeue=True, delay=delay)

        try:
            done = self.persist(reject, run.log_fields, may_refuse=True)
        except RefusedError as refused:
            if isinstance(refused.__cause__, MessageTooLargeError):
                failure = self._run_failure(run, verdict.explanation)
                self.dead_letter(run.delivery, unrepeatable(failure, refused.__cause__))
            else:
                self.give_back(run.delivery, refused.__cause__, run.log_fields)
            return
        if done:
            foreign.settled()
            self._tally.add(Outcome.SNOOZED)
            why = verdict.explanation.redacted(self._rules.redact).message[:MAX_EXCEPTION_MESSAGE_CHARS]
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
        with self._lifecycle.telling(run.task_id):
            self._retry_and_tell(run, failure, delay)

    def _retry_and_tell(self, run: Run, failure: Failure, delay: float) -> None:
        # A suspect that ran alone goes back to the queue itself.
        back = None if run.delivery.queue == self._rules.queue else self._rules.queue

        def reject() -> None:
            self._client.reject(run.delivery, requeue=True, delay=delay, failure=failure, queue=back)

        try:
            done = self.persist(reject, run.log_fields, may_refuse=True)
        except RefusedError as refused:
            if isinstance(refused.__cause__, MessageTooLargeError):
                self.dead_letter(run.delivery, unrepeatable(failure, refused.__cause__))
                return
            run.delivery.note(Noted(failure))
            done = self.give_back(run.delivery, refused.__cause__, run.log_fields)
            delay = 0.0
        if not done:
            return
        foreign.settled()
        self._tally.add(Outcome.RETRIED)
        _log.warning(
            "task %s %s in attempt %d (%s); next attempt in %g s",
            run.task_id, failure.reason, run.attempt, in_words(failure), delay,
            extra=run.log_fields(),
        )  # fmt: skip
        self._lifecycle.task_retried(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, delay=delay)

    def dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        """Move a message to the dead-letter queue, and tell of it."""
        with self._lifecycle.telling(failure.task_id):
            self._dead_letter_and_tell(delivery, failure)

    def _dead_letter_and_tell(self, delivery: Delivery, failure: Failure) -> None:
        name = failure.task_id or _nameless(delivery)
        fields = log_fields(delivery, name, failure.attempts)

        def reject() -> None:
            self._client.reject(delivery, requeue=False, failure=failure)

        try:
            done = self.persist(reject, lambda: fields, may_refuse=True)
        except RefusedError as refused:
            delivery.note(Noted(failure, is_final=True))
            if self.give_back(delivery, refused.__cause__, lambda: fields):
                self._tally.add(Outcome.HANDED_BACK)
            return
        if not done:
            return
        foreign.settled()
        self._tally.add(dead_lettered(failure.reason))
        _log.error(
            "task %s dead-lettered: %s after %d attempts (%s)",
            name, failure.reason, failure.attempts, in_words(failure),
            extra=fields,
        )  # fmt: skip
        self._lifecycle.task_dead_lettered(queue=delivery.queue, task_id=failure.task_id, failure=failure)

    def _run_failure(self, run: Run, explanation: Explanation) -> Failure:
        return self.failure(run.delivery, explanation, run.task_id, run.attempt)

    def failure(self, delivery: Delivery, explanation: Explanation, task_id: str, attempts: int) -> Failure:
        """What to write beside a message, redacted."""
        now = time.time()
        explanation = explanation.redacted(self._rules.redact)
        return Failure(
            reason=explanation.reason,
            attempts=attempts,
            crashes=delivery.crashes,
            exception_type=explanation.exception_type,
            exception_message=explanation.message,
            traceback=explanation.traceback,
            first_failed_at=delivery.first_failed_at or now,
            last_failed_at=now,
            source_queue=self._rules.queue,
            task_id=task_id,
            worker=worker_identity(),
        )

    def give_back(self, delivery: Delivery, reason: BaseException | None, describe: Describe) -> bool:
        """Give a message back that the broker refuses to have elsewhere; the worker is free for others."""
        if reason is not None and self._refusals.is_news(reason):
            _log.error(
                "the broker refuses where tasks of %s are to go: %s; they go back to the queue until it does not",
                delivery.queue, reason, extra=describe(), exc_info=None if isinstance(reason, QBridgeError) else reason,
            )  # fmt: skip
        return self.persist(lambda: self._client.reject(delivery, requeue=True), describe)


def unrepeatable(failure: Failure, reason: BaseException) -> Failure:
    """The failure of a message whose copy for another attempt the broker finds too large."""
    note = f"it cannot be retried: {reason}"[: MAX_EXCEPTION_MESSAGE_CHARS // 2]
    message = failure.exception_message[: MAX_EXCEPTION_MESSAGE_CHARS - len(note) - 2]
    return replace(failure, exception_message=f"{message}; {note}" if message else note)


def in_words(failure: Failure) -> str:
    """The exception of a failure, for a log."""
    return ": ".join(text for text in (failure.exception_type, failure.exception_message) if text)


def _nameless(delivery: Delivery) -> str:
    """What a log calls a message without any id: enough to find it, and nothing of what is in it."""
    return f"without id ({len(delivery.body)} bytes, sha256 {hashlib.sha256(delivery.body).hexdigest()[:16]})"


def log_fields(delivery: Delivery, task_id: str | None, attempt: int) -> dict[str, object]:
    """The fields that the log shows of a task."""
    return {"qbridge_task_id": task_id, "qbridge_queue": delivery.queue, "qbridge_attempt": attempt}
