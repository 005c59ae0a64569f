"""Where the deliveries of a dispatcher come from: one queue, or those of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.logs import logger
from qbridge_core.work.gate import Gate
from qbridge_core.work.trouble import Trouble

if TYPE_CHECKING:
    from qbridge_core.work.pooled.reading import PoolReader

_log: Final = logger("qbridge.worker")


class Source:
    """The consumer of one queue, or of each queue of a pool. Thread-safe, but for ``receive``.

    Args:
        client: the broker.
        queue: the queue.
        workers: how many messages are wanted at once.
        pool: reads the queues of a pool, and takes the place of the queue.

    Attributes:
        pool: as above.
        queues: what is read.
        gate: keeps everybody from reading while it is shut.
        wakes: whether ``end`` ends a request that is under way.
        client: as above.
        queue: as above.
        waits_for_any: whether somebody may wait for messages of this queue and of many others at once.
    """

    def __init__(self, client: QueueClient, queue: str, workers: int, pool: PoolReader | None) -> None:
        self.pool: Final = pool
        self.queues: Final = frozenset((queue,) if pool is None else pool.queues)
        self.gate: Final = Gate() if pool is None else pool.gate
        self.wakes: Final = type(client).unsubscribe is not QueueClient.unsubscribe
        self.client: Final = client
        self.waits_for_any: Final = pool is None and client.waits_for_any and self.wakes
        self.queue: Final = queue
        self._workers = workers

    @property
    def trouble(self) -> Trouble | None:
        """Why one of several queues cannot be read, the one for the longest time; None when each can be."""
        if self.pool is None:
            return None
        failing = [Trouble(since, exc, queue) for queue, (since, exc) in list(self.pool.failing.items())]
        return min(failing, default=None, key=lambda each: each.since)

    def open(self) -> None:
        """Start the consumer of one queue; those of a pool are started one by one."""
        self.client.subscribe(self.queue, self._workers)

    def end(self) -> None:
        """End all, and wake who reads."""
        if self.pool is not None:
            self.pool.end()
            return
        try:
            self.client.unsubscribe(self.queue)
        except QBridgeError as exc:
            _log.debug("unsubscribe: %s", exc)

    def receive(self, count: int, timeout: float) -> list[Delivery]:
        """Take up to ``count`` messages; wait up to ``timeout`` seconds for the first.

        Raises:
            NotConnectedError: somebody disconnected the client.
            Exception: nothing can be read.
        """
        if self.pool is None:
            return self.client.receive(self.queue, count, timeout)
        return self.pool.receive(count, timeout)
