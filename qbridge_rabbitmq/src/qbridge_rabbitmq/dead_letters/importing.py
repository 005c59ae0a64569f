"""Puts letters into a dead-letter queue as they lie in another one, here or at another broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qbridge_core.backend import (
    MAX_ID_CHARS,
    DeadLetter,
    MessageTooLargeError,
    PayloadError,
    letter_headers,
)
from qbridge_rabbitmq.amqp import copies
from qbridge_rabbitmq.amqp.headers import DELIVERY_MODE, HEADERS, MESSAGE_ID, PERSISTENT, is_brokers, join
from qbridge_rabbitmq.amqp.tables import short, table, written
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.publish.messages import grouped
from qbridge_rabbitmq.publish.publisher import Publication

_BLIND_COPIES: Final = "BCC"  # CC is kept under another name


def import_letters(broker: ConnectedBroker, queue: str, letters: Sequence[DeadLetter]) -> int:
    """Publish them in order, some hundred at a time; how many.

    Raises:
        PayloadError: one has what no message of AMQP can carry; nothing was published.
        MessageTooLargeError: its headers do not fit into a frame; nothing was published.
        QBridgeError: the first that could not be published.
    """
    room = broker.sender.room
    publications = [Publication("", queue, _properties(letter, room), letter.body) for letter in letters]
    for chunk in grouped(publications):
        broker.sender.send(chunk)
    return len(publications)


def _properties(letter: DeadLetter, room: int) -> bytes:
    entries = [_entry(name, value) for name, value in letter.headers.items()]
    fields = {DELIVERY_MODE: PERSISTENT, HEADERS: table(b"".join(entries))}
    if letter.message_id is not None:
        fields[MESSAGE_ID] = _short(letter.message_id, "message_id")
    properties = copies.copy(join(fields), letter_headers(letter), most=room)
    if len(properties) > room:
        raise MessageTooLargeError(
            f"the headers of letter {letter.id!r} take {len(properties)} bytes, and a frame {room}"
        )
    return properties


def _entry(name: str, value: object) -> bytes:
    if name == _BLIND_COPIES or is_brokers(name):
        raise PayloadError(f"RabbitMQ takes the header {name!r} for its own, and drops it")
    try:
        return _short(name, "the name of a header") + written(value)
    except (TypeError, ValueError) as exc:
        raise PayloadError(f"AMQP 0-9-1 has no such value as that of the header {name!r}: {exc}") from exc


def _short(text: str, what: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_ID_CHARS:
        raise PayloadError(f"{what} has {MAX_ID_CHARS} bytes at most in AMQP 0-9-1, not {len(encoded)}")
    return short(encoded)
