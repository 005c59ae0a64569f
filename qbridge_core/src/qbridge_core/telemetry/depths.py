"""Asks the broker about queues every few seconds, in a thread of its own, and shows what it says."""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import QueueStats
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.endurance import Endurance
from qbridge_core.runtime.logs import logger
from qbridge_core.telemetry.catalogue import DEAD, DELAYED, OLDEST, PAUSED, READY
from qbridge_core.telemetry.figures import Figures

_log: Final = logger("qbridge.metrics")
_SHARE: Final = 20
"""Looks take at most that part of the time, however many queues there are and however slow the broker is."""


_SHOWN: Final = (
    (READY, "ready"), (DELAYED, "delayed"), (DEAD, "dead"), (OLDEST, "oldest_age"), (PAUSED, "paused"),
)  # fmt: skip


def show_depth(figures: Figures, queue: str, found: object) -> None:
    """Show what the broker said of a queue: the attributes of ``QueueStats``; ``None`` when it said nothing."""
    for metric, name in _SHOWN:
        value = getattr(found, name, None)
        figures.show(metric, None if value is None else float(value), queue)


class Depths:
    """Looks at the queues of this process's workers. Thread-safe; only its own thread waits for a broker.

    Args:
        figures: where to show what is seen.
    """

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._every: float | None = None
        self._queues: dict[str, list[QueueClient]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, every: float) -> None:
        """Look from now on, as long as somebody works, so many seconds after the last look at least."""
        with self._changed:
            self._every = every
            self._start()

    def add(self, queue: str, client: QueueClient) -> None:
        """A worker of this queue has started, with this client."""
        with self._changed:
            self._queues.setdefault(queue, []).append(client)
            self._start()

    def remove(self, queue: str, client: QueueClient) -> None:
        """A worker of this queue stops."""
        with self._changed:
            clients = self._queues.get(queue, [])
            if client in clients:
                clients.remove(client)
            if not clients:
                self._queues.pop(queue, None)
            self._changed.notify()

    def _start(self) -> None:
        if self._every is not None and self._queues and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="qbridge-depths", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        enduring = Endurance("what looks at the queues for metrics")
        pause = 0.0
        seen: set[str] = set()
        while (queues := self._next(pause)) is not None:
            began = monotonic()
            with enduring:
                for gone in seen - queues.keys():
                    show_depth(self._figures, gone, None)
                seen = set(queues)
                for queue, client in queues.items():
                    self._look(queue, client)
            pause = max(self._every or 0.0, (monotonic() - began) * _SHARE)
        for queue in seen:
            show_depth(self._figures, queue, None)

    def _next(self, pause: float) -> dict[str, QueueClient] | None:
        """Wait for the next look; None when nobody works any more."""
        until = monotonic() + pause
        with self._changed:
            while self._queues and (left := until - monotonic()) > 0:
                self._changed.wait(left)
            if not self._queues:
                self._thread = None
                return None
            return {queue: clients[-1] for queue, clients in self._queues.items()}

    def _look(self, queue: str, client: QueueClient) -> None:
        stats: QueueStats | None = None
        try:
            stats = client.describe(queue)
        except QBridgeError as exc:  # the broker is away, which the workers say, or does not allow it
            _log.debug("cannot look at %s: %s", queue, exc)
        finally:
            show_depth(self._figures, queue, stats)
