"""What ``KombuClient`` does with messages and queues that are held back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from qbridge_core.backend import QueueClient, UnsupportedError, check_queue_name, check_queue_names
from qbridge_kombu.connected import Connected
from qbridge_kombu.connection.boundary import guarded_method
from qbridge_kombu.queues.pauses import Pauses
from qbridge_kombu.transports.base import Transport


class Holding(QueueClient):
    """Deletes what waits, and pauses queues."""

    _transport: Transport

    @abstractmethod
    def _connected(self) -> Connected:
        """The parts of a client that is connected."""

    @guarded_method
    def purge(self, queue: str, *, delayed: bool = False) -> int:
        """Delete the ready messages, or those in ``<queue>.delayed``."""
        check_queue_name(queue)
        looking = self._connected().looking
        if not delayed:
            return looking.purge(queue)
        if not self.capabilities.purge_delayed:
            raise UnsupportedError(f"{self._transport.url.scheme}:// lets nobody reach what it holds back of {queue!r}")
        return looking.purge_delayed(queue)

    @guarded_method
    def pause(self, queue: str) -> None:
        """Leave a mark, a message in ``<queue>.paused``."""
        self._pauses(check_queue_name(queue)).pause(queue)

    @guarded_method
    def resume(self, queue: str) -> None:
        """Take the mark away."""
        self._pauses(check_queue_name(queue)).resume(queue)

    @guarded_method
    def paused(self, queues: Iterable[str]) -> set[str]:
        """Look for the marks, one after the other."""
        names = check_queue_names(queues)
        return self._pauses(", ".join(names)).paused(names)

    def _pauses(self, queue: str) -> Pauses:
        parts = self._connected()
        if not self.capabilities.pause:
            raise UnsupportedError(f"{self._transport.url.scheme}:// keeps no mark that {queue!r} is paused")
        return parts.pauses
