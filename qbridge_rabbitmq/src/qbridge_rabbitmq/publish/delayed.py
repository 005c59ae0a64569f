"""Publishes what shall come later: into the delay level that the highest bit of the delay names."""

from __future__ import annotations

from qbridge_core.backend import UnroutableError, check_queue_name
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.publish.sender import Sender
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.pending_delays import PendingDelays
from qbridge_rabbitmq.queues.requests import Requests


class DelayedSender:
    """For any thread but the I/O thread.

    Args:
        sender: publishes.
        requests: has the levels declared that are missing.
        declarations: knows those that are there.
        pending: remembers what is under way.
    """

    def __init__(self, sender: Sender, requests: Requests, declarations: Declarations, pending: PendingDelays) -> None:
        self._pending = pending
        self._sender = sender
        self._requests = requests
        self._declarations = declarations

    def send(self, message: Publication, delay: float, timeout: float | None = None) -> None:
        """Publish a message for a queue, which gets it after ``delay`` seconds.

        Raises:
            QBridgeError: it was not confirmed, or its delay cannot be held.
        """
        queue, declared = message.routing_key, self._declarations
        units = delays.units(delay)
        top = delays.top_level(units)
        delays.check_room(check_queue_name(queue))
        for attempt in (1, 2):
            if not declared.has_levels(queue, top):
                self._requests.call(f"queue {queue!r}", declared.declare_levels(queue, top))
            delayed = Publication(delays.name(queue, top), delays.routing_key(units), message.properties, message.body)
            try:
                self._sender.send([delayed], timeout)
            except UnroutableError:
                if attempt == 2:
                    raise
                declared.forget_levels(queue)  # somebody deleted them
            else:
                self._pending.sent(queue, headers.read(message.properties).mark, delay)
                return
