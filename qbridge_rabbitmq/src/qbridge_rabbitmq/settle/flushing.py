"""Sees to it that what was settled stays settled when a channel ends.

A channel of RabbitMQ passes on no more settlements while a quorum queue is slow to apply those that it has (a busy disk
is enough). The others wait in the channel, which answers other methods meanwhile, and are dropped when it ends: their
tasks would run again, and of a message that was handed back the original would be there beside its copy.

``basic.get`` goes through the queue's log, behind all that the channel has sent before. The news that those were
applied are in the channel's mailbox before the answer, so that it sends the others before it reads what we send next.
So where a channel may keep something back, its queue is asked for a message. If there is one, it has to go back.

Facts, for RabbitMQ 3.10 to 4.3: ``settle`` and ``handle_ra_event`` in rabbit_fifo_client.erl, and in ra_server.erl
``make_notify_effects``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final

from qbridge_core.backend import logger, monotonic
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumers import Consumers
from qbridge_rabbitmq.consume.getting import GetRequest
from qbridge_rabbitmq.settle.handbacks import Handbacks
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
_LAST_WAIT: Final = 1.0
_Asked = list[tuple[Consumer, GetRequest]]


class Flushing:
    """Flushes the settlements of one client. For any thread but the I/O thread.

    Args:
        connections: the client's.
        consumers: whose channels have settled something.
        handbacks: return the messages that had to be taken.
        is_classic: whether a queue is known to have no log.
    """

    def __init__(
        self,
        connections: Connections,
        consumers: Consumers,
        handbacks: Handbacks,
        is_classic: Callable[[str], bool],
    ) -> None:
        self._connections = connections
        self._consumers = consumers
        self._handbacks = handbacks
        self._is_classic = is_classic
        self._lock = threading.Lock()  # nobody disconnects before what another thread has taken is back

    def flush(self, timeout: float) -> bool:
        """Send all settlements and wait until they are there for good; False when that is not known in time."""
        deadline = monotonic() + timeout
        known = self._flush_queues(timeout, lambda request: request.is_answered(deadline - monotonic()))
        return known and self._consumers.flush(deadline - monotonic())

    def before_closing(self) -> bool:
        """Send all settlements, and wait where a channel may keep some of them back; False when it still may.

        A broker that is silent has one second, and one whose channels answer another one.
        """
        progress, longest = self._connections.progress(), monotonic() + 2 * _LAST_WAIT

        def is_coming() -> bool:
            return progress.moved() and monotonic() < longest

        known = self._flush_queues(_LAST_WAIT, lambda request: request.wait(0.0, is_coming))
        if not known:
            _log.warning("the broker does not say whether it has the last settlements; some tasks may run again")
        return known

    def wait_for(self, consumer: Consumer, timeout: float) -> bool:
        """Wait until the channel of a consumer keeps nothing back; whether that is so.

        What the queue has given for that stays with the channel, unsettled.
        """
        deadline = monotonic() + timeout
        asked = self._ask([consumer], timeout)
        return asked is not None and all(request.is_answered(deadline - monotonic()) for _, request in asked)

    def _flush_queues(self, timeout: float, is_answered: Callable[[GetRequest], bool]) -> bool:
        deadline = monotonic() + timeout
        if not self._lock.acquire(timeout=max(0.0, timeout)):
            return False
        try:
            asked = self._ask(self._consumers.all(), deadline - monotonic())
            answered = [is_answered(request) for _, request in asked or ()]
            for consumer, request in asked or ():
                for arrival in request.items:
                    self._return(consumer, arrival)
        finally:
            self._lock.release()
        return asked is not None and all(answered)

    def _ask(self, consumers: Iterable[Consumer], timeout: float) -> _Asked | None:
        """Send what was settled, and ask each queue for a message that may not have all of it; None when it is late."""
        asked: Future[_Asked] = Future()

        def ask() -> None:
            some = [(consumer, self._ask_one(consumer)) for consumer in consumers]
            asked.set_result([(consumer, request) for consumer, request in some if request is not None])

        self._connections.io.post(ask)
        try:
            return asked.result(max(0.0, timeout))
        except TimeoutError:
            return None

    def _ask_one(self, consumer: Consumer) -> GetRequest | None:
        channel = consumer.channel
        if channel is None:
            return None
        channel.flush()
        if not channel.is_ahead or self._is_classic(consumer.queue):
            return None
        consumer.barrier(_ignore)  # its answer tells a queue that is slow from a broker that is silent
        request = GetRequest(1)
        consumer.get(request)
        return request

    def _return(self, consumer: Consumer, arrival: Arrival) -> None:
        if consumer.prefetch:  # it will be received here
            consumer.buffer.put(arrival)
        else:
            self._handbacks.return_unread(consumer.queue, arrival)


def _ignore() -> None:
    pass
