"""Publishes with confirms: many messages under way at once, each with its own outcome.

Every message is published ``mandatory`` and persistent on a channel in confirm mode (rabbitmq.com/docs/confirms). The
broker returns one that no queue takes, before it confirms it. A return carries no delivery tag; it is matched by
where the message went and what it is, in the order of publishing.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from pika import spec
from pika.channel import Channel

from qbridge_core.backend import (
    BrokerBlockedError,
    BrokerUnavailableError,
    MessageTooLargeError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueFullError,
    UnroutableError,
    logger,
    monotonic,
)
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.connection import AmqpConnection, raw_properties
from qbridge_rabbitmq.amqp.frames import HEADER_OVERHEAD, UnwritableError
from qbridge_rabbitmq.connection.options import FRAME_MAX

_log: Final = logger("qbridge.rabbitmq")
_Item = TypeVar("_Item")
# A message over the broker's limit makes it close the channel, and then nobody knows what became of the others on it.
LARGE: Final = 4 * 1024 * 1024
# A channel that publishes to a quorum queue whose leader has just died is told the dead one, and RabbitMQ 3.10 goes on
# refusing what comes through it when there is a new leader. A new channel learns of that one.
_RENEW_AFTER: Final = 0.5
# What goes in one write is made and copied into one piece first: the broker shall have something to do meanwhile.
_ONE_WRITE: Final = 256 * 1024
_BESIDE: Final = 64  # bytes of a message beside its properties and its body, about


class Publication:
    """One message to publish: where to, its properties as bytes, its body."""

    __slots__ = ("batch", "body", "exchange", "properties", "returned", "routing_key")

    def __init__(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body
        self.returned = False
        self.batch: Batch


class Batch:
    """Messages whose sender waits until all of them have an outcome.

    Attributes:
        errors: of those that failed, by their position.
    """

    def __init__(self, messages: Sequence[Publication]) -> None:
        self.messages = messages
        self.sent = False
        self.heard = -1
        self._open = len(messages)
        self.errors: dict[int, QBridgeError] = {}
        self._done = threading.Lock()
        self._done.acquire()
        for message in messages:
            message.batch = self

    def wait(self, timeout: float) -> bool:
        """In the sender's thread, once: wait for the outcomes; False when they did not come in time."""
        return self._done.acquire(timeout=timeout)

    def raise_error(self) -> None:
        """Raise the error of the first message that failed, if one did."""
        if self.errors:
            raise self.errors[min(self.errors)]

    def settle(self, message: Publication, error: QBridgeError | None = None) -> None:
        """In the I/O thread: one message has its outcome."""
        if error is not None:
            self.errors[self.messages.index(message)] = error
        self._open -= 1
        if not self._open:
            self._done.release()

    def fail(self, error: QBridgeError) -> None:
        """In the I/O thread: none of the messages was sent."""
        self.errors = dict.fromkeys(range(len(self.messages)), error)
        self._done.release()


