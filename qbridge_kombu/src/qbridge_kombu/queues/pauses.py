"""Queues that are paused: a message in ``<queue>.paused``, which nobody receives, is the mark."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from qbridge_core.backend import Message, worker_identity
from qbridge_kombu.queues.publisher import Publisher
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.session import KombuSession


def paused_queue(queue: str) -> str:
    """The queue that holds a message while this one is paused."""
    return f"{queue}.paused"


class Pauses:
    """Asks through the sender's connection. Thread-safe."""

    def __init__(self, context: Context, publisher: Publisher) -> None:
        self._context = context
        self._publisher = publisher

    def pause(self, queue: str) -> None:
        """Leave the mark, with what a person may want to know of it."""
        if not self.paused([queue]):
            self._context.create(paused_queue(queue))
            body = json.dumps({"at": round(time.time(), 3), "by": worker_identity()}).encode()
            self._publisher.publish(paused_queue(queue), [Message(body)], 0.0, None)

    def resume(self, queue: str) -> None:
        """Take the mark away; the queue that held it stays, empty."""
        transport = self._context.transport
        name = transport.name_of(paused_queue(queue))
        while self._context.ask(lambda session: transport.purge(session, name), f"resume {queue!r}"):
            pass  # somebody else may have paused it as well

    def paused(self, queues: Sequence[str]) -> set[str]:
        """Which of these queues have a mark."""
        return self._context.ask(
            lambda session: {queue for queue in queues if self.is_marked(session, queue)},
            "look which queues are paused",
        )

    def is_marked(self, session: KombuSession, queue: str) -> bool:
        """Whether a queue has a mark. For the thread of a session."""
        transport = self._context.transport
        return transport.size(session, transport.name_of(paused_queue(queue))) > 0
