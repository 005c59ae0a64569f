"""What ``RabbitMQClient`` does for those who send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from qbridge_core.backend import (
    NO_HEADERS,
    Message,
    QBridgeError,
    check_delay,
    check_message,
    check_publish_timeout,
    check_queue_name,
    check_sequence,
    each_with,
)
from qbridge_rabbitmq.client.connecting import Connecting
from qbridge_rabbitmq.connection.boundary import bounded
from qbridge_rabbitmq.publish.messages import chunks, publication
from qbridge_rabbitmq.queues import delays


class Producing(Connecting):
    """Publishes messages."""

    @bounded
    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        """Publish one persistent message; return once the broker has confirmed it (rabbitmq.com/docs/confirms)."""
        broker = self._live()
        given = Message(body, NO_HEADERS if headers is None else headers, message_id)
        delay = check_delay(delay, delays.MAX_SECONDS)
        message = publication(queue, given, broker.sender.room, self.max_message_bytes, delay)
        timeout = check_publish_timeout(timeout)
        if delay > 0:
            broker.delayed.send(message, delay, timeout)
        else:
            broker.sender.send([message], timeout)

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages; the I/O thread writes all that have come, and hears their confirmations.

        Those with a delay are published by threads that wait: their delay queues may have to be made.
        """
        given = check_sequence(messages)
        try:
            if check_delay(delay, delays.MAX_SECONDS) > 0:
                return super().publish_soon(queue, given, delay=delay, timeout=timeout)
            return self._publish_soon(queue, given, timeout)
        except QBridgeError as exc:
            return each_with(exc, len(given))

    @bounded
    def _publish_soon(self, queue: str, messages: Sequence[Message], timeout: float | None) -> list[Future[None]]:
        broker, seconds = self._live(), check_publish_timeout(timeout)
        room, most = broker.sender.room, self.max_message_bytes
        check_queue_name(queue)  # before the messages: they may be in the wrong order
        return broker.flights.send(lambda each: publication(queue, check_message(each), room, most), messages, seconds)

    # Not bounded: what is raised where the messages come from is the caller's.
    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish messages in order, many under way at once; ``timeout`` counts anew for each few hundred of them."""
        broker = self._live()
        check_queue_name(queue)  # before the messages: they may be in the wrong order
        timeout = check_publish_timeout(timeout)
        broker.sender.send_in_order(chunks(queue, messages, broker.sender.room, self.max_message_bytes), timeout)
