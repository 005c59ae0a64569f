"""Which queues a client has declared, so that what the broker has lost is made again."""

from __future__ import annotations

from qbridge_core.backend import default_dead_letter_queue


class Declarations:
    """The declared queues of a client, over its connections. Thread-safe."""

    def __init__(self) -> None:
        self._declared: dict[str, None] = {}
        self._dead_letter_queues: dict[str, str] = {}

    def remember(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Note a declaration."""
        self._declared[queue] = None
        if dead_letter_queue is not None:
            self._declared[dead_letter_queue] = None
            self._dead_letter_queues[queue] = dead_letter_queue

    def is_declared(self, queue: str) -> bool:
        """Whether this client has declared it."""
        return queue in self._declared

    def dead_letter_queue(self, queue: str) -> str:
        """Where rejected messages of a queue go."""
        return self._dead_letter_queues.get(queue) or default_dead_letter_queue(queue)
