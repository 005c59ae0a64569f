"""A client between ``connect`` and ``disconnect``: its connections and threads."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from qbridge_core.backend import ConnectionEvents, DeclaredQueues, QBridgeError, monotonic
from qbridge_kombu.options import Settings
from qbridge_kombu.queues.checkup import Checkup
from qbridge_kombu.queues.delays import Delays
from qbridge_kombu.queues.leases import Leases
from qbridge_kombu.queues.looking import Looking
from qbridge_kombu.queues.pauses import Pauses
from qbridge_kombu.queues.publisher import Publisher
from qbridge_kombu.queues.receiving import Receiving
from qbridge_kombu.queues.settling import Settling
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.base import Transport

_LEAST: Final = 0.1  # seconds for each step of the end, however late it is


class Connected:
    """All parts of one connected client.

    Attributes:
        pid: the process that connected it; in another one it must not be used.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        declarations: DeclaredQueues,
        events: ConnectionEvents | None = None,
    ) -> None:
        self.pid = os.getpid()
        self.context = Context(transport, settings, declarations, events)
        self.publisher = Publisher(self.context)
        self.delays = Delays(self.context)
        self.receiving = Receiving(self.context, self.delays)
        self.settling = Settling(self.context, self.publisher)
        self.pauses = Pauses(self.context, self.publisher)
        self.looking = Looking(self.context, self.delays, self.pauses)
        self.leases = Leases(self.context)
        self.checkup = Checkup(self.context, self.leases)

    def start(self) -> None:
        """Connect.

        Raises:
            The errors of ``QueueClient.connect``.
        """
        context = self.context
        context.broker.load()
        seconds = context.settings.connect_timeout + context.settings.request_timeout
        try:
            context.sender.call(lambda _: None, f"connect to {context.transport.url}", seconds)
            self.leases.start()
        except BaseException:
            context.sender.close(0.0)
            raise

    def declare(self, queue: str, dead_letter_queue: str | None) -> None:
        """Make both where they are missing."""
        for each in (queue, dead_letter_queue):
            if each is not None:
                self.context.create(each)

    def stop(self, seconds: float) -> None:
        """Give back what is in flight, and close everything, in about so many seconds at most."""
        deadline = monotonic() + seconds
        context = self.context
        context.closing.set()
        context.wake_all()
        try:
            self._let_receives_end(deadline)
            self.settling.stop(deadline)
        finally:  # an interrupted program may live on, and nobody else gets what an open connection holds
            context.in_flight.end()
            self.leases.stop(max(_LEAST, deadline - monotonic()))
            for thread in [*context.receivers(), context.sender]:
                thread.close(max(_LEAST, deadline - monotonic()))
            context.transport.disconnected()

    def _let_receives_end(self, deadline: float) -> None:
        """What is being received just now is in flight afterwards, and nothing more is."""
        for thread in self.context.receivers():
            with suppress(QBridgeError):
                thread.call(lambda _: None, "end receiving", max(_LEAST, deadline - monotonic()))
