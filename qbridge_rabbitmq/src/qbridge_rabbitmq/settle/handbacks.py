"""Messages to publish: made of what callers gave, or as copies of what came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from qbridge_core.backend import (
    NO_HEADERS,
    Message,
    MessageTooLargeError,
    QBridgeError,
    check_body,
    check_headers,
    check_message,
    check_message_id,
    check_messages,
    check_queue_name,
    logger,
)
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.publish.publisher import LARGE, Publication
from qbridge_rabbitmq.state.identity import exact, key_of
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
CHUNK: Final = 200
HAND_BACK_TIMEOUT: Final = 1.0
# A quorum queue may have a limit of returns, and drops what exceeds it: RabbitMQ 4 sets one of 20 unless the queue says
# otherwise, as those that QBridge declares do.
MANY_RETURNS: Final = 10


def publication(queue: str, message: Message, room: int, most: int) -> Publication:
    """A message of a caller, checked.

    Args:
        queue: where it goes.
        message: what the caller gave.
        room: bytes that the connection has for the properties of a message.
        most: the option ``max_message_bytes``.

    Raises:
        ConfigurationError: the body is no bytes.
        MessageTooLargeError: its body is too large, or its headers leave no room for what may have to be written
            beside it later.
        PayloadError: headers or message id cannot be kept.
    """
    check_queue_name(queue)
    body = check_body(message.body, most)
    given = message.headers
    if given is not NO_HEADERS:
        given = check_headers(given)
    properties = headers.fresh(given, check_message_id(message.message_id))
    if len(properties) > room // 2 and not copies.leaves_room(properties, room):  # half of it is never kept back
        raise MessageTooLargeError(
            f"the headers of a message for {queue!r} take {len(properties)} bytes: they do not fit into one frame "
            f"together with the explanation of a dead letter ({room} bytes in all); put large data into the body"
        )
    return Publication("", queue, properties, body)


def chunks(queue: str, messages: Iterable[Message], room: int, most: int) -> Iterator[list[Publication]]:
    """Some hundred messages each, less of long ones, and each very large message by itself."""
    chunk: list[Publication] = []
    size = 0
    for message in check_messages(messages):
        made = publication(queue, check_message(message), room, most)
        length = len(made.body)
        if chunk and (len(chunk) >= CHUNK or size + length > LARGE):
            yield chunk
            chunk, size = [], 0
        chunk.append(made)
        size += length
    if chunk:
        yield chunk


def copy_back(broker: ConnectedBroker, queue: str, arrival: Arrival) -> Publication:
    """The copy of a message that goes back to its queue, nothing counted."""
    properties = copies.handed_back(arrival.properties, broker.sender.room)
    if arrival.handback is not None:
        broker.lost_deliveries.note_handback(exact(queue, properties, arrival.body), arrival.handback)
    return Publication("", queue, properties, arrival.body)


def replace(broker: ConnectedBroker, queue: str, arrival: Arrival) -> None:
    """A copy of it exists: acknowledge it, or when its connection was lost meanwhile, as soon as it comes back."""
    if not arrival.channel.acknowledge(arrival):
        broker.lost_deliveries.note_done(key_of(queue, arrival.trace))


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
                replace(broker, queue, arrival)
    broker.io.wake()
