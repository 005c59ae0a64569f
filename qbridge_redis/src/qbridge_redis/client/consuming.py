"""What ``RedisClient`` does for those who work."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from qbridge_core.backend import (
    Delivery,
    DeliveryLostError,
    Failure,
    NotConnectedError,
    check_count,
    check_delay,
    check_delivery,
    check_rejection,
    check_wait,
    check_wanted,
)
from qbridge_redis.client.connecting import Connecting
from qbridge_redis.connection.boundary import guarded_method
from qbridge_redis.queues.delays import LONGEST_DELAY
from qbridge_redis.state.in_flight import EntryTag


class Consuming(Connecting):
    """Receives messages, and settles them."""

    @guarded_method
    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages``, and hold no more.

        A subscribed queue that is busy is asked in halves: one is returned, and the other is on its way by then. When
        nobody comes for it, it goes back after a second.
        """
        node = self._running(queue)
        batch = node.receive(queue, check_count("max_messages", max_messages, 1), check_wait(timeout))
        if node.context.closing.is_set():
            raise NotConnectedError("the client was disconnected")  # what came is handed back by disconnect
        return batch

    @guarded_method
    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take what comes to any of the queues, with one blocking read for all of them.

        Without a timeout each is asked in its turn. On a cluster those of several hash slots are asked again and again,
        and an error is raised when none of them can be read: a master that is away does not keep the others from it.
        """
        nodes = self._connected()
        counts, timeout = check_wanted(wanted), check_wait(timeout)
        if timeout <= 0:
            return super().receive_any(counts, timeout)
        news = threading.Event()
        with self._waits().one(news.set) as woken:
            batch = nodes.several.receive(counts, timeout, news, woken)
        if nodes.closing.is_set():
            raise NotConnectedError("the client was disconnected")  # what came is handed back by disconnect
        return batch

    @guarded_method
    def subscribe(self, queue: str, prefetch: int) -> None:
        """Have the queue read with a connection of its own, or, when it is idle and there are many, with the others.

        What comes while nobody receives goes back after a second.
        """
        super().subscribe(queue, prefetch)
        self._running(queue).subscribe(queue)

    @guarded_method
    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked ``receive``, and give back what it has not returned."""
        nodes = self._nodes
        if nodes is not None and self.connected:
            nodes.node(queue).unsubscribe(queue)

    def ack(self, delivery: Delivery) -> None:
        """Note the acknowledgement; it is sent with the next read or a few milliseconds later.

        A delivery whose lease ran out is acknowledged too: its work is done, whoever holds it now.
        """
        if type(delivery) is not Delivery:
            check_delivery(delivery)
        node = self._connected().node(delivery.queue)
        tag = delivery.tag
        if type(tag) is not EntryTag or not node.knows(tag):
            raise _not_ours(delivery)
        if tag.in_flight.ack(tag) and not (waiting := node.context.acks_waiting).is_set():
            waiting.set()

    @guarded_method
    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Hand back, retry or dead-letter the message in one atomic step on the server.

        What is handed back goes to the end of the queue, as a retry does. Where no copy can be written, the message
        itself goes back, to be delivered again at once, or after a failure when about half a lease is over.
        """
        check_rejection(delivery, failure, queue)
        node = self._running(delivery.queue)
        delay = check_delay(delay, LONGEST_DELAY)
        if type(delivery.tag) is not EntryTag or not node.knows(delivery.tag):
            raise _not_ours(delivery)
        if not requeue:
            node.rejections.dead_letter(delivery, failure)
        elif failure is None:
            node.rejections.hand_back(delivery, delay)
        else:
            node.rejections.retry(delivery, failure, delay, queue)
        if requeue and delay > 0:
            self._running(queue or delivery.queue).delayed(queue or delivery.queue)

    @guarded_method
    def flush(self, timeout: float = 5.0) -> bool:
        """Send the acknowledgements now; return True when none is left."""
        timeout = check_wait(timeout)
        nodes = self._nodes
        if nodes is None or not self.connected:
            return True
        return nodes.flush(timeout)


def _not_ours(delivery: Delivery) -> DeliveryLostError:
    return DeliveryLostError(f"a delivery of {delivery.queue!r} belongs to another connection; it is delivered again")
