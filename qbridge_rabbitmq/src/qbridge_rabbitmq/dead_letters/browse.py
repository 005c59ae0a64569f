"""Looks at the messages of a queue without consuming them.

AMQP 0-9-1 has no way to look. So a consumer takes the messages without acknowledging them, and they go back when its
channel is closed. A classic queue puts them where they were. A quorum queue appends them to the messages that came back
earlier, which it delivers before all others: to keep the order, all of those have to be taken, beyond what was asked
for. (It also keeps the order of what one consumer held, but not of messages that were asked for one by one.)

What is on its way when the channel is closed counts as delivered and comes back, and a queue with a delivery limit
drops what came back too often. So a letter is awaited for as long as it takes: an answer on the same channel comes
behind all that was sent before it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qbridge_core.backend import BrokerUnavailableError, QBridgeError, TransientError, logger, monotonic
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.settle.handbacks import FEW_RETURNS
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
_PATIENCE: Final = 1.0
# How long the broker may take to read a letter from its disk; and to begin with one that it has ready.
_UNDER_WAY: Final = 3.0
_HESITATION: Final = 10.0
_RETURN_TIMEOUT: Final = 2.0
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1_000
# On a classic queue after a crash of the broker all messages look as if they had come back.
_MOST_EXTRA: Final = 2_000


def look(broker: ConnectedBroker, declared: Declarations, queue: str, limit: int) -> list[Arrival]:
    """Up to ``limit`` messages from the front of a queue; none when it does not exist.

    Raises:
        BrokerUnavailableError: no connection, or it was lost meanwhile, or the broker does not deliver what is ready.
    """
    with held(broker, declared, queue, limit) as arrivals:
        if not declared.is_unlimited(queue):
            _renew(broker, queue, arrivals)
        return arrivals[:limit]


@contextmanager
def held(broker: ConnectedBroker, declared: Declarations, queue: str, limit: int) -> Iterator[list[Arrival]]:
    """Hold messages from the front of a queue; what was not acknowledged goes back to its place.

    It may be more than ``limit``, so that the order can be kept.

    Raises:
        BrokerUnavailableError: as :func:`look`.
    """
    ready = broker.requests.call(f"queue {queue!r}", declared.count(queue))
    unlimited = ready > 0 and broker.requests.call(f"queue {queue!r}", declared.check_unlimited(queue))
    pages: list[tuple[Consumer, list[Arrival]]] = []
    arrivals: list[Arrival] = []
    most = min(ready, limit + _MOST_EXTRA)
    try:
        while len(arrivals) < most and (len(arrivals) < limit or arrivals[-1].redelivered):
            missing = limit - len(arrivals)
            consumer = broker.consumers.new(queue)
            page: list[Arrival] = []
            pages.append((consumer, page))
            consumer.prefetch = min(most - len(arrivals), missing if missing > 0 else _PAGE, _LARGEST_PAGE)
            _take(broker, declared, consumer, page, consumers=len(pages))
            if not page:
                break  # somebody else took them
            arrivals += page
        yield arrivals
    finally:
        for consumer, page in pages:
            # From 4.3 on a closed channel counts as a failed delivery, and a negative acknowledgement does not; but
            # in a queue without a limit the latter moves the message to the end.
            _give_back(broker, declared, consumer, page, closing=unlimited or declared.server_version < (4, 3))


def _take(
    broker: ConnectedBroker, declared: Declarations, consumer: Consumer, page: list[Arrival], consumers: int
) -> None:
    """Fill the page; it stays shorter when somebody else took the rest."""
    count = consumer.prefetch
    broker.io.post(lambda: consumer.subscribe(count))
    since = monotonic()
    while len(page) < count and consumer.missing is None:
        more = _next(broker, consumer, count - len(page))
        if more:
            page += more
            since = monotonic()
        elif not _may_come(broker, declared, consumer, consumers, monotonic() - since):
            return


def _next(broker: ConnectedBroker, consumer: Consumer, count: int) -> list[Arrival]:
    """What comes next; nothing when nothing was on its way for some time."""
    deadline = monotonic() + _PATIENCE
    while monotonic() < deadline and consumer.missing is None:
        more = consumer.buffer.take(count, 0.1)
        broker.connections.require_connection()
        if more:
            return more
    broker.consumers.round_trip(consumer)
    return consumer.buffer.take(count, 0.0)


def _may_come(
    broker: ConnectedBroker, declared: Declarations, consumer: Consumer, consumers: int, waited: float
) -> bool:
    """Whether to wait on, after nothing has come for so many seconds; ``consumers`` are our own.

    Raises:
        BrokerUnavailableError: the broker does not deliver what it has ready.
    """
    ready, all_consumers = broker.requests.call(f"queue {consumer.queue!r}", declared.look_at(consumer.queue))
    if all_consumers > consumers or consumer.missing is not None:
        return False
    if not ready:
        return waited < _UNDER_WAY  # somebody took them without a consumer, or the broker is about to send them
    if waited >= _HESITATION and consumers == 1:  # later pages are there for the order alone
        raise BrokerUnavailableError(f"{ready} messages of {consumer.queue!r} are ready, but the broker delivers none")
    return waited < _HESITATION


def _give_back(
    broker: ConnectedBroker, declared: Declarations, consumer: Consumer, arrivals: list[Arrival], *, closing: bool
) -> None:
    before = broker.requests.call(f"queue {consumer.queue!r}", declared.count(consumer.queue))
    closed = threading.Event()
    returning = 0

    def close() -> None:
        nonlocal returning
        if consumer.channel is not None:
            consumer.channel.flush()
            returning = len(consumer.channel.unsettled)  # without those that were replaced
        if not closing:
            for arrival in arrivals:
                arrival.channel.nack(arrival.number)
        consumer.close(closed.set)

    broker.io.post(close)
    closed.wait(_RETURN_TIMEOUT)
    # The queue takes the messages back a moment later; the next page, and the next look, must come after that.
    deadline = monotonic() + _RETURN_TIMEOUT
    while broker.requests.call(f"queue {consumer.queue!r}", declared.count(consumer.queue)) < before + returning:
        if monotonic() > deadline:
            break  # somebody else consumes them
        time.sleep(0.002)


def _renew(broker: ConnectedBroker, queue: str, arrivals: list[Arrival]) -> None:
    """Replace messages that came back many times by copies, which the broker counts anew."""
    for arrival in arrivals:
        if headers.delivery_count(arrival.properties) >= FEW_RETURNS:
            try:
                broker.sender.send([broker.handbacks.copy_of(queue, arrival)])
            except QBridgeError as exc:
                _log.warning("a message of %r is close to its delivery limit: %s", queue, exc)
                if isinstance(exc, TransientError):
                    return
                continue  # something is wrong with this one
            arrival.channel.acknowledge(arrival)
