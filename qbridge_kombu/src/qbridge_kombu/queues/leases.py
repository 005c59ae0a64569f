"""Leases: what this client holds stays its own while its process lives, however long a handler takes."""

from __future__ import annotations

import threading
from itertools import groupby

from qbridge_core.backend import ConfigurationError, QBridgeError
from qbridge_kombu.connection.broker import log
from qbridge_kombu.state.context import Context
from qbridge_kombu.state.in_flight import Tag
from qbridge_kombu.transports.session import KombuSession

_PER_LEASE = 3


class Leases:
    """Renews the leases of all deliveries in flight, through a connection of its own. Thread-safe."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._thread: threading.Thread | None = None
        self._connection = context.new_thread("leases")

    def start(self) -> None:
        """Start, where there is something to renew."""
        if self._context.transport.renews:
            self._thread = threading.Thread(target=self._run, name="qbridge-kombu-renewals", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """End; the context is closing."""
        if self._thread is not None:
            self._connection.close(timeout)
            self._thread.join(timeout)

    def check_task_timeout(self, queue: str, seconds: float) -> None:
        """Refuse what the broker would hand to another worker meanwhile.

        Raises:
            ConfigurationError: the run may take too long.
        """
        transport = self._context.transport
        scheme = transport.url.scheme
        if transport.lease is not None and not transport.renews and seconds > transport.lease:
            raise ConfigurationError(
                f"a run on {queue!r} may take {seconds:g} s, and {scheme}:// lends a message for "
                f"{transport.lease:g} s, which cannot be renewed: it would run twice. Set a shorter task_timeout, or a "
                "longer lease at the broker"
            )
        if transport.longest_task is not None and seconds > transport.longest_task:
            raise ConfigurationError(
                f"a run on {queue!r} may take {seconds:g} s, and {scheme}:// lets a message be held for "
                f"{transport.longest_task:g} s at most, however often its lease is renewed: set a shorter task_timeout"
            )

    def _run(self) -> None:
        every = (self._context.transport.lease or 1.0) / _PER_LEASE
        while not self._context.closing.wait(every):
            tags = sorted(self._context.in_flight.open_tags(), key=lambda tag: tag.queue)
            for queue, group in groupby(tags, key=lambda tag: tag.queue):
                try:
                    self._renew(queue, list(group), every)
                except QBridgeError as exc:
                    log.debug("leases of %r were not renewed, and will be tried again: %s", queue, exc)
                except Exception as exc:  # noqa: BLE001 - this thread must go on
                    log.error("leases of %r cannot be renewed: %r", queue, exc)

    def _renew(self, queue: str, tags: list[Tag], seconds: float) -> None:
        transport = self._context.transport

        def work(session: KombuSession) -> None:
            by_received = {id(tag.received): tag for tag in tags}
            lost = transport.renew(session, tags[0].name, [tag.received for tag in tags])
            self._context.in_flight.lost([by_received[id(each)] for each in lost])

        self._connection.call(work, f"renew the leases of {queue!r}", seconds)
