"""What goes back to its queue unsettled: as a copy, which the broker has not delivered yet."""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import QBridgeError, logger
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.publish.sender import Sender
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.identity import exact
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
HAND_BACK_TIMEOUT: Final = 1.0
# A quorum queue may have a limit of returns, and drops what exceeds it: RabbitMQ 4 sets one of 20 unless the queue says
# otherwise, as those that QBridge declares do.
MANY_RETURNS: Final = 10
# A queue that somebody else declared may have any limit; the broker does not tell which.
FEW_RETURNS: Final = 2


class Handbacks:
    """Puts messages back into their queues. Thread-safe.

    Args:
        io: sends what becomes of the originals.
        sender: publishes the copies.
        lost: what was in flight when a channel ended.
    """

    def __init__(self, io: IOThread, sender: Sender, lost: LostDeliveries) -> None:
        self._io = io
        self._sender = sender
        self._lost = lost

    def copy_of(self, queue: str, arrival: Arrival) -> Publication:
        """The copy of a message that goes back to its queue, nothing counted and no suspicion lost."""
        suspicion = {headers.SUSPECTED: 1} if arrival.suspected else None
        properties = copies.handed_back(arrival.properties, self._sender.room, suspicion)
        if arrival.handback is not None:
            self._lost.note_handback(exact(queue, properties, arrival.body), arrival.handback)
        return Publication("", queue, properties, arrival.body)

    def give_back(self, queue: str, arrivals: list[Arrival]) -> None:
        """Return what nobody has taken: as copies that the broker has not delivered yet, or else as it is."""
        try:
            failed = self._sender.send_each([self.copy_of(queue, one) for one in arrivals], HAND_BACK_TIMEOUT)
        except QBridgeError as exc:
            _log.debug("messages of %r go back without copies: %s", queue, exc)
            for arrival in arrivals:
                arrival.channel.give_back(arrival.number)
        else:
            for position, arrival in enumerate(arrivals):
                if position in failed:
                    arrival.channel.give_back(arrival.number)
                else:
                    self._lost.replace(queue, arrival)
        self._io.wake()

    def renew(self, queue: str, arrival: Arrival) -> bool:
        """Put a copy, which the broker counts anew, in the place of a message that it may soon drop; whether it did."""
        if headers.delivery_count(arrival.properties) < FEW_RETURNS:
            return False
        try:
            self._sender.send([self.copy_of(queue, arrival)], HAND_BACK_TIMEOUT)
        except QBridgeError as exc:
            _log.debug("a message of %r is close to its delivery limit: %s", queue, exc)
            return False
        self._lost.replace(queue, arrival)
        self._io.wake()
        return True
