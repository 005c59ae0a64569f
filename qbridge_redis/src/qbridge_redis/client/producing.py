"""What ``RedisClient`` does for those who send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from qbridge_core.backend import (
    NO_HEADERS,
    Ended,
    Message,
    QBridgeError,
    check_delay,
    check_publish_timeout,
    check_queue_name,
    check_sequence,
    copied,
    futures_for,
)
from qbridge_redis.client.connecting import Connecting
from qbridge_redis.connection.boundary import guarded_method
from qbridge_redis.queues.delays import LONGEST_DELAY


class Producing(Connecting):
    """Publishes messages."""

    @guarded_method
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
        """Publish one message; on return it is in the stream, as durable as the server and ``wait_replicas`` make it.

        ``PublishUnconfirmedError`` also says that the master has it, but not enough replicas have.
        """
        node = self._running(queue)
        delay = check_delay(delay, LONGEST_DELAY)
        timeout = check_publish_timeout(timeout)
        message = Message(body, NO_HEADERS if headers is None else headers, message_id)
        node.publisher.publish(queue, message, delay, timeout)
        if delay > 0:
            node.delayed(queue)

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages; those that are under way are sent in pipelines, with those of threads."""
        given = check_sequence(messages)
        return futures_for(
            len(given), lambda ended: self._publish_then(queue, given, ended, delay=delay, timeout=timeout)
        )

    def _publish_then(
        self, queue: str, messages: Sequence[Message], ended: Ended, *, delay: float = 0.0, timeout: float | None = None
    ) -> None:
        try:
            self._hand_over(queue, messages, ended, delay, timeout)
        except QBridgeError as exc:
            for position in range(len(messages)):
                ended(position, copied(exc))

    @guarded_method
    def _hand_over(
        self, queue: str, messages: Sequence[Message], ended: Ended, delay: float, timeout: float | None
    ) -> None:
        node, delay = self._running(queue), check_delay(delay, LONGEST_DELAY)
        node.publish_then(queue, messages, delay, check_publish_timeout(timeout), ended)

    @guarded_method
    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish in pipelines; ``timeout`` is for each of them."""
        check_queue_name(queue)  # before the messages: they may be in the wrong order
        self._running(queue).publisher.publish_many(queue, messages, check_publish_timeout(timeout))
