"""Messages of callers, checked and made ready to be published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from qbridge_core.backend import (
    Message,
    MessageTooLargeError,
    check_content,
    check_message,
    check_messages,
    check_queue_name,
)
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.publish.publisher import LARGE, Publication, pieces

CHUNK: Final = 200


def publication(queue: str, message: Message, room: int, most: int, delay: float = 0.0) -> Publication:
    """A message of a caller, checked.

    Args:
        queue: where it goes.
        message: what the caller gave.
        room: bytes that the connection has for the properties of a message.
        most: the option ``max_message_bytes``.
        delay: seconds after which it comes.

    Raises:
        ConfigurationError: the body is no bytes.
        MessageTooLargeError: its body is too large, or its headers leave no room for what may have to be written
            beside it later.
        PayloadError: headers or message id cannot be kept.
    """
    check_queue_name(queue)
    body, given, message_id = check_content(message, most)
    properties = headers.fresh(given, message_id, delay)
    if len(properties) > room // 2 and not copies.leaves_room(properties, room):  # half of it is never kept back
        raise MessageTooLargeError(
            f"the headers of a message for {queue!r} take {len(properties)} bytes: they do not fit into one frame "
            f"together with the explanation of a dead letter ({room} bytes in all); put large data into the body"
        )
    return Publication("", queue, properties, body)


def chunks(queue: str, messages: Iterable[Message], room: int, most: int) -> Iterator[list[Publication]]:
    """Some hundred messages each, less of long ones, and each very large message by itself."""
    return grouped(publication(queue, check_message(message), room, most) for message in check_messages(messages))


def grouped(publications: Iterable[Publication]) -> Iterator[list[Publication]]:
    """The same of messages that are ready."""
    return pieces(publications, _length, LARGE, CHUNK)


def _length(made: Publication) -> int:
    return len(made.body)
