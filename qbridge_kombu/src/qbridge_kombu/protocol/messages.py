"""Messages as they go to a transport, and as they come from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from qbridge_core.backend import DeadLetter, letter_headers, plain_headers

CONTENT_TYPE: Final = "application/data"
CONTENT_ENCODING: Final = "binary"
"""What kombu calls bytes that nobody but the consumer decodes."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish, or a copy of one.

    Attributes:
        body: the exact bytes.
        headers: the producer's and QBridge's, flat. Values are strings, or what a foreign producer had written.
        properties: ``message_id``, ``content_type``, ``content_encoding``, and in a copy what else the original had.
        delay: seconds for which the broker holds it back, at most the transport's ``max_native_delay``.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    delay: float = 0.0


@dataclass(slots=True, eq=False)
class Received:
    """A message that a transport handed out.

    Attributes:
        body: the producer's bytes.
        headers: all headers, without those that the broker has added.
        properties: what a copy of it must have: see :class:`Outgoing`.
        handle: the transport's own: a delivery tag, a receipt handle, a row.
        redelivered: the broker says that it has handed it out before.
        suspected: a process may have died with it: the broker handed it out before, and that was no hand-back. What
            this client had itself when its connection was lost is recognized by the bridge.
        identity: the broker's own name of the message, the same at each delivery, where it has one and any session
            settles: the bridge recognizes what it holds or has removed, and settles it with the newest handle.
        sent: when it was published (Unix time in milliseconds), where the broker or a foreign producer tells; else 0.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    handle: Any = field(default=None, repr=False)
    redelivered: bool = False
    suspected: bool = False
    identity: str | None = None
    sent: int = 0


def imported(letter: DeadLetter) -> Outgoing:
    """A letter as it lies in another queue."""
    properties: dict[str, Any] = {"content_type": CONTENT_TYPE, "content_encoding": CONTENT_ENCODING}
    if letter.message_id is not None:
        properties["message_id"] = letter.message_id
    return Outgoing(letter.body, {**plain_headers(letter.headers), **letter_headers(letter)}, properties)


def prepared(channel: Any, message: Outgoing) -> Any:
    """A message as a channel of kombu's takes it."""
    properties = dict(message.properties)
    return channel.prepare_message(
        message.body,
        priority=properties.pop("priority", None),
        content_type=properties.pop("content_type", CONTENT_TYPE),
        content_encoding=properties.pop("content_encoding", CONTENT_ENCODING),
        headers=dict(message.headers),
        properties=properties,
    )
