"""What ``RabbitMQClient`` does for workers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Final

from qbridge_core.backend import (
    Delivery,
    DeliveryLostError,
    Failure,
    QBridgeError,
    QueueMismatchError,
    check_count,
    check_delay,
    check_delivery,
    check_queue_name,
    check_rejection,
    check_wait,
    check_wanted,
    logger,
)
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.client.connecting import Connecting
from qbridge_rabbitmq.connection.boundary import bounded, translated
from qbridge_rabbitmq.consume.consumer_timeout import most_in_time
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
_SILENCE: Final = 1.0


class Consuming(Connecting):
    """Takes messages from queues, and settles them."""

    waits_for_any = True

    @bounded
    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages``; wait up to ``timeout`` seconds for the first.

        For a subscribed queue they come from what its consumer has brought; otherwise each is asked for, and the broker
        again and again until the timeout.
        """
        broker = self._live()
        max_messages, timeout = check_count("max_messages", max_messages, 1), check_wait(timeout)
        if self._declarations.is_side_queue(check_queue_name(queue)):
            return broker.poison_queue.receive(queue, timeout)
        return broker.receiving.receive(queue, max_messages, timeout, functools.partial(self._accept, broker, queue))

    @bounded
    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take what the consumers of subscribed queues have brought; with one that is not subscribed, ask for each."""
        broker = self._live()
        counts, timeout = check_wanted(wanted), check_wait(timeout)
        several = None
        if not any(map(self._declarations.is_side_queue, counts)):
            several = broker.receiving.several(counts)
        if several is None:
            return super().receive_any(counts, timeout)
        with self._waits().one(several.wake):
            return broker.receiving.receive_any(several, counts, timeout, functools.partial(self._accept, broker))

    def _accept(self, broker: ConnectedBroker, queue: str, arrivals: list[Arrival]) -> list[Delivery]:
        kept = [one for one in arrivals if not (one.redelivered and self._is_renewed(broker, queue, one))]
        return broker.deliveries.hand_out(queue, kept)

    def _is_renewed(self, broker: ConnectedBroker, queue: str, arrival: Arrival) -> bool:
        """Whether a copy took the place of a message that the broker may soon drop."""
        if self._declarations.is_unlimited(queue):
            return False
        if arrival.suspected and broker.consumers.of(queue).works:
            return False  # the worker moves it to the suspects, as a copy too
        return broker.handbacks.renew(queue, arrival)

    @bounded
    def check_task_timeout(self, queue: str, seconds: float, workers: int) -> None:
        """Compare with the server's delivery acknowledgement timeout (rabbitmq.com/docs/consumers)."""
        broker = self._live()
        if self._declarations.lets_hold(queue):
            return
        broker.consumers.of(queue).most = most_in_time(self._options, seconds, workers)

    @bounded
    def subscribe(self, queue: str, prefetch: int) -> None:
        """Start a consumer (rabbitmq.com/docs/consumers, consumer-prefetch); it is renewed whenever it is lost."""
        broker = self._live()
        super().subscribe(queue, prefetch)
        self._refuse_stream(broker, queue)
        consumer = broker.consumers.of(queue)
        fixed = self._options.prefetch is not None
        limit = self._options.prefetch or min(prefetch, 65_535)
        if consumer.prefetch > limit:  # a consumer keeps the prefetch that it began with
            self.unsubscribe(queue)
        consumer.prefetch = limit
        broker.io.post(lambda: consumer.subscribe(limit, fixed))
        self._watch_policies(queue)

    @bounded
    def unsubscribe(self, queue: str) -> None:
        """End the consumer; give back what ``receive`` has not returned, as copies: see ``reject``."""
        broker = self._live()
        consumer = broker.consumers.of(check_queue_name(queue))
        consumer.interrupt()
        with consumer.ending:
            if not broker.consumers.end(consumer, _SILENCE):
                return  # a silent broker: it takes all of them back with the connection
            broker.handbacks.give_back(queue, consumer.buffer.take_left())

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge, with the next of the acknowledgements that the I/O thread sends together.

        When the connection was lost meanwhile, the message is acknowledged as soon as the broker delivers it again to
        this client.
        """
        if type(delivery) is not Delivery or type(delivery.tag) is not Arrival:
            _refuse_strange(delivery)
        try:
            self._live().acknowledgements.acknowledge(delivery)
        except OSError as exc:  # not ``bounded``, which would cost each task a call
            raise exc if isinstance(exc, QBridgeError) else translated(exc) from exc

    @bounded
    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Hand back, retry or dead-letter a message; a copy is confirmed before the original is acknowledged.

        What a worker hands back goes to the end of the queue, as a copy too: the broker would deliver the original as
        one that was delivered before, and nobody could tell it from one that has killed its worker.

        When the connection was lost meanwhile, it is done as soon as the broker delivers the message again to this
        client.
        """
        check_rejection(delivery, failure, queue)
        _refuse_strange(delivery)
        rejections = self._live().rejections
        rejections.reject(delivery, requeue, check_delay(delay, delays.MAX_SECONDS), failure, queue)

    @bounded
    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        """Hand back as ``reject`` does; the copies are on their way together, and so are their confirmations."""
        handbacks = self._live().handbacks
        held = list(deliveries)
        for delivery in held:
            _refuse_strange(delivery)
        handbacks.hand_back(held)

    @bounded
    def flush(self, timeout: float = 5.0) -> bool:
        """Send the settlements and wait until the broker has seen them, and keeps them when the connection is lost.

        A quorum queue that may be behind with many settlements is asked for a message, which goes back as a copy when
        nobody consumes here any longer; that may take five seconds more.
        """
        return self._live().flushing.flush(check_wait(timeout))

    def _refuse_stream(self, broker: ConnectedBroker, queue: str) -> None:
        if self._declarations.knows(queue):
            return  # declaring it has told
        try:
            broker.requests.call(f"queue {queue!r}", self._declarations.refuse_stream(queue))
        except QueueMismatchError:
            raise
        except QBridgeError as exc:  # not connected just now, or not permitted to declare: it may well be a queue
            _log.debug("cannot tell the type of queue %r: %s", queue, exc)


def _refuse_strange(delivery: Delivery) -> None:
    """Refuse what no RabbitMQ client has handed out."""
    if not isinstance(check_delivery(delivery).tag, Arrival):
        raise DeliveryLostError(f"a delivery of {delivery.queue!r} did not come from this client; nothing was settled")
