"""Looks at the messages of a queue without consuming them, and at those that stay when some are taken out.

AMQP 0-9-1 has no way to look. So consumers take the messages without acknowledging them, and they go back when their
channels are closed. A classic queue puts them where they were. A quorum queue appends them to the messages that came
back earlier, which it delivers before all others: to keep the order, all of those have to be taken, beyond what was
asked for. (It also keeps the order of what one consumer held, but not of messages that were asked for one by one.)
It sends 2,000 messages to one consumer at most, so each page has one of its own, and ends it before it looks at what
has come: else the broker would send more for each message that is removed. All are on one channel, so that the queue
gets what they hold back in their order also when this process dies: it goes through some tens of consumers of a
channel in the order of their tags. (And so what came back earlier is taken before anything is removed.) What stays is
not kept here, only its numbers are.

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

from qbridge_core.backend import (
    PREFETCH_BYTES,
    BrokerUnavailableError,
    QBridgeError,
    TransientError,
    logger,
    monotonic,
)
from qbridge_rabbitmq.amqp import copies, errors, headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.settle.handbacks import FEW_RETURNS
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
_PATIENCE: Final = 1.0
# How long the broker may take to read a letter from its disk; and to begin with one that it has ready.
_UNDER_WAY: Final = 3.0
_HESITATION: Final = 10.0
_RETURN_TIMEOUT: Final = 2.0
_END_TIMEOUT: Final = 10.0
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1_000
_SMALLEST_PAGE: Final = 20
# Erlang goes through a map of 32 keys in their order; the last one is the message that was asked for (see _give_back).
_ON_ONE_CHANNEL: Final = 31
# On a classic queue, which needs no more, all messages look as if they had come back after a crash of the broker.
_MOST_EXTRA: Final = 2_000


class Held:
    """Messages from the front of a queue, page by page, none of which anybody else sees. For one thread.

    Args:
        broker: the connected one.
        declared: what is known of the queue.
        queue: its name.
    """

    def __init__(self, broker: ConnectedBroker, declared: Declarations, queue: str) -> None:
        self._broker = broker
        self._declared = declared
        self._queue = queue
        self._ready = broker.requests.call(f"queue {queue!r}", declared.count(queue))
        self._unlimited = self._ready > 0 and broker.requests.call(f"queue {queue!r}", declared.check_unlimited(queue))
        self._consumers: list[Consumer] = []  # one for each channel, which has had several
        self._pages = 0
        self._seen = self._extra = self._bytes = 0
        self._many_returns: list[Arrival] = []
        self._last: Arrival | None = None

    def pages(self, wanted: int | None = None, *, sized: bool = True) -> Iterator[list[Arrival]]:
        """The messages from the front, in order, until so many were there, or all that there were at the beginning.

        Args:
            wanted: how many.
            sized: let no page be larger than fits into memory, as far as those before it tell.

        Raises:
            BrokerUnavailableError: the connection was lost, or the broker does not deliver what is ready.
        """
        most = self._ready if wanted is None else min(self._ready, wanted)
        while self._seen < most:
            page = self._page(min(most - self._seen, self._fitting if sized else _LARGEST_PAGE))
            if not page:
                return  # somebody else took them
            yield page
            self._leave_page()

    @property
    def is_settled(self) -> bool:
        """Whether all that is held goes back to the front in its order, also when this process dies."""
        last = self._last
        if last is None or self._seen >= self._ready:
            return True
        return not (last.redelivered and headers.is_counted(last.properties))

    def remove(self, arrival: Arrival) -> None:
        """Take out a message; on return the broker does not have it any more.

        Raises:
            BrokerUnavailableError: nobody knows whether it has.
        """
        channel = arrival.channel
        holder = next((consumer for consumer in self._consumers if consumer.channel is channel), None)
        known = holder is not None and channel.acknowledge(arrival)
        if holder is None or not known or not self._broker.consumers.barrier(holder, _END_TIMEOUT):
            raise BrokerUnavailableError(f"no answer about a letter of {self._queue!r}: it may be there still")
        if channel.lost:
            raise BrokerUnavailableError(f"the connection was lost: a letter of {self._queue!r} may be there still")

    def keep_order(self) -> None:
        """Take what has to go back behind the messages that are held, so that these come before it.

        Raises:
            BrokerUnavailableError: as ``pages``.
        """
        while self._consumers and self._seen < self._ready and self._last and self._comes_back(self._last):
            page = self._page(min(self._ready - self._seen, self._fitting))
            self._extra += len(page)
            if not page:
                return

    def give_back(self) -> None:
        """Have the broker take back what was not removed."""
        _renew(self._broker, self._queue, self._many_returns)
        # From 4.3 on a closed channel counts as a failed delivery, and a negative acknowledgement does not; but in a
        # queue without a limit the latter moves the message to the end.
        closing = self._unlimited or self._declared.server_version < (4, 3)
        for consumer in self._consumers:
            _give_back(self._broker, self._declared, consumer, closing=closing)

    def _page(self, count: int) -> list[Arrival]:
        """The messages of one more consumer, which has ended by then; none when somebody else took them.

        Raises:
            AuthenticationError: the user may not read the queue.
        """
        broker = self._broker
        if not self._consumers or self._pages % _ON_ONE_CHANNEL == 0:
            self._consumers.append(broker.consumers.new(self._queue))
        self._pages += 1
        consumer = self._consumers[-1]
        page: list[Arrival] = []
        _take(broker, self._declared, consumer, count, page, consumers=self._pages)
        refusal = consumer.missing
        page += _end(broker, consumer)
        if not page and refusal is not None and not errors.is_missing(refusal):
            raise errors.from_channel(refusal, f"queue {self._queue!r}", "read")
        if page:
            self._seen += len(page)
            self._bytes += sum(len(arrival.body) for arrival in page)
            self._last = page[-1]
        if not self._unlimited and sum(len(one.body) for one in self._many_returns) < PREFETCH_BYTES:
            self._many_returns += [one for one in page if headers.delivery_count(one.properties) >= FEW_RETURNS]
        return page

    def _leave_page(self) -> None:
        """What has to be done with the page that was given out last, before there is another one."""
        if self._consumers and not self._consumers[-1].in_flight:  # all were removed, or there was nothing
            _give_back(self._broker, self._declared, self._consumers.pop(), closing=True)

    @property
    def _fitting(self) -> int:
        """How many messages fit into memory at once, as far as is known."""
        if not self._seen:
            return _PAGE
        return max(_SMALLEST_PAGE, min(_LARGEST_PAGE, PREFETCH_BYTES * self._seen // (self._bytes or 1)))

    def _comes_back(self, arrival: Arrival) -> bool:
        """Whether there may be more behind it that came back earlier, which a quorum queue would deliver first."""
        return arrival.redelivered and (headers.is_counted(arrival.properties) or self._extra < _MOST_EXTRA)


@contextmanager
def held(broker: ConnectedBroker, declared: Declarations, queue: str) -> Iterator[Held]:
    """Hold messages from the front of a queue; what was not removed goes back to its place.

    Raises:
        BrokerUnavailableError: no connection, or it was lost meanwhile, or the broker does not deliver what is ready.
    """
    holding = Held(broker, declared, queue)
    try:
        yield holding
    except BaseException as reason:
        try:
            holding.keep_order()
            holding.give_back()
        except QBridgeError as exc:
            reason.add_note(f"and the letters may not be in their order: {exc}")
        raise
    try:
        holding.keep_order()
    finally:
        holding.give_back()


def _take(
    broker: ConnectedBroker, declared: Declarations, consumer: Consumer, count: int, page: list[Arrival], consumers: int
) -> None:
    """Fill the page; it stays shorter when somebody else took the rest."""
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
    """Whether to wait on, after nothing has come for so many seconds; ``consumers`` are our own at most.

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


