"""What threads have brought to be published goes to the I/O thread in one line, however it is waited for.

So the messages of one thread keep their order, and what has gathered since the I/O thread looked last is one write.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

from qbridge_core.backend import Mailbox
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.publish.publisher import Batch, Publisher

Gather = Callable[[list[Any]], Iterable[Batch]]
"""Makes batches of what was brought one after the other; called in the I/O thread."""


class Departures:
    """The line of one client.

    Args:
        connections: the client's.
        publisher: publishes on one of them.
    """

    def __init__(self, connections: Connections, publisher: Publisher) -> None:
        self._publisher = publisher
        self._mailbox: Mailbox[tuple[Gather, Any]] = Mailbox(lambda: connections.io.post(self._take_off))

    def bring(self, gather: Gather, item: Any) -> None:
        """In any thread: have it published soon, after all that this thread has brought."""
        self._mailbox.post((gather, item))

    def _take_off(self) -> None:
        batches: list[Batch] = []
        for gather, brought in itertools.groupby(self._mailbox.take(), itemgetter(0)):
            batches += gather([item for _, item in brought])
        self._publisher.submit(batches)
