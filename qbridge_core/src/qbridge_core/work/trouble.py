"""Why nothing comes from the broker, for probes; what the log says of it; and when to ask again."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import BrokerUnavailableError, QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.runtime.pause import GrowingPause

_log: Final = logger("qbridge.worker")
_PAUSES: Final = 0.1, 2.0


class Trouble(NamedTuple):
    """Why nothing comes.

    Attributes:
        since: ``monotonic()`` of the first request that failed.
        error: what the last one raised.
        queue: where from, if not from all queues.
    """

    since: float
    error: Exception
    queue: str = ""


class Troubles:
    """What the requests for messages of a dispatcher fail with. For one thread at a time, ``last`` for any.

    The client reconnects by itself, so they are made again and again, with pauses; the log says so once and then each
    minute.

    Args:
        client: who makes them, and may tell the log itself.
        queue: what the log calls where they ask.

    Attributes:
        last: why the last one failed; None when it did not.
    """

    def __init__(self, client: QueueClient, queue: str) -> None:
        self.last: Trouble | None = None
        self._said_by_client = client.logs_outages
        self._queue = queue
        self._pause = GrowingPause(*_PAUSES)
        self._outage = Outage()

    def failed(self, exc: Exception) -> float:
        """A request has raised this; return the seconds to wait before the next."""
        before = self.last
        self.last = Trouble(monotonic() if before is None else before.since, exc)
        self._outage.lost(self)
        said_by_client = self._said_by_client and isinstance(exc, BrokerUnavailableError)
        loud = not said_by_client and self._outage.is_news(exc)
        _log.log(
            logging.ERROR if loud else logging.DEBUG,
            "cannot receive from %s: %s; it is tried again until it works", self._queue, exc,
            extra={"qbridge_queue": self._queue}, exc_info=None if isinstance(exc, QBridgeError) else exc,
        )  # fmt: skip
        return self._pause.next()

    def over(self) -> None:
        """A request was answered, after some that had failed."""
        self.last = None
        self._pause.reset()
        seconds = self._outage.back(self)
        _log.log(
            logging.INFO if self._outage.was_reported else logging.DEBUG,
            "receiving from %s again after %.1f s", self._queue, seconds or 0.0, extra={"qbridge_queue": self._queue},
        )  # fmt: skip
