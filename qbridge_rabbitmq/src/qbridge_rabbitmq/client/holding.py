"""What ``RabbitMQClient`` does with queues that are held back."""

from __future__ import annotations

from collections.abc import Iterable

from qbridge_core.backend import check_queue_name, check_queue_names
from qbridge_rabbitmq.client.connecting import Connecting
from qbridge_rabbitmq.connection.boundary import bounded


class Holding(Connecting):
    """Pauses queues."""

    @bounded
    def pause(self, queue: str) -> None:
        """Leave a mark beside the queue, the exchange ``<queue>.qb.paused``, and a note for all workers."""
        self._live().pauses.pause(check_queue_name(queue))

    @bounded
    def resume(self, queue: str) -> None:
        """Take the mark away, and leave a note."""
        self._live().pauses.resume(check_queue_name(queue))

    @bounded
    def paused(self, queues: Iterable[str]) -> set[str]:
        """Look for the marks, if there is a note that was not there before."""
        return self._live().pauses.paused(check_queue_names(queues))