class ConfirmChannel:
    """A channel in confirm mode. All methods run in the I/O thread."""

    def __init__(self, connection: AmqpConnection, purpose: str, heard: Callable[[], None]) -> None:
        self.closed: BaseException | None = None
        self._connection = connection
        self._purpose = purpose
        self._heard = heard
        self._opened_at = monotonic()
        self._refused = self._retired = False
        self._ready = False
        self._waiting: list[Batch] = []
        self._unconfirmed: dict[int, Publication] = {}
        self._last_tag = 0
        self._channel: Channel = connection.channel(on_open_callback=self._opened)
        self._channel.add_on_close_callback(self._on_close)

    @property
    def is_usable(self) -> bool:
        """Whether the next batch should be published here."""
        return self.closed is None and not (self._refused and monotonic() - self._opened_at > _RENEW_AFTER)

    def retire(self) -> None:
        """Close as soon as nothing is unconfirmed."""
        self._retired = True
        if not self._unconfirmed and self._channel.is_open:
            self._channel.close()

    def publish(self, batches: Sequence[Batch]) -> None:
        """Publish all messages of some batches in one write, now or as soon as the channel is open."""
        if not self._ready:
            self._waiting += batches
            return
        messages: list[Publication] = []
        for batch in batches:
            batch.sent = True
            messages += self._without_too_large(batch) if self._connection.largest_body else batch.messages
        try:
            self._send(messages)
        except UnwritableError:
            self._send_each(messages)
        except Exception as exc:  # noqa: BLE001 - nothing was written; the senders must learn it
            for message in messages:
                message.batch.settle(message, errors.from_channel(exc, repr(message.routing_key)))

    def _send(self, messages: Sequence[Publication]) -> None:
        """Write messages; when that fails half way, they are unconfirmed, and the connection ends.

        Raises:
            Exception: nothing was written.
        """
        before = self._last_tag
        for message in messages:
            self._last_tag += 1
            self._unconfirmed[self._last_tag] = message
        try:
            self._connection.send_messages(self._channel.channel_number, messages)
        except BaseException:
            for tag in range(before + 1, self._last_tag + 1):
                del self._unconfirmed[tag]
            self._last_tag = before
            raise

    def _send_each(self, messages: Sequence[Publication]) -> None:
        """One of them cannot be sent: it must not keep the others from it."""
        for message in messages:
            try:
                self._send([message])
            except UnwritableError as exc:
                error = MessageTooLargeError(f"a message for {message.routing_key[:255]!r} cannot be sent: {exc}")
                error.__cause__ = exc
                message.batch.settle(message, error)
            except Exception as exc:  # noqa: BLE001 - as above
                message.batch.settle(message, errors.from_channel(exc, repr(message.routing_key)))

    def _without_too_large(self, batch: Batch) -> list[Publication]:
        """What the broker takes; it would close the channel for the others, and nobody would know of those on it."""
        most = self._connection.largest_body
        for message in batch.messages:
            if len(message.body) > most:
                batch.settle(message, _over_limit(message, f"the server's max_message_size is {most}"))
        return [message for message in batch.messages if len(message.body) <= most]

    def _opened(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._on_ready)

    def _on_ready(self, frame: Any) -> None:
        del frame
        self._ready = True
        self._connection.confirmed[self._channel.channel_number] = self._settle
        waiting, self._waiting = self._waiting, []
        for together in pieces(waiting, _length, _ONE_WRITE):
            self.publish(together)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        self._settle(method.delivery_tag, method.multiple, isinstance(method, spec.Basic.Nack))

    def _settle(self, tag: int, multiple: bool, refused: bool = False) -> None:
        self._heard()
        self._refused = self._refused or refused
        if multiple:
            self._confirm_up_to(tag, refused)
        else:
            self._confirm(tag, refused)
        if self._retired:
            self.retire()

    def _confirm_up_to(self, tag: int, refused: bool) -> None:
        confirmed = []
        for earlier in self._unconfirmed:  # in ascending order
            if earlier > tag:
                break
            confirmed.append(earlier)
        for earlier in confirmed:
            self._confirm(earlier, refused)

    def _confirm(self, tag: int, refused: bool) -> None:
        message = self._unconfirmed.pop(tag, None)
        if message is None:
            return
        error: QBridgeError | None = None
        if message.returned:
            error = UnroutableError(f"no queue takes messages for {message.routing_key!r}; declare it first")
        elif refused:
            error = QueueFullError(f"queue {message.routing_key!r} is full, or cannot take messages now")
        message.batch.settle(message, error)

    def _on_return(self, channel: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
        del channel
        raw = raw_properties(properties)
        same_key = None
        for message in self._unconfirmed.values():
            if message.returned or (message.exchange, message.routing_key) != (method.exchange, method.routing_key):
                continue
            if message.body == body and message.properties == raw:
                message.returned = True
                return
            same_key = same_key or message
        if same_key is not None:  # the broker wrote the properties differently: returns come in order
            same_key.returned = True

    def end(self, reason: BaseException) -> None:
        """The connection is lost."""
        if self.closed is None:
            self._on_close(self._channel, reason)

    def _on_close(self, channel: Channel, reason: BaseException) -> None:
        if self.closed is not None:
            return
        self.closed = reason
        self._connection.confirmed.pop(channel.channel_number, None)
        size, most = errors.too_large(reason)
        self._connection.largest_body = most or self._connection.largest_body
        text = errors.reply_text(reason)
        for message in self._unconfirmed.values():
            error: QBridgeError
            if size and len(message.body) == size:
                error = _over_limit(message, text)
            elif errors.is_missing(reason):
                error = UnroutableError(f"{message.exchange!r}: {text}")
            elif errors.is_forbidden(reason, message.exchange):
                error = errors.from_channel(reason, f"a message for {message.routing_key!r}", "write")
            else:
                error = PublishUnconfirmedError(
                    f"{self._purpose}: the channel was lost before the confirmation: {text}"
                )
            error.__cause__ = reason
            message.batch.settle(message, error)
        self._unconfirmed.clear()
        for batch in self._waiting:
            batch.fail(errors.from_channel(reason, self._purpose))
        self._waiting.clear()


def _purpose(batch: Batch) -> str:
    """Which channel a batch goes through."""
    first = batch.messages[0]
    return "delay" if first.exchange else "large" if len(first.body) > LARGE else "publish"


def _length(batch: Batch) -> int:
    """About how many bytes a batch is on the wire."""
    return sum([len(message.body) + len(message.properties) + _BESIDE for message in batch.messages])


def pieces(
    items: Iterable[_Item], size: Callable[[_Item], int], most: int, count: float = math.inf
) -> Iterator[list[_Item]]:
    """As many at a time as are not too long together, or too many; what is too long alone comes by itself."""
    piece: list[_Item] = []
    length = 0
    for item in items:
        more = size(item)
        if piece and (len(piece) >= count or length + more > most):
            yield piece
            piece, length = [], 0
        piece.append(item)
        length += more
    if piece:
        yield piece


def _over_limit(message: Publication, reason: str) -> QBridgeError:
    return MessageTooLargeError(f"a message of {len(message.body)} bytes for {message.routing_key!r}: {reason}")


class Publisher:
    """Publishes on the publishing connection. All methods run in the I/O thread, unless they say otherwise.

    Attributes:
        room: how many bytes the properties of a message may have (for any thread); of the last connection while there
            is none.
    """

    def __init__(self) -> None:
        self.room = FRAME_MAX - HEADER_OVERHEAD
        self.blocked = ""
        self._connection: AmqpConnection | None = None
        self._channels: dict[str, ConfirmChannel] = {}
        self._confirms = 0  # frames, which may confirm several messages

    def up(self, connection: AmqpConnection) -> None:
        """The connection is there."""
        self._connection = connection
        self.room = connection.largest_properties
        self._confirms += 1  # what is older was not published here
        self.blocked = ""
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._channel(connection, "publish")

    def down(self, reason: BaseException) -> None:
        """The connection is lost. The channels have told the senders, unless all was lost in an unforeseen way."""
        self._connection = None
        for channel in self._channels.values():
            channel.end(reason)
        self._channels.clear()
        self.blocked = ""

    def submit(self, batches: Sequence[Batch]) -> None:
        """Publish batches; each message gets its outcome. Small, large and delayed ones do not share a fate.

        A write gives the interpreter's lock away, so what several threads have brought goes in one.
        """
        connection = self._connection
        if connection is None or not connection.is_open:
            for batch in batches:
                batch.fail(BrokerUnavailableError("no connection to the broker; the message was not sent"))
        elif self.blocked:
            for batch in batches:
                batch.fail(BrokerBlockedError(f"the broker takes no messages now: {self.blocked}"))
        else:
            self._publish(connection, batches)

    def _publish(self, connection: AmqpConnection, batches: Sequence[Batch]) -> None:
        left = list(batches)
        try:
            for purpose, group in itertools.groupby(batches, _purpose):
                for together in pieces(group, _length, _ONE_WRITE):
                    channel = self._channel(connection, purpose)
                    for batch in together:
                        batch.heard = self._confirms
                    del left[: len(together)]
                    channel.publish(together)
        except Exception as exc:
            for batch in left:
                batch.fail(errors.from_channel(exc, "a message"))
            raise

    def is_silent(self, batch: Batch) -> bool:
        """Whether nothing at all was confirmed since an unconfirmed batch, though the broker takes messages."""
        return self._connection is not None and not self.blocked and batch.heard == self._confirms

    def unconfirmed(self, batch: Batch, timeout: float) -> QBridgeError:
        """In the sender's thread: the error for a batch that had no outcome in time."""
        if not batch.sent:
            return BrokerUnavailableError(f"the broker did not open a channel within {timeout:g} s")
        reason = f"; it blocks publishers: {self.blocked}" if self.blocked else ""
        return PublishUnconfirmedError(f"no confirmation within {timeout:g} s{reason}")

    def _channel(self, connection: AmqpConnection, purpose: str) -> ConfirmChannel:
        channel = self._channels.get(purpose)
        if channel is None or not channel.is_usable:
            if channel is not None:
                channel.retire()
            channel = self._channels[purpose] = ConfirmChannel(connection, purpose, self._count)
        return channel

    def _count(self) -> None:
        self._confirms += 1

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        del connection
        self.blocked = str(frame.method.reason or "no reason given")
        _log.warning("the broker blocks publishers: %s", self.blocked)

    def _on_unblocked(self, connection: Any, frame: Any) -> None:
        del connection, frame
        self.blocked = ""
        _log.info("the broker takes messages again")
