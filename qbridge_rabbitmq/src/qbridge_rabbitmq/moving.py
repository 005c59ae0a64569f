"""How a message gets elsewhere: back to its queue, to a later time, to the suspects, to the dead letters.

Always as a copy, which the broker has confirmed before the original is acknowledged.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final

from qbridge_core import (
    ConfigurationError,
    Delivery,
    Failure,
    NotConnectedError,
    PublishUnconfirmedError,
    QBridgeError,
    TransientError,
    UnroutableError,
    check_queue_name,
    rejection,
)
from qbridge_core.logs import logger
from qbridge_core.message import MAX_ID_CHARS
from qbridge_core.suspects import suspects_queue
from qbridge_rabbitmq import delays, headers
from qbridge_rabbitmq.handout import claim, finish
from qbridge_rabbitmq.lane import DELETION_PAUSE
from qbridge_rabbitmq.life import Arrival
from qbridge_rabbitmq.outgoing import HAND_BACK_TIMEOUT, copy_back
from qbridge_rabbitmq.publisher import Outgoing
from qbridge_rabbitmq.session import Session
from qbridge_rabbitmq.topology import Topology

_log: Final = logger("qbridge.rabbitmq")


def check_room(queue: str) -> None:
    """Refuse a name to which those of the queue's delays cannot be added.

    Raises:
        ConfigurationError: it is too long.
    """
    if not delays.fit(queue):
        raise ConfigurationError(
            f"on RabbitMQ the name of a queue must have at most {delays.MAX_QUEUE_BYTES} bytes in UTF-8 (the rest "
            f"of {MAX_ID_CHARS} is for its delays), and that of a TaskManager's input queue at most "
            f"{delays.MAX_QUEUE_BYTES - len(suspects_queue(''))}; this is longer: {queue!r}"
        )


class Mover:
    """Moves the messages of one session. Thread-safe.

    Args:
        session: the connections.
        topology: what is known of the queues.
    """

    def __init__(self, session: Session, topology: Topology) -> None:
        self._session = session
        self._topology = topology
        self._breaker = delays.Breaker()

    def reject(
        self, delivery: Delivery, requeue: bool, delay: float, failure: Failure | None, queue: str | None
    ) -> None:
        """Carry out ``RabbitMQClient.reject``."""
        ledger = self._session.ledger
        hand_back = requeue and failure is None and delay <= 0
        move = functools.partial(self._move, delivery, requeue, delay, failure, queue)
        later = None if hand_back else functools.partial(self._move_later, delivery, move)
        while (claimed := claim(delivery)) is None:
            if hand_back:
                self._withdraw_doubts(delivery)
            if ledger.record(delivery, later):
                return
        if not claimed:
            return
        if hand_back:
            self._withdraw_doubts(delivery)
            self._hand_back(delivery)
            return
        try:
            move()
        except BaseException:
            while not delivery.tag.life.unclaim(delivery.tag.number) and not ledger.unclaim(delivery):
                pass
            raise
        finish(self._session, delivery)

    def send_later(self, message: Outgoing, delay: float, timeout: float | None = None) -> None:
        """Publish a message for a queue into the delay level that the highest bit of the delay names."""
        session, queue = self._session, message.routing_key
        units = delays.units(delay)
        top = delays.top_level(units)
        check_room(check_queue_name(queue))
        for attempt in (1, 2):
            if not self._topology.has_levels(queue, top):
                session.request(f"queue {queue!r}", self._topology.declare_levels(queue, top))
            delayed = Outgoing(delays.name(queue, top), delays.routing_key(units), message.properties, message.body)
            try:
                session.send([delayed], timeout)
            except UnroutableError:
                if attempt == 2:
                    raise
                self._topology.forget_levels(queue)  # somebody deleted them
            else:
                return

    # ------------------------------------------------------------------ back to the queue

    def _withdraw_doubts(self, delivery: Delivery) -> None:
        self._session.ledger.doubts.withdraw(headers.read(delivery.tag.properties).mark)

    def _hand_back(self, delivery: Delivery) -> None:
        session = self._session
        arrival: Arrival = delivery.tag
        lane = session.existing_lane(delivery.queue)
        if lane is not None and (lane.works or self._topology.is_side_queue(delivery.queue)):
            try:
                session.send([copy_back(delivery.queue, arrival)], HAND_BACK_TIMEOUT)
            except QBridgeError as exc:
                _log.debug("a message of %r goes back without a copy: %s", delivery.queue, exc)
            else:
                finish(session, delivery)
                return
        while not delivery.tag.life.give_back(delivery.tag.number):  # its connection was lost meanwhile
            if session.ledger.unclaim(delivery) and session.ledger.record(delivery, None):
                return
        session.io.wake()

    # ------------------------------------------------------------------ elsewhere

    def _move(
        self, delivery: Delivery, requeue: bool, delay: float, failure: Failure | None, queue: str | None
    ) -> None:
        if requeue:
            self._retry(delivery, delay, failure, queue or delivery.queue)
        else:
            self._dead_letter(delivery, failure or rejection(delivery))

    def _move_later(self, delivery: Delivery, move: Callable[[], None]) -> bool:
        """Do what ``reject`` was asked for while there was no connection, now that the message is here again."""
        try:
            move()
        except NotConnectedError:
            return True
        except TransientError as exc:
            _log.warning("a message of %r cannot be settled yet: %s", delivery.queue, exc)
            return False
        except Exception:  # noqa: BLE001 - nobody else is there to hear of it
            _log.exception("a message of %r cannot be settled; it goes back to the queue", delivery.queue)
            self._withdraw_doubts(delivery)
            delivery.tag.life.give_back(delivery.tag.number)
            self._session.io.wake()
            return True
        finish(self._session, delivery)
        return True

    def _retry(self, delivery: Delivery, delay: float, failure: Failure | None, queue: str) -> None:
        ours = failure.retry_headers() if failure is not None else headers.history(delivery.meta)
        task_id = failure.task_id if failure is not None else ""
        arrival: Arrival = delivery.tag
        doubts = self._session.ledger.doubts
        mark = doubts.mark_of(delivery) or headers.new_mark()
        message = Outgoing("", queue, headers.copy(arrival.properties, ours, task_id, mark), arrival.body)
        held = delay > 0 and self._breaker.allows(queue, time.monotonic())
        try:
            if held:
                self.send_later(message, delay)
                self._breaker.worked(queue)
            else:
                self._send_copy(message)
        except PublishUnconfirmedError as exc:
            doubts.add(delivery, mark)
            if held and exc.__cause__ is None:  # in time; the loss of a connection says nothing of the queue
                self._note_unconfirmed_delay(queue)
            raise
        doubts.settle(delivery)

    def _note_unconfirmed_delay(self, queue: str) -> None:
        if self._breaker.failed(queue, time.monotonic()):
            _log.error(
                "the broker does not confirm delays of %r; its tasks are retried without delay until it does. A queue "
                "named %s* may be dead after a crash of the broker: look at it, and delete it if it is",
                queue, delays.name(queue, 0)[:-1],
            )  # fmt: skip

    def _send_copy(self, message: Outgoing) -> None:
        session, queue = self._session, message.routing_key
        try:
            session.send([message])
        except UnroutableError:
            # Deleted under us. Whoever declared it, the message must not be lost with it.
            if session.existing_lane(queue) is not None:
                time.sleep(DELETION_PAUSE)
            check_room(queue)
            session.request(f"queue {queue!r}", self._topology.declare(queue))
            self._topology.remember(queue, None)
            session.send([Outgoing("", queue, message.properties, message.body)])

    def _dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        session = self._session
        arrival: Arrival = delivery.tag
        target = self._topology.dead_letter_queue(delivery.queue)
        properties = headers.copy(arrival.properties, failure.dead_letter_headers(), failure.task_id)
        try:
            session.send([Outgoing("", target, properties, arrival.body)])
        except UnroutableError:
            session.request(f"queue {target!r}", self._topology.declare_dead_letter_queue(target))
            session.send([Outgoing("", target, properties, arrival.body)])
