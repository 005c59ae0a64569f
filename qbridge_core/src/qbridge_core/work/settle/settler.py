"""Settles deliveries: acknowledges, retries, dead-letters or hands them back, however long the broker takes to agree.

A settlement is repeated with backoff while the broker cannot do it, until it is done, the delivery is lost (then the
broker delivers the message again) or the worker is told to give up. It is never skipped to make progress. What the
broker refuses for some seconds, because a queue is full or a right is missing, goes back to its queue, which needs
neither; what is to become of it is remembered where it comes again.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import Failure, Noted
from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.headers import MAX_EXCEPTION_MESSAGE_CHARS
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import MessageTooLargeError, QBridgeError, RemoteError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.task import foreign
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import Outcome, Tally, dead_lettered
from qbridge_core.task.run import Run
from qbridge_core.task.run import in_words as told_as
from qbridge_core.work.settle.accounts import QUICK, Accounts
from qbridge_core.work.settle.failures import (
    failure_of,
    in_words,
    known_task_id,
    log_fields,
    nameless,
    unrepeatable,
)
from qbridge_core.work.settle.repeat import Describe, RefusedError, Repeater
from qbridge_core.work.settle.rules import Rules
from qbridge_core.work.settle.waiting import next_pause

_log: Final = logger("qbridge.worker")


class Settler:
    """Settles the deliveries of one queue. Thread-safe.

    Args:
        client: the broker.
        rules: what a worker does with its runs.
        lifecycle: hooks to call after a settlement.
        tally: counts the outcomes.
        give_up: set when the worker must end now; pending settlements are then left to the broker.

    Attributes:
        accounts: tells plugins of each settlement; None when nobody listens.
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
        self.accounts: Final = Accounts.of(lifecycle, rules, client, tally)
        repeated = functools.partial(lifecycle.settlement_repeated, queue=rules.queue)
        repeater = Repeater(rules.queue, give_up, repeated, logs_outages=client.logs_outages)
        self.persist, self._insist = repeater.repeat, repeater.insist
        self._refusals = Outage()

    def begin_accounts(self, running: Callable[[str], int]) -> None:
        """Tell plugins of settlements from now on; ``running`` counts the handlers that run for a queue."""
        if self.accounts is not None:
            self.accounts.begin(functools.partial(running, self._rules.queue))

    def end_accounts(self) -> None:
        """Tell plugins of the last settlements."""
        if self.accounts is not None:
            self.accounts.end()

    @property
    def settled(self) -> int:
        """How many deliveries have been settled so far."""
        return sum(self._tally.report().counts.values())

    @property
    def acks_at_once(self) -> bool:
        """Whether ``acknowledge`` may be called ``at_once``."""
        return self._client.capabilities.instant_ack and self._lifecycle.order is None

    def acknowledge(self, run: Run, duration: float, *, at_once: bool = False) -> bool:
        """Acknowledge a message whose handler returned; False when that was not done.

        Args:
            run: its run, which the caller has claimed.
            duration: seconds that it took.
            at_once: wait for nothing: what is not done is left to a call that may. Only for an event loop, with a
                client whose ``ack`` never waits, and where no hook hears of it; see ``acks_at_once``.
        """
        order, accounts = self._lifecycle.order, self.accounts
        if accounts is not None and accounts.is_full and duration < QUICK:
            accounts = None  # another one stands for it
        told = None if order is None else order.begin(run.task_id)
        began = 0.0 if accounts is None else monotonic()
        try:
            # For each message, so without what ``persist`` takes beside the call itself.
            try:
                self._client.ack(run.delivery)
            except Exception as exc:  # noqa: BLE001 - a backend's bug must not end the worker
                if at_once or not self._insist(exc, functools.partial(self._client.ack, run.delivery), run.log_fields):
                    return False
            if accounts is not None:
                accounts.succeeded(run, duration, began)
            self._tally.add(Outcome.SUCCEEDED)
            if order is not None:  # otherwise nobody listens
                self._lifecycle.task_succeeded(
                    queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, duration=duration
                )
        finally:
            if order is not None and told is not None:
                order.end(run.task_id, told)
        if _log.isEnabledFor(logging.DEBUG):
            fields = run.log_fields()
            _log.debug("%s succeeded after %.3f s", told_as(fields), duration, extra=fields)
        return True

    def next_pause(self, delivery: Delivery, exc: UnfitError) -> float | None:
        """Seconds for which to postpone a message that cannot run here; ``None`` when it is not to wait any more."""
        return next_pause(delivery, exc, self._client.capabilities, self._rules.clock)

    def postpone(
        self, delivery: Delivery, task_id: str, explanation: Explanation, delay: float, run: Run | None = None
    ) -> None:
        """Have a message delivered again later, nothing counted.

        Args:
            delivery: the message.
            task_id: the id of its task, or "".
            explanation: why.
            delay: seconds.
            run: the run that has asked for it, if one has.
        """
        with self._lifecycle.telling(task_id):
            self._postpone_and_tell(delivery, task_id, explanation, delay, run)

    def _postpone_and_tell(
        self, delivery: Delivery, task_id: str, explanation: Explanation, delay: float, run: Run | None
    ) -> None:
        delay, began = self._possible(delay), monotonic()
        attempt = delivery.attempts + 1
        fields = log_fields(delivery, task_id or nameless(delivery), attempt)

        def reject() -> None:
            self._client.reject(delivery, requeue=True, delay=delay)

        try:
            done = self.persist(reject, lambda: fields, may_refuse=True)
        except RefusedError as refused:
            if isinstance(refused.__cause__, MessageTooLargeError):
                failure = failure_of(self._rules, delivery, explanation, task_id, attempt)
                self.dead_letter(delivery, unrepeatable(failure, refused.__cause__), run)
            else:
                self.give_back(delivery, refused.__cause__, lambda: fields)
            return
        if done:
            foreign.settled()
            self._tally.add(Outcome.SNOOZED)
            if self.accounts is not None and run is not None:
                self.accounts.put_back(run, Outcome.SNOOZED, None, began)
            why = explanation.redacted(self._rules.redact).message[:MAX_EXCEPTION_MESSAGE_CHARS]
            _log.info("%s snoozed for %g s: %s", told_as(fields), delay, why, extra=fields)

    def retry(self, run: Run, failure: Failure, delay: float) -> None:
        """Have a message run again, and tell of it."""
        delay = self._possible(delay)
        with self._lifecycle.telling(run.task_id):
            self._retry_and_tell(run, failure, delay)

    def _retry_and_tell(self, run: Run, failure: Failure, delay: float) -> None:
        began = monotonic()
        # A suspect that ran alone goes back to the queue itself.
        back = None if run.delivery.queue == self._rules.queue else self._rules.queue

        def reject() -> None:
            self._client.reject(run.delivery, requeue=True, delay=delay, failure=failure, queue=back)

        try:
            done = self.persist(reject, run.log_fields, may_refuse=True)
        except RefusedError as refused:
            if isinstance(refused.__cause__, MessageTooLargeError):
                self.dead_letter(run.delivery, unrepeatable(failure, refused.__cause__), run)
                return
            run.delivery.note(Noted(failure))
            done = self.give_back(run.delivery, refused.__cause__, run.log_fields)
            delay = 0.0
        if not done:
            return
        foreign.settled()
        self._tally.add(Outcome.RETRIED)
        _log.warning(
            "task %s of %s %s in attempt %d (%s); next attempt in %g s",
            run.task_id, run.delivery.queue, failure.reason, run.attempt, in_words(failure), delay,
            extra=run.log_fields(),
        )  # fmt: skip
        if self.accounts is not None:
            self.accounts.put_back(run, Outcome.RETRIED, failure.reason, began)
        self._lifecycle.task_retried(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, delay=delay)

    def _possible(self, delay: float) -> float:
        """The delay as far as the backend can hold it: running too early loses nothing."""
        capabilities = self._client.capabilities
        if not capabilities.delay:
            return 0.0
        if delay > capabilities.max_delay:
            _log.warning("a delay of %g s is cut to the %g s that the broker can hold", delay, capabilities.max_delay)
        return min(delay, capabilities.max_delay)

    def dead_letter(
        self, delivery: Delivery, failure: Failure, run: Run | None = None, error: BaseException | None = None
    ) -> None:
        """Move a message to the dead-letter queue, and tell of it.

        Args:
            delivery: the message.
            failure: what is written beside it.
            run: the run that has led to that, if one has.
            error: what its handler has raised, for the log.
        """
        with self._lifecycle.telling(failure.task_id):
            self._dead_letter_and_tell(delivery, failure, run, error)

    def _shown(self, failure: Failure, error: BaseException | None) -> BaseException | None:
        """What the log shows of an exception: that itself, or the texts that are to be shown of it."""
        if error is not None and self._rules.redact is None:
            return error
        if not failure.traceback:
            return None
        return RemoteError(failure.exception_message, failure.exception_type, failure.traceback)

    def _dead_letter_and_tell(
        self, delivery: Delivery, failure: Failure, run: Run | None, error: BaseException | None
    ) -> None:
        began = monotonic()
        name = failure.task_id or nameless(delivery)
        fields = log_fields(delivery, name, failure.attempts)

        def reject() -> None:
            self._client.reject(delivery, requeue=False, failure=failure)

        try:
            done = self.persist(reject, lambda: fields, may_refuse=True)
        except RefusedError as refused:
            delivery.note(Noted(failure, is_final=True))
            if self.give_back(delivery, refused.__cause__, lambda: fields):
                self._handed_back(delivery)
            return
        if not done:
            return
        foreign.settled()
        self._tally.add(dead_lettered(failure.reason))
        _log.error(
            "task %s of %s dead-lettered: %s after %d attempts (%s)",
            name, delivery.queue, failure.reason, failure.attempts, in_words(failure),
            exc_info=self._shown(failure, error), extra=fields,
        )  # fmt: skip
        if self.accounts is not None:
            self.accounts.dead_lettered(delivery, run, failure, began)
        self._lifecycle.task_dead_lettered(queue=delivery.queue, task_id=failure.task_id, failure=failure)

    def hand_back(self, delivery: Delivery) -> None:
        """Return a message to the queue, nothing counted."""
        fields = log_fields(delivery, delivery.message_id, delivery.attempts + 1)
        if self.persist(lambda: self._client.reject(delivery, requeue=True), lambda: fields):
            self._handed_back(delivery)

    def hand_back_all(self, deliveries: Iterable[Delivery]) -> None:
        """Return messages to the queue together, nothing counted; ``deliveries`` are gone through once."""
        waiting = iter(deliveries)
        taken: list[Delivery] = []

        def take() -> Iterator[Delivery]:
            for delivery in waiting:
                taken.append(delivery)
                yield delivery

        try:
            self._client.hand_back(take())
        except Exception:  # noqa: BLE001 - whatever it is, each has a try of its own, and a line in the log
            for delivery in itertools.chain(taken, waiting):
                self.hand_back(delivery)  # does nothing for one that went back
        else:
            for delivery in taken:
                self._handed_back(delivery)

    def _handed_back(self, delivery: Delivery) -> None:
        self._tally.add(Outcome.HANDED_BACK)
        if self._lifecycle.hears_hand_backs:
            self._lifecycle.task_handed_back(
                queue=self._rules.queue, task_id=known_task_id(delivery, self._rules.formats)
            )

    def give_back(self, delivery: Delivery, reason: BaseException | None, describe: Describe) -> bool:
        """Give a message back that the broker refuses to have elsewhere; the worker is free for others."""
        if reason is not None and self._refusals.is_news(reason):
            _log.error(
                "the broker refuses where tasks of %s are to go: %s; they go back to the queue until it does not",
                delivery.queue, reason, extra=describe(), exc_info=None if isinstance(reason, QBridgeError) else reason,
            )  # fmt: skip
        return self.persist(lambda: self._client.reject(delivery, requeue=True), describe)
