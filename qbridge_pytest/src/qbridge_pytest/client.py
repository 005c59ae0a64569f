"""A client of a broker in memory that has the faults which a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

from qbridge_core import Delivery, DeliveryLostError, Failure, Message
from qbridge_core.backend import settled
from qbridge_memory import MemoryClient
from qbridge_memory.stored import Event
from qbridge_pytest import points
from qbridge_pytest.clock import VirtualClock
from qbridge_pytest.faults import Faults, WorkerDiedError
from qbridge_pytest.lines import go_on


class FaultyClient(MemoryClient):
    """The client of a test, for its producers and its workers. Thread-safe.

    A worker that dies leaves what it was running to the broker, which hands it out again. Its thread goes on with the
    next task, as that of another worker would.

    Args:
        time: the clock of the broker.
        journal: called with each event.
        faults: what goes wrong.
    """

    def __init__(self, time: VirtualClock, journal: Callable[[Event], object], faults: Faults) -> None:
        super().__init__(clock=time.clock, journal=journal)
        self._faults = faults

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
        """Publish a message, unless the broker is down, or who sends it is dead."""
        if self._faults.sender_is_dead():
            return
        with self._faults.publishing(timeout):
            super().publish(queue, body, headers=headers, message_id=message_id, delay=delay, timeout=timeout)

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish messages, unless the broker is down, or who sends them is dead."""
        if self._faults.sender_is_dead():
            return
        with self._faults.publishing(timeout):
            super().publish_many(queue, messages, timeout=timeout)

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages, unless the broker is down.

        An event loop hands over what its coroutines send, in the context of the first of them: that one dies, and
        nobody else, least of all the loop.
        """
        if self._faults.sender_is_dead():
            return [settled(), *super().publish_soon(queue, messages[1:], delay=delay, timeout=timeout)]
        futures: list[Future[None]] = []
        try:
            with self._faults.publishing(timeout):
                futures = super().publish_soon(queue, messages, delay=delay, timeout=timeout)
        except WorkerDiedError as died:
            rest = futures[1:] or super().publish_soon(queue, messages[1:], delay=delay, timeout=timeout)
            return [settled(died), *rest]
        return futures

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take messages."""
        self._faults.meet(worker=True)
        return self._survivors(super().receive(queue, max_messages, timeout))

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take messages of several queues."""
        self._faults.meet(worker=True)
        return self._survivors(super().receive_any(wanted, timeout))

    def ack(self, delivery: Delivery) -> None:
        """Remove a message, unless its worker has died."""
        self._faults.meet_settlement()
        self._refuse_the_dead(delivery)
        if self._faults.loses_ack(delivery):
            super().reject(delivery)
            return
        super().ack(delivery)
        self._faults.dies_at(points.SETTLED, delivery)

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Move a message on, unless its worker has died."""
        self._faults.meet_settlement()
        if failure is not None:  # otherwise it has not run
            self._refuse_the_dead(delivery)
        super().reject(delivery, requeue, delay=delay, failure=failure, queue=queue)
        if failure is not None:
            self._faults.dies_at(points.SETTLED, delivery)

    def _survivors(self, taken: list[Delivery]) -> list[Delivery]:
        dead = [delivery for delivery in taken if self._faults.dies_at(points.RECEIVED, delivery)]
        for delivery in dead:
            super().reject(delivery)
        return [delivery for delivery in taken if delivery not in dead]

    def _refuse_the_dead(self, delivery: Delivery) -> None:
        if not self._faults.settles(delivery):
            go_on()
            super().reject(delivery)  # once; another time it is not there any more
            raise DeliveryLostError("its worker has died, as the test has asked for")
