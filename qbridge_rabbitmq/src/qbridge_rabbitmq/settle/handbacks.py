"""What goes back to its queue unsettled: as a copy, which the broker has not delivered yet."""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import (
    QBridgeError,
    logger,
)
from qbridge_rabbitmq.amqp import copies
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.state.identity import exact
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
HAND_BACK_TIMEOUT: Final = 1.0
# A quorum queue may have a limit of returns, and drops what exceeds it: RabbitMQ 4 sets one of 20 unless the queue says
# otherwise, as those that QBridge declares do.
MANY_RETURNS: Final = 10


def copy_back(broker: ConnectedBroker, queue: str, arrival: Arrival) -> Publication:
    """The copy of a message that goes back to its queue, nothing counted."""
    properties = copies.handed_back(arrival.properties, broker.sender.room)
    if arrival.handback is not None:
        broker.lost_deliveries.note_handback(exact(queue, properties, arrival.body), arrival.handback)
    return Publication("", queue, properties, arrival.body)


def give_back(broker: ConnectedBroker, queue: str, arrivals: list[Arrival]) -> None:
    """Return what nobody has taken: copies that the broker has not delivered yet, or else the messages themselves."""
    try:
        failed = broker.sender.send_each([copy_back(broker, queue, arrival) for arrival in arrivals], HAND_BACK_TIMEOUT)
    except QBridgeError as exc:
        _log.debug("messages of %r go back without copies: %s", queue, exc)
        for arrival in arrivals:
            arrival.channel.give_back(arrival.number)
    else:
        for position, arrival in enumerate(arrivals):
            if position in failed:
                arrival.channel.give_back(arrival.number)
            else:
                broker.lost_deliveries.replace(queue, arrival)
    broker.io.wake()
