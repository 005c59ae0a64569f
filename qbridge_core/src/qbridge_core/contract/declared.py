"""Which queues a client has declared, over all its connections."""

from __future__ import annotations

from qbridge_core.contract.names import default_dead_letter_queue


class DeclaredQueues:
    """The declared queues of one client: what the broker has lost of them is made again. Thread-safe."""

    def __init__(self) -> None:
        self._declared: dict[str, None] = {}
        self._dead_letter_queues: dict[str, str] = {}

    def remember(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Note a declaration; ``None`` does not forget an earlier dead-letter queue."""
        self._declared[queue] = None
        if dead_letter_queue is not None:
            self._declared[dead_letter_queue] = None
            self._dead_letter_queues[queue] = dead_letter_queue

    def is_declared(self, queue: str) -> bool:
        """Whether this client has declared it, if only as the dead-letter queue of another one."""
        return queue in self._declared

    def dead_letter_queue(self, queue: str) -> str:
        """Where rejected messages of a queue go."""
        return self._dead_letter_queues.get(queue) or default_dead_letter_queue(queue)

    def dead_letter_queues(self) -> dict[str, str]:
        """Those that were named, by the queues whose rejected messages go there."""
        return dict(self._dead_letter_queues)

    def declared(self) -> list[str]:
        """All of them, in the order of their declaration."""
        return list(self._declared)
