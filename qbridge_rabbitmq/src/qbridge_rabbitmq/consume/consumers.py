"""The consumers of a client, one for each queue that something is received from."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.backend import BrokerUnavailableError, monotonic
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.queue_check import Restore
from qbridge_rabbitmq.consume.states import State
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.in_flight import Arrival

_SLICE: Final = 0.1


class Consumers:
    """Makes and finds them. Methods without a remark are for any thread but the I/O thread.

    Args:
        connections: the client's.
        restore: see :data:`~qbridge_rabbitmq.consume.queue_check.Restore`.
        lost: recognizes what was in flight when a channel ended.
        timeout: seconds for which a broker may be silent.
    """

    def __init__(self, connections: Connections, restore: Restore, lost: LostDeliveries, timeout: float) -> None:
        self._connections = connections
        self._restore = restore
        self._lost = lost
        self._timeout = timeout
        self._by_queue: dict[str, Consumer] = {}
        self._holding: dict[Consumer, None] = {}  # all that have something unsettled, and some others
        self._lock = threading.Lock()

    def all(self) -> list[Consumer]:
        """In any thread: those of queues, without those that ``new`` has made."""
        return list(self._by_queue.values())

    def of(self, queue: str) -> Consumer:
        """The consumer of a queue, made when it is first needed."""
        with self._lock:
            consumer = self._by_queue.get(queue)
            if consumer is None:
                consumer = self._by_queue[queue] = self._made(queue, self._lost, self._holding)
        return consumer

    def existing(self, queue: str) -> Consumer | None:
        """The consumer of a queue that something was received from, if it was."""
        return self._by_queue.get(queue)

    def new(self, queue: str, lost: LostDeliveries | None = None) -> Consumer:
        """A consumer with a channel of its own that nobody else uses."""
        return self._made(queue, lost, {})

    def _made(self, queue: str, lost: LostDeliveries | None, holding: dict[Consumer, None]) -> Consumer:
        io = self._connections.io
        consumer = Consumer(queue, io, self._restore, lost, holding)
        io.post(lambda: self._join(consumer))
        return consumer

    def take_unread(self, wanted: Callable[[str], bool]) -> dict[str, list[Arrival]]:
        """What has come from the wanted queues and nobody has taken; nothing that is lost already."""
        unread: dict[str, list[Arrival]] = {}
        for consumer in self.all():
            if wanted(consumer.queue):
                left = [arrival for arrival in consumer.buffer.drain() if not arrival.channel.lost]
                unread |= {consumer.queue: left} if left else {}
        return unread

    def interrupt(self) -> None:
        """Wake every blocked receive."""
        for consumer in self.all():
            consumer.interrupt()

    def end(self, consumer: Consumer, silence: float) -> bool:
        """End what consumes; False when a broker that was silent for so many seconds may go on sending.

        One that has much to do, as when many consumers end together, is waited for.
        """
        ended, progress = threading.Event(), self._connections.progress()
        self._connections.io.post(lambda: consumer.unsubscribe(ended.set))
        consumer.interrupt()
        latest = monotonic() + max(self._timeout, silence)
        while not ended.wait(silence):
            if not progress.moved() or monotonic() > latest:
                return False
        return True

    # ------------------------------------------------------------------ round trips

    def flush(self, timeout: float) -> bool:
        """Send all settlements and wait until the broker has seen them; False when it did not."""
        passed = threading.Event()

        def send() -> None:
            pending = [consumer for consumer in self.all() if _has_settled(consumer)]
            waiting = set(pending)

            def back(consumer: Consumer) -> None:
                waiting.discard(consumer)
                if not waiting:
                    passed.set()

            for consumer in pending:
                consumer.barrier(functools.partial(back, consumer))
            if not pending:
                passed.set()

        self._connections.io.post(send)
        return self._connections.is_up and passed.wait(max(0.0, timeout))

    def barrier(self, consumer: Consumer, timeout: float) -> bool:
        """Wait for a round trip on the consumer's channel, after its settlements."""
        passed = threading.Event()

        def send() -> None:
            if consumer.channel is not None:
                consumer.channel.flush()
            consumer.barrier(passed.set)

        self._connections.io.post(send)
        return passed.wait(max(0.0, timeout))

    def round_trip(self, consumer: Consumer) -> None:
        """Wait until all that the broker had sent on the consumer's channel is here, for as long as anything comes.

        Raises:
            BrokerUnavailableError: the connection was lost, or the broker has become silent.
        """
        passed, progress = threading.Event(), self._connections.progress()
        self._connections.io.post(lambda: consumer.barrier(passed.set))
        deadline = monotonic() + self._timeout
        while not passed.wait(_SLICE):
            self._connections.require_connection()
            if progress.moved():
                deadline = monotonic() + self._timeout
            elif monotonic() > deadline:
                raise BrokerUnavailableError(f"queue {consumer.queue!r}: nothing came for {self._timeout:g} s")

    # ------------------------------------------------------------------ I/O thread

    def send_settlements(self) -> bool:
        """Send what was settled; whether there was anything."""
        settled = False
        # What waits to be settled is unsettled until then: of a thousand queues most have nothing, and cost nothing.
        for consumer in list(self._holding):
            channel = consumer.channel
            if channel is None or not channel.unsettled:
                self._holding.pop(consumer, None)
            elif consumer.state is not State.CANCELLING and channel.flush():  # an ending one is to get no room by that
                settled = True
                consumer.hurry()
        return settled

    def up(self, connection: AmqpConnection) -> None:
        """The known queues have been declared on a connection."""
        if connection is self._connections.consuming.connection:
            for consumer in self.all():
                consumer.up(connection)

    def down(self, reason: BaseException) -> None:
        """The connection is lost."""
        for consumer in self.all():
            consumer.down(reason)

    def _join(self, consumer: Consumer) -> None:
        if (connection := self._connections.consuming.connection) is not None:
            consumer.up(connection)


def _has_settled(consumer: Consumer) -> bool:
    """Send what was settled; whether the broker may not have seen all that was."""
    channel = consumer.channel
    if channel is not None:
        channel.flush()
    return channel is not None and channel.was_used
