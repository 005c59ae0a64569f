"""How a message gets elsewhere: back to its queue, to a later time, to the suspects, to the dead letters.

Always as a copy, which the broker has confirmed before the original is acknowledged.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from qbridge_core.backend import (
    DUE_AT,
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    Delivery,
    Failure,
    MessageTooLargeError,
    NotConnectedError,
    Noted,
    PublishUnconfirmedError,
    QBridgeError,
    QueueFullError,
    QueueMismatchError,
    TransientError,
    UnroutableError,
    logger,
    monotonic,
    rejection,
)
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.consume.consumer import DELETION_PAUSE, Consumer
from qbridge_rabbitmq.publish.delayed import DelayedSender
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.publish.sender import Sender
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.requests import Requests
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.settle.acknowledgements import Acknowledgements, claim, unclaim
from qbridge_rabbitmq.settle.handbacks import Handbacks
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
_REFUSALS: Final = (AuthenticationError, ConfigurationError, QueueFullError, QueueMismatchError, UnroutableError)


class _Move(NamedTuple):
    """What ``reject`` was asked for."""

    requeue: bool
    delay: float
    failure: Failure | None
    queue: str | None


class Rejections:
    """Rejects deliveries of one client. Thread-safe.

    Args:
        io: sends what becomes of the originals.
        sender: publishes the copies.
        delayed: publishes those that shall come later.
        requests: has queues declared that are missing.
        declarations: what is known of the queues.
        lost: what was in flight when a channel ended.
        acknowledgements: end the originals.
        handbacks: put back what is to be tried as if it had not been here.
        consumer: that of a queue, if there is one.
    """

    def __init__(
        self,
        io: IOThread,
        sender: Sender,
        delayed: DelayedSender,
        requests: Requests,
        declarations: Declarations,
        lost: LostDeliveries,
        acknowledgements: Acknowledgements,
        handbacks: Handbacks,
        consumer: Callable[[str], Consumer | None],
    ) -> None:
        self._io = io
        self._sender = sender
        self._delayed = delayed
        self._requests = requests
        self._declarations = declarations
        self._lost = lost
        self._acknowledgements = acknowledgements
        self._handbacks = handbacks
        self._consumer = consumer
        self._breaker = delays.Breaker()

    def reject(
        self, delivery: Delivery, requeue: bool, delay: float, failure: Failure | None, queue: str | None
    ) -> None:
        """Carry out ``RabbitMQClient.reject``."""
        if requeue and failure is None and delay <= 0:
            self._handbacks.hand_back([delivery])
            return
        move = _Move(requeue, delay, failure, None if failure is None else queue)
        while (claimed := claim(delivery)) is None:
            if self._lost.record(delivery, functools.partial(self._move_later, delivery, move)):
                return
        if not claimed:
            return
        try:
            done = self._move(delivery, move)
        except BaseException:
            unclaim(delivery, self._lost)
            raise
        if done:
            self._acknowledgements.finish(delivery)

    def _move(self, delivery: Delivery, how: _Move) -> bool:
        """Carry a move out; True when the original has to be acknowledged now."""
        if how.requeue:
            self._retry(delivery, how.delay, how.failure, how.queue or delivery.queue)
            return True
        return self._dead_letter(delivery, how.failure or rejection(delivery))

    def _move_later(self, delivery: Delivery, how: _Move) -> bool:
        """Do what ``reject`` was asked for while there was no connection, now that the message is here again."""
        try:
            if self._move(delivery, how):
                self._acknowledgements.finish(delivery)
        except NotConnectedError:
            return True
        except MessageTooLargeError as exc:
            if not how.requeue:
                return self._return_later(delivery, how, exc)
            return self._move_later(delivery, how._replace(requeue=False))
        except Exception as exc:  # noqa: BLE001 - nobody else is there to hear of it
            if isinstance(exc, TransientError) and not isinstance(exc, QueueFullError):
                _log.warning("a message of %r cannot be settled yet: %s", delivery.queue, exc)
                return False
            return self._return_later(delivery, how, exc)
        return True

    def _return_later(self, delivery: Delivery, how: _Move, reason: Exception) -> bool:
        _log.error("a message of %r cannot be settled: %s; it goes back to the queue", delivery.queue, reason)
        if how.failure is not None:
            delivery.note(Noted(how.failure, is_final=not how.requeue))
        return not self._handbacks.return_claimed([delivery])

    def _retry(self, delivery: Delivery, delay: float, failure: Failure | None, queue: str) -> None:
        ours = failure.retry_headers() if failure is not None else copies.carried_on(delivery.meta)
        ours[DUE_AT] = headers.due(delay)
        if failure is None and delivery.suspected:
            ours[headers.SUSPECTED] = 1
        task_id = failure.task_id if failure is not None else ""
        arrival: Arrival = delivery.tag
        duplicates = self._lost.duplicates
        mark = duplicates.mark_of(delivery) or headers.new_mark()
        properties = copies.copy(arrival.properties, ours, task_id, mark, self._sender.room)
        message = Publication("", queue, properties, arrival.body)
        held = delay > 0 and self._breaker.allows(queue, monotonic())
        try:
            if not (held and self._send_held(message, delay, may_hurry=failure is not None)):
                self._send_copy(message)
        except PublishUnconfirmedError as exc:
            duplicates.add(delivery, mark)
            if held and exc.__cause__ is None:  # in time; the loss of a connection says nothing of the queue
                self._note_unconfirmed_delay(queue)
            raise
        duplicates.settle(delivery)

    def _send_held(self, message: Publication, delay: float, *, may_hurry: bool) -> bool:
        """Publish with a delay; False when the broker refuses to hold it, and it may come at once."""
        queue = message.routing_key
        try:
            self._delayed.send(message, delay)
        except _REFUSALS as exc:
            if not may_hurry:  # its task counts no attempts: it would run without end and without a pause
                raise
            if self._breaker.refused(queue, monotonic()):
                _log.error(
                    "the broker refuses delays of %r: %s; its tasks are retried without delay until it does not",
                    queue, exc,
                )  # fmt: skip
            return False
        self._breaker.worked(queue)
        return True

    def _note_unconfirmed_delay(self, queue: str) -> None:
        if self._breaker.failed(queue, monotonic()):
            _log.error(
                "the broker does not confirm delays of %r; its tasks are retried without delay until it does. A queue "
                "named %s* may be dead after a crash of the broker: look at it, and delete it if it is",
                queue, delays.name(queue, 0)[:-1],
            )  # fmt: skip

    def _send_copy(self, message: Publication) -> None:
        queue = message.routing_key
        try:
            self._sender.send([message])
        except UnroutableError:
            # Deleted under us. Whoever declared it, the message must not be lost with it.
            if self._consumer(queue) is not None:
                time.sleep(DELETION_PAUSE)
            delays.check_room(queue)
            self._requests.call(f"queue {queue!r}", self._declarations.declare(queue))
            self._declarations.remember(queue, None)
            self._sender.send([Publication("", queue, message.properties, message.body)])

    def _dead_letter(self, delivery: Delivery, failure: Failure) -> bool:
        arrival: Arrival = delivery.tag
        target = self._declarations.dead_letter_queue(delivery.queue)
        ours, room = failure.dead_letter_headers(), self._sender.room
        properties = copies.letter(arrival.properties, ours, failure.task_id, room)
        try:
            self._sender.send([Publication("", target, properties, arrival.body)])
        except UnroutableError:
            self._requests.call(f"queue {target!r}", self._declarations.declare_dead_letter_queue(target))
            self._sender.send([Publication("", target, properties, arrival.body)])
        except MessageTooLargeError as exc:
            if not self._declarations.has_route(delivery.queue):
                raise
            self._dead_letter_by_broker(delivery, target, exc)
            return False
        return True

    def _dead_letter_by_broker(self, delivery: Delivery, target: str, reason: QBridgeError) -> None:
        """A body over the limit of today cannot be published again, but the broker moves what it has already."""
        self._requests.call(f"queue {target!r}", self._declarations.declare_dead_letter_queue(target))
        if not delivery.tag.channel.give_back(delivery.tag.number, requeue=False):
            raise BrokerUnavailableError("the connection was lost; the message comes again") from reason
        self._io.wake()
        _log.error("a dead letter of %r goes without an explanation: %s", delivery.queue, reason)
