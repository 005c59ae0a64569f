"""Receives for a caller who may wait: what a consumer has brought, or what the broker has when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeVar

from qbridge_core.backend import BrokerUnavailableError, GrowingPause, UnroutableError, monotonic
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumers import Consumers
from qbridge_rabbitmq.consume.getting import GetRequest
from qbridge_rabbitmq.consume.several import Groups, SeveralConsumers
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.requests import Requests
from qbridge_rabbitmq.state.in_flight import Arrival

T = TypeVar("T")
_PAUSES: Final = 0.01, 0.1
_PATIENCE: Final = 2.0


class Receiving:
    """For any thread but the I/O thread, and one at a time for a queue.

    Args:
        connections: the client's.
        consumers: where messages come from.
        requests: has a queue that is missing declared again.
        declarations: knows the queues of this client.
        timeout: seconds to wait for an answer of the broker.
    """

    def __init__(
        self,
        connections: Connections,
        consumers: Consumers,
        requests: Requests,
        declarations: Declarations,
        timeout: float,
    ) -> None:
        self._connections = connections
        self._consumers = consumers
        self._requests = requests
        self._declarations = declarations
        self._timeout = timeout
        self._groups = Groups(consumers)

    def receive(self, queue: str, limit: int, timeout: float, accept: Callable[[list[Arrival]], list[T]]) -> list[T]:
        """Take up to ``limit`` messages; see ``QueueClient.receive``.

        Args:
            queue: where from.
            limit: how many.
            timeout: seconds to wait for the first.
            accept: what the caller gets for those that have come. When that is nothing, because the broker has them
                again or a copy took their place, the wait goes on.
        """
        consumer, connections = self._consumers.of(queue), self._connections
        epoch = consumer.epoch
        deadline = monotonic() + timeout
        reached = connections.is_up and consumer.prefetch > 0
        pause = GrowingPause(*_PAUSES)
        while True:
            left = max(0.0, deadline - monotonic())
            if consumer.prefetch:
                self._flush_before_waiting(consumer)
                items = consumer.buffer.take(limit, left)
                reached = reached or connections.is_up
                if timeout <= 0 and not items:
                    items = self._beyond_buffer(consumer, epoch, limit)
            else:
                items, answered = self._poll(consumer, epoch, limit, left, min(pause.next(), left))
                reached = reached or answered
            if items and (accepted := accept(items)):
                return accepted
            connections.require_open()
            if consumer.epoch != epoch:
                return []
            if items:  # what took their place may be there, also for a caller who does not want to wait
                reached = True
                continue
            _require_queue(consumer)
            if monotonic() >= deadline:
                if not reached:
                    raise self._unreached()
                return []

    def _beyond_buffer(self, consumer: Consumer, epoch: int, limit: int) -> list[Arrival]:
        """What the queue of a consumer has ready, though nothing is here: as its prefetch is used up, or on its way.

        One is asked for in the second case: what else is there is pushed, and has come before the answer.
        """
        is_full = consumer.is_full
        if consumer.is_drained and not is_full:
            return []
        items, _ = self._poll(consumer, epoch, limit if is_full else 1, 0.0, 0.0)
        return items + consumer.buffer.take(limit - len(items), 0.0) if len(items) < limit else items

    def several(self, queues: Collection[str]) -> SeveralConsumers | None:
        """The consumers of these queues, for ``receive_any``; None when one of them has none."""
        several = self._groups.of(queues)
        return several if several.consume else None

    def receive_any(
        self,
        several: SeveralConsumers,
        wanted: Mapping[str, int],
        timeout: float,
        accept: Callable[[str, list[Arrival]], list[T]],
    ) -> list[T]:
        """Take messages of several queues; see ``QueueClient.receive_any``."""
        connections = self._connections
        deadline = monotonic() + timeout
        reached = connections.is_up
        while True:
            connections.io.wake()  # what is settled is sent before the wait, so that the broker sends more
            found = several.wait(max(0.0, deadline - monotonic()))
            if found is None:
                return []
            came = [one for consumer in found for one in self._take(several, consumer, wanted, accept)]
            if came:
                return came
            connections.require_open()
            if several.were_interrupted(found):
                return []
            for consumer in found:
                _require_queue(consumer)
            if monotonic() >= deadline:
                if not (reached or connections.is_up):
                    raise self._unreached()
                return []

    def _take(
        self,
        several: SeveralConsumers,
        consumer: Consumer,
        wanted: Mapping[str, int],
        accept: Callable[[str, list[Arrival]], list[T]],
    ) -> list[T]:
        """What one of several has; the next look is at those that have more, or cannot be consumed from."""
        items = consumer.buffer.take(wanted[consumer.queue], 0.0)
        if not consumer.buffer.is_empty or consumer.missing is not None:
            several.ask_again(consumer)
        return accept(consumer.queue, items) if items else []

    def _unreached(self) -> BrokerUnavailableError:
        connections = self._connections
        return BrokerUnavailableError(f"no answer from {connections}{connections.because}")

    def _flush_before_waiting(self, consumer: Consumer) -> None:
        """Have the broker send more at once, when nothing is left to take."""
        channel = consumer.channel
        if channel is not None and channel.has_finished and consumer.buffer.is_empty:
            self._connections.io.wake()

    def _poll(
        self, consumer: Consumer, epoch: int, limit: int, left: float, pause: float
    ) -> tuple[list[Arrival], bool]:
        """Ask for what is ready, else wait for a moment; the messages, and whether the broker answered.

        While bytes come, the answer is among them or behind them. It is awaited longer than the caller wants to wait
        for a new message: what is on its way is ready, and nobody else can have it.
        """
        items = consumer.buffer.take(limit, 0.0)
        if items:
            return items, True
        request, progress = GetRequest(limit), self._connections.progress()
        self._connections.io.post(lambda: consumer.get(request))
        patience = max(left, _PATIENCE)
        longest = monotonic() + max(patience, self._timeout)

        def is_coming() -> bool:
            return progress.moved() and consumer.epoch == epoch and monotonic() < longest

        if not request.wait(patience, is_coming):
            return [], progress.has_moved
        if request.items:
            return request.items, True
        answered = request.error is None
        if request.error is not None and not self._recover(consumer.queue, request.error):
            answered = False
        return (consumer.buffer.take(limit, pause) if pause else []), answered

    def _recover(self, queue: str, error: BaseException) -> bool:
        """Create a queue of ours that is missing; True when the next get may succeed.

        Raises:
            PermanentError: it will not.
        """
        self._connections.require_open()
        if errors.is_missing(error) and self._declarations.knows(queue):
            try:
                self._requests.call(f"queue {queue!r}", self._declarations.restore(queue))
            except BrokerUnavailableError:
                return False
            return True
        problem = errors.from_channel(error, f"queue {queue!r}", "read")
        if not isinstance(problem, BrokerUnavailableError):
            raise problem from error
        return False


def _require_queue(consumer: Consumer) -> None:
    """Say so when there is no consumer, for the broker does not let one be.

    Raises:
        QBridgeError: why.
    """
    reason = consumer.missing
    if reason is None:
        return
    if errors.is_missing(reason):
        raise UnroutableError(f"queue {consumer.queue!r} does not exist; declare it first") from reason
    raise errors.from_channel(reason, f"queue {consumer.queue!r}", "read") from reason