def _end(broker: ConnectedBroker, consumer: Consumer) -> list[Arrival]:
    """End a consumer, whose channel goes on to hold what it brought; what nobody has taken of that."""
    ended = threading.Event()
    broker.io.post(lambda: consumer.unsubscribe(ended.set))
    ended.wait(_END_TIMEOUT)  # a broker that does not answer is noticed by what comes next
    return consumer.buffer.take_left()


def _give_back(broker: ConnectedBroker, declared: Declarations, consumer: Consumer, *, closing: bool) -> None:
    """Return what a channel holds, when what was removed is gone for good.

    Raises:
        BrokerUnavailableError: nobody knows whether it is.
    """
    gone = broker.flushing.wait_for(consumer, _END_TIMEOUT)  # what may come for it goes back with the rest, behind it
    before = broker.requests.call(f"queue {consumer.queue!r}", declared.count(consumer.queue))
    closed = threading.Event()
    returning = 0

    def close() -> None:
        nonlocal returning
        if consumer.channel is not None:
            consumer.channel.flush()
            returning = len(consumer.channel.unsettled)  # without those that were replaced
            for number in [] if closing else list(consumer.channel.unsettled):
                consumer.channel.nack(number)
        consumer.close(closed.set)

    broker.io.post(close)
    closed.wait(_RETURN_TIMEOUT)
    # The queue takes the messages back a moment later; the next page, and the next look, must come after that.
    deadline = monotonic() + _RETURN_TIMEOUT
    while broker.requests.call(f"queue {consumer.queue!r}", declared.count(consumer.queue)) < before + returning:
        if monotonic() > deadline:
            break  # somebody else consumes them
        time.sleep(0.002)
    if not gone:
        raise BrokerUnavailableError(f"no answer about the letters of {consumer.queue!r}: some may be there still")


def _renew(broker: ConnectedBroker, queue: str, arrivals: list[Arrival]) -> None:
    """Replace messages that came back many times by copies, which the broker counts anew and which look the same."""
    for arrival in arrivals:
        if arrival.number not in arrival.channel.unsettled:
            continue  # it was removed
        mark = headers.read(arrival.properties).mark
        copy = copies.handed_back(arrival.properties, broker.sender.room, mark=mark)
        try:
            broker.sender.send([Publication("", queue, copy, arrival.body)])
        except QBridgeError as exc:
            _log.warning("a message of %r is close to its delivery limit: %s", queue, exc)
            if isinstance(exc, TransientError):
                return
            continue  # something is wrong with this one
        arrival.channel.acknowledge(arrival)
