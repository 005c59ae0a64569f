"""What goes back to its queue unsettled: as a copy, which the broker has not delivered yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from qbridge_core.backend import Delivery, PublishUnconfirmedError, QBridgeError, logger
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.publish.messages import CHUNK
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.publish.sender import Sender
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.settle.acknowledgements import Acknowledgements, claim, unclaim
from qbridge_rabbitmq.state.identity import exact
from qbridge_rabbitmq.state.in_flight import Arrival, Handback

_Any = TypeVar("_Any")
_log: Final = logger("qbridge.rabbitmq")
# What goes back without its copy is a suspect, and there twice when the copy arrives after all: worth some patience.
_TIMEOUT: Final = 5.0
_RENEWAL_TIMEOUT: Final = 1.0
# A quorum queue may have a limit of returns, and drops what exceeds it: RabbitMQ 4 sets one of 20 unless the queue says
# otherwise, as those that QBridge declares do.
_MANY_RETURNS: Final = 10
# A queue that somebody else declared may have any limit; the broker does not tell which.
FEW_RETURNS: Final = 2


class Handbacks:
    """Puts messages back into their queues. Thread-safe.

    Args:
        io: sends what becomes of the originals.
        sender: publishes the copies.
        declarations: what is known of the queues.
        lost: what was in flight when a channel ended.
        acknowledgements: end the originals.
        consumer: that of a queue, if there is one.
    """

    def __init__(
        self,
        io: IOThread,
        sender: Sender,
        declarations: Declarations,
        lost: LostDeliveries,
        acknowledgements: Acknowledgements,
        consumer: Callable[[str], Consumer | None],
    ) -> None:
        self._io = io
        self._sender = sender
        self._declarations = declarations
        self._lost = lost
        self._acknowledgements = acknowledgements
        self._consumer = consumer

    # ------------------------------------------------------------------ what somebody was given

    def hand_back(self, deliveries: Sequence[Delivery]) -> None:
        """Carry out ``RabbitMQClient.hand_back``: every copy is on its way before a confirmation is waited for.

        Raises:
            QBridgeError: the first of those that cannot go back; the others do.
        """
        errors: list[Exception] = []
        claimed: list[Delivery] = []
        for delivery in deliveries:
            try:
                if self._claim(delivery):
                    claimed.append(delivery)
            except QBridgeError as exc:
                errors.append(exc)
        try:
            failed = [each for some in _parts(claimed) for each in self.return_claimed(some)]
        except BaseException:
            for delivery in claimed:
                unclaim(delivery, self._lost)
            raise
        for delivery, error in failed:
            unclaim(delivery, self._lost)
            errors.append(error)
        if errors:
            raise errors[0]

    def return_claimed(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Exception]]:
        """Hand back what the caller has claimed; those that cannot go back now stay so, and why."""
        failed: list[tuple[Delivery, Exception]] = []
        refused: list[tuple[Delivery, QBridgeError | None]] = []
        copied: list[tuple[Delivery, Publication]] = []
        for delivery in deliveries:
            try:
                self._withdraw_duplicates(delivery)
                if self._goes_as_a_copy(delivery.queue):
                    copied.append((delivery, self._copy(delivery)))
                else:
                    refused.append((delivery, None))
            except Exception as exc:  # noqa: BLE001 - the others go back all the same
                failed.append((delivery, exc))
        for position, refusal in self._sender.send_apart([copy for _, copy in copied], _TIMEOUT):
            delivery, copy = copied[position]
            if refusal is None:
                self._acknowledgements.finish(delivery)
            else:
                self._note_refusal(delivery, copy, refusal)
                refused.append((delivery, refusal))
        for delivery, refusal in refused:
            try:
                self._return_original(delivery, refusal)
            except QBridgeError as exc:
                failed.append((delivery, exc))
        return failed

    def _claim(self, delivery: Delivery) -> bool:
        """Take the right to hand a delivery back; False when it is settled, or goes back by itself."""
        while (claimed := claim(delivery)) is None:
            self._withdraw_duplicates(delivery)
            self._remember(delivery)
            if self._lost.record(delivery, None):
                return False
        return claimed

    def _withdraw_duplicates(self, delivery: Delivery) -> None:
        self._lost.duplicates.withdraw(headers.read(delivery.tag.properties).mark)

    def _goes_as_a_copy(self, queue: str) -> bool:
        consumer = self._consumer(queue)
        return consumer is not None and (consumer.works or self._declarations.is_side_queue(queue))

    def _copy(self, delivery: Delivery) -> Publication:
        arrival: Arrival = delivery.tag
        noted = delivery.noted
        if noted is None:
            return self.copy_of(delivery.queue, arrival)
        ours, room = copies.carried_on(delivery.meta) | noted.failure.retry_headers(), self._sender.room
        properties = copies.copy(arrival.properties, ours, noted.failure.task_id, headers.new_mark(), room)
        key = exact(delivery.queue, properties, arrival.body)
        self._lost.note_handback(key, Handback(noted, suspected=False))
        return Publication("", delivery.queue, properties, arrival.body)

    def _note_refusal(self, delivery: Delivery, copy: Publication, refusal: QBridgeError) -> None:
        _log.debug("a message of %r goes back without a copy: %s", delivery.queue, refusal)
        if not isinstance(refusal, PublishUnconfirmedError):
            self._lost.take_handback(exact(delivery.queue, copy.properties, copy.body))

    def _return_original(self, delivery: Delivery, refusal: QBridgeError | None) -> None:
        if refusal is not None:
            self._require_room_for_return(delivery, refusal)
            self._remember(delivery, came_back=True)
        while not delivery.tag.channel.give_back(delivery.tag.number):  # its connection was lost meanwhile
            if self._lost.unclaim(delivery) and self._lost.record(delivery, None):
                return
        self._io.wake()

    def _require_room_for_return(self, delivery: Delivery, refusal: QBridgeError) -> None:
        """Keep what the broker may drop when it comes back once more: a quorum queue can have a limit of returns."""
        queue = delivery.queue
        if self._declarations.is_unlimited(queue) or self._declarations.has_route(queue):
            return
        if headers.delivery_count(delivery.tag.properties) >= _MANY_RETURNS:
            raise refusal

    def _remember(self, delivery: Delivery, *, came_back: bool = False) -> None:
        """Recognize the message when it comes again, if there is something to know about it."""
        arrival: Arrival = delivery.tag
        if came_back or delivery.noted is not None or arrival.suspected:
            key = exact(delivery.queue, arrival.properties, arrival.body)
            self._lost.note_handback(key, Handback(delivery.noted, delivery.suspected))

    # ------------------------------------------------------------------ what nobody was given

    def give_back(self, queue: str, arrivals: Sequence[Arrival]) -> None:
        """Return what nobody has taken: as copies that the broker has not delivered yet, or else as it is."""
        for some in _parts(arrivals):
            for position, refusal in self._sender.send_apart([self.copy_of(queue, one) for one in some], _TIMEOUT):
                arrival = some[position]
                if refusal is None:
                    self._lost.replace(queue, arrival)
                else:
                    _log.debug("a message of %r goes back without a copy: %s", queue, refusal)
                    arrival.channel.give_back(arrival.number)
                self._io.wake()

    def return_unread(self, queue: str, arrival: Arrival) -> None:
        """Return a message that nobody wanted to have."""
        if self._goes_as_a_copy(queue):
            self.give_back(queue, [arrival])
        elif arrival.channel.give_back(arrival.number):
            self._io.wake()

    def renew(self, queue: str, arrival: Arrival) -> bool:
        """Put a copy, which the broker counts anew, in the place of a message that it may soon drop; whether it did."""
        if headers.delivery_count(arrival.properties) < FEW_RETURNS:
            return False
        try:
            self._sender.send([self.copy_of(queue, arrival)], _RENEWAL_TIMEOUT)
        except QBridgeError as exc:
            _log.debug("a message of %r is close to its delivery limit: %s", queue, exc)
            return False
        self._lost.replace(queue, arrival)
        self._io.wake()
        return True

    def copy_of(self, queue: str, arrival: Arrival) -> Publication:
        """The copy of a message that goes back to its queue, nothing counted and no suspicion lost."""
        suspicion = {headers.SUSPECTED: 1} if arrival.suspected else None
        properties = copies.handed_back(arrival.properties, self._sender.room, suspicion)
        if arrival.handback is not None:
            self._lost.note_handback(exact(queue, properties, arrival.body), arrival.handback)
        return Publication("", queue, properties, arrival.body)


def _parts(whole: Sequence[_Any]) -> list[Sequence[_Any]]:
    return [whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK)]
