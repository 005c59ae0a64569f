"""Takes messages over that wait in other queues, as delayed ones of Dramatiq's do, into the queue that they are for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from qbridge_core.app.queues import Queue
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.imports import plain_headers
from qbridge_core.errors import TransientError
from qbridge_core.task.context import current_task
from qbridge_core.task.control import Snooze
from qbridge_core.task.formats.raw import RawFormat
from qbridge_core.work.manager import TaskManager

_PAUSE: Final = 1.0


class Mover:
    """A handler that publishes each message as it is in another queue. Thread-safe.

    When it is due stands in the message, so the workers of that queue have it wait. A message may be moved twice when
    the broker does not answer in time; it is never lost.

    Args:
        client: publishes.
        queue: where to.
    """

    def __init__(self, client: QueueClient, queue: str) -> None:
        self._client = client
        self._queue = queue

    def __call__(self, body: bytes) -> None:
        """Publish it; it is confirmed on return."""
        task = current_task()
        try:
            self._client.publish(self._queue, body, headers=plain_headers(task.headers), message_id=task.message_id)
        except TransientError as exc:
            raise Snooze(_PAUSE, f"cannot move it to {self._queue!r} now: {exc}") from exc


def movers_for(client: QueueClient, queues: Iterable[Queue], grace_period: float) -> list[TaskManager]:
    """A manager for each queue in which messages for one of these wait; its letters are among those of that queue."""
    return [
        TaskManager(
            client,
            Mover(client, queue.name),
            feeder,
            queue.dead_letter_queue,
            formats=[RawFormat()],
            max_workers=1,
            grace_period=grace_period,
        )
        for queue in queues
        for feeder in queue.feeders
    ]
