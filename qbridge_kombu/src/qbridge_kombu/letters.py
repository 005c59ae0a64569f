"""What ``KombuClient`` does with dead letters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from qbridge_core.backend import (
    DeadLetter,
    Delivery,
    QueueClient,
    UnsupportedError,
    check_after,
    check_count,
    check_imports,
    check_queue_name,
    check_replay,
    replay_headers,
)
from qbridge_kombu.connected import Connected
from qbridge_kombu.connection.boundary import guarded_method
from qbridge_kombu.protocol.headers import sent
from qbridge_kombu.protocol.messages import Outgoing, imported
from qbridge_kombu.transports.base import Transport


class Letters(QueueClient):
    """Lists dead letters, and sends them back and imports them."""

    _transport: Transport

    @abstractmethod
    def _connected(self) -> Connected:
        """The parts of a client that is connected."""

    @guarded_method
    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List the oldest, where the transport can look without taking."""
        check_queue_name(queue)
        parts = self._connected()
        if check_after(after) is not None:
            raise self._cannot_choose(queue)
        if not self.capabilities.browse:
            raise UnsupportedError(
                f"{self._transport.url.scheme}:// cannot list {queue!r} without consuming it: receive the letters, or "
                "replay them"
            )
        return parts.looking.dead_letters(queue, check_count("limit", limit))

    @guarded_method
    def replay(
        self,
        dead_letter_queue: str,
        *,
        target: str | None = None,
        limit: int | None = None,
        letters: Iterable[DeadLetter | str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send dead letters back."""
        check_replay(dead_letter_queue, target, limit)
        self._connected()
        return super().replay(
            dead_letter_queue, target=target, limit=limit, letters=letters, body=body, headers=headers
        )

    @guarded_method
    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Publish letters into a dead-letter queue; values of headers become texts."""
        check_queue_name(dead_letter_queue)
        parts = self._connected()
        copies = [imported(letter) for letter in check_imports(letters)]
        parts.publisher.copies(dead_letter_queue, copies)
        return len(copies)

    def _publish_letter(self, queue: str, delivery: Delivery) -> None:
        check_queue_name(queue)
        properties = delivery.tag.received.properties
        headers = {**delivery.headers, **replay_headers(delivery.meta), **sent(delivery.meta, delivery.sent_at_ms)}
        self._connected().publisher.copy(queue, Outgoing(delivery.body, headers, properties))
