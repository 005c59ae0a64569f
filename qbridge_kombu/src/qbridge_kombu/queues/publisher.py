"""Publishing: what callers send, and the copies that settle a delivery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from qbridge_core.backend import (
    CONTENT_TYPE_HEADER,
    DUE_AT,
    SENT_AT,
    BrokerUnavailableError,
    Message,
    PublishUnconfirmedError,
    UnroutableError,
    check_body,
    check_headers,
    check_message,
    check_message_id,
    check_messages,
    monotonic,
)
from qbridge_kombu.connection.thread import UncertainError
from qbridge_kombu.protocol.headers import with_due
from qbridge_kombu.protocol.messages import CONTENT_ENCODING, CONTENT_TYPE, Outgoing
from qbridge_kombu.queues.delays import delayed_queue, wall_clock
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.session import KombuSession

_BATCH_BYTES: Final = 4 * 2**20
_GRACE: Final = 1.0  # seconds that a transport gets to say itself that its time is over


class Publisher:
    """Publishes through the sender's connection. Thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def publish(self, queue: str, messages: Iterable[Message], delay: float, timeout: float | None) -> None:
        """Publish what a caller gave, in order, in batches that are confirmed one by one.

        Raises:
            The errors of ``QueueClient.publish``.
        """
        self._context.require_open()
        seconds = self._context.settings.publish_timeout if timeout is None else timeout
        for batch in self._batches(messages, delay):
            self.send(queue, batch, delay, seconds)

    def copy(self, queue: str, message: Outgoing, delay: float = 0.0, *, create: bool = False) -> None:
        """Publish the next state of a message.

        Args:
            queue: where to.
            message: the copy.
            delay: seconds for which it is held back.
            create: make the queue when it is missing.

        Raises:
            The errors of ``QueueClient.publish``.
        """
        seconds = self._context.settings.publish_timeout
        try:
            self.send(queue, [message], delay, seconds)
        except UnroutableError:
            if not create:
                raise
            self._context.create(queue)
            self.send(queue, [message], delay, seconds)

    def copies(self, queue: str, messages: Sequence[Outgoing]) -> None:
        """Publish copies in order, in batches that are confirmed one by one."""
        batch = self._context.transport.publish_batch
        for start in range(0, len(messages), batch):
            self.send(queue, messages[start : start + batch], 0.0, self._context.settings.publish_timeout)

    def send(self, queue: str, messages: Sequence[Outgoing], delay: float, seconds: float) -> None:
        """Publish a batch; a queue that was declared and is gone is made again."""
        try:
            self._send(queue, messages, delay, seconds)
        except UnroutableError as exc:
            self._context.made_again(queue, exc)
            self._send(queue, messages, delay, seconds)
        self._context.bell(queue).set()

    def _send(self, queue: str, messages: Sequence[Outgoing], delay: float, seconds: float) -> None:
        context, deadline = self._context, monotonic() + seconds

        def work(session: KombuSession) -> None:
            left = deadline - monotonic()
            if left <= 0:
                raise BrokerUnavailableError(f"cannot publish to {queue!r}: its time was over before it was begun")
            name, ready = self._placed(session, queue, messages, delay)
            context.transport.publish(session, name, ready, left)

        try:
            context.sender.call(work, f"publish to {queue!r}", seconds + _GRACE, may_repeat=False)
        except UncertainError as exc:
            raise PublishUnconfirmedError(f"{exc}: the broker may have the message or not") from exc.__cause__

    def _placed(
        self, session: KombuSession, queue: str, messages: Sequence[Outgoing], delay: float
    ) -> tuple[str, Sequence[Outgoing]]:
        """Where the messages go, and how: what the broker cannot hold back itself goes to the companion queue."""
        transport = self._context.transport
        name, native = transport.name_of(queue), transport.max_native_delay
        if delay <= native:
            return name, [replace(message, delay=delay) for message in messages] if delay else messages
        if not transport.exists(session, name):
            raise UnroutableError(f"the queue {queue!r} does not exist; declare it first")
        companion = transport.name_of(delayed_queue(queue))
        if not transport.exists(session, companion):
            transport.create(session, companion)
        due = wall_clock() + delay
        held = [replace(message, headers=with_due(message.headers, due), delay=native) for message in messages]
        return companion, held

    def _batches(self, messages: Iterable[Message], delay: float) -> Iterator[list[Outgoing]]:
        batch: list[Outgoing] = []
        size = 0
        for each in check_messages(messages):
            outgoing = self._outgoing(check_message(each), delay)
            if batch and size + len(outgoing.body) > _BATCH_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(outgoing)
            size += len(outgoing.body)
            if len(batch) >= self._context.transport.publish_batch:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _outgoing(self, message: Message, delay: float) -> Outgoing:
        body = check_body(message.body, self._context.settings.max_message_bytes)
        headers: dict[str, Any] = dict(check_headers(message.headers))
        content_type = headers.get(CONTENT_TYPE_HEADER) or CONTENT_TYPE
        properties: dict[str, Any] = {"content_type": content_type, "content_encoding": CONTENT_ENCODING}
        now = wall_clock()
        if delay or not self._context.transport.tells_sent:  # what is delayed may be moved, which the broker dates anew
            headers[SENT_AT] = str(round(now * 1000))
        if delay:
            headers[DUE_AT] = str(round((now + delay) * 1000))
        if (message_id := check_message_id(message.message_id)) is not None:
            properties["message_id"] = message_id
        outgoing = Outgoing(body, headers, properties)
        self._context.transport.check_size(outgoing)
        return outgoing
