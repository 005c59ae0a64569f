"""A queue that is read together with others, and what has come for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from qbridge_core.backend import BrokerUnavailableError, Delivery, QBridgeError, monotonic
from qbridge_redis.recovery.takeover import Takeover
from qbridge_redis.state.context import NodeContext
from qbridge_redis.state.in_flight import InFlight

PATIENCE: Final = 1.0
"""Seconds for which nobody may ask for a queue, or for what has come for it, before it is given up."""
TOGETHER: Final = 1.0
"""Seconds by which looks for abandoned entries come too early or too late, so that those of many queues go together."""


class Subscription:
    """A queue that may be read together with others. ``put`` and ``fail`` are for the shared reader."""

    def __init__(self, context: NodeContext, queue: str, takeover: Takeover) -> None:
        self.context: Final = context
        self.stream: Final = context.keys.stream(queue)
        self.queue: Final = queue
        self.slot: Final = context.keys.slot(queue)
        self.takeover: Final = takeover
        self.in_flight: Final[InFlight] = context.in_flight(queue)
        self.count = 1
        self.until = 0.0
        """When nobody asks for it any more (monotonic time)."""
        self.is_new = True
        """Nobody has looked yet whether the queue may be read."""
        self.collect_by = 0.0
        """When what has come and was not collected goes back (monotonic time)."""
        self.home: Any = None
        """Who is to read it."""
        self.reader: Any = None
        """Who reads it, or did last."""
        self.is_read = False
        """Whether that one is at it."""
        self.trouble: QBridgeError | None = None
        """Why it alone cannot be read at the moment."""
        self._came: deque[Delivery] = deque()
        self._error: QBridgeError | None = None
        self._news = threading.Event()
        self.listener: threading.Event | None = None
        """Set too when something has come: of whoever waits for several queues."""

    def recovers_at(self, now: float) -> float:
        """When to see what comes back to the queue (monotonic time)."""
        return min(self.takeover.comes_back_at(), max(self.takeover.look_at, now + TOGETHER))

    def begin(self, reader: object) -> bool:
        """It is read now; return whether from another server than before, whose last answer may be lost."""
        before, self.reader, self.is_read = self.reader, reader, True
        if before is None or before is reader:
            return False
        self.trouble = None
        self.takeover.reply_lost()
        self.takeover.begin_anew()
        return True

    def require_success(self) -> None:
        """Do nothing unless it alone cannot be read at the moment.

        Raises:
            BrokerUnavailableError: it cannot.
        """
        if self.trouble is not None:
            raise BrokerUnavailableError(str(self.trouble)) from self.trouble.__cause__

    def wake(self) -> None:
        """Let a ``wait`` end, and that of whoever waits for several queues."""
        self._news.set()
        if (listener := self.listener) is not None:
            listener.set()

    def wait(self, timeout: float) -> None:
        """Wait until something has come, or somebody calls ``wake``."""
        self._news.wait(timeout)
        self._news.clear()

    def put(self, batch: Iterable[Delivery]) -> None:
        """Something has come."""
        self.collect_by = monotonic() + PATIENCE
        self._came.extend(batch)
        self.wake()

    def fail(self, error: QBridgeError) -> None:
        """The queue cannot be read."""
        self._error = error
        self.wake()

    @property
    def has_come(self) -> bool:
        """Whether something waits to be collected."""
        return bool(self._came)

    def collect(self, count: int) -> list[Delivery]:
        """Up to ``count`` of what has come.

        Raises:
            QBridgeError: what ``fail`` was told.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._take(count)

    def clear(self) -> list[Delivery]:
        """All that has come; nobody collects it any more."""
        return self._take(len(self._came))

    def _take(self, count: int) -> list[Delivery]:
        batch: list[Delivery] = []
        while self._came and len(batch) < count:
            try:
                batch.append(self._came.popleft())
            except IndexError:
                break  # another thread was quicker
        return batch
