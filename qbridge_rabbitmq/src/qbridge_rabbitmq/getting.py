"""A caller's wish for messages, without a consumer."""

from __future__ import annotations

import threading
from typing import Final

from qbridge_rabbitmq.life import Arrival

_LAST_WAIT: Final = 1.0


class GetRequest:
    """A caller's wish for up to ``limit`` messages that are ready now.

    Attributes:
        error: why the broker refused, when it did.
        items: the messages.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.items: list[Arrival] = []
        self.error: BaseException | None = None
        self._late: list[Arrival] = []
        self._lock = threading.Lock()
        self._enough = False
        self._over = False
        self._done = threading.Event()

    def wait(self, timeout: float) -> bool:
        """In the caller's thread: True when there is an answer, which may be fewer messages than there are.

        On a slow link a page takes long, since each message is asked for. What has come by then is taken, and the one
        that is on its way is awaited: giving it back would count as a delivery, and a queue with a delivery limit drops
        what was given back too often.
        """
        if self._done.wait(timeout):
            return True
        self._enough = True
        self._done.wait(_LAST_WAIT)
        with self._lock:
            self._over = True
            return self._done.is_set() or bool(self.items)

    def add(self, arrival: Arrival) -> bool:
        """In the I/O thread: one more message; whether the request wants another one."""
        with self._lock:
            if self._over:
                self._late.append(arrival)
                return False
            self.items.append(arrival)
            return len(self.items) < self._limit and not self._enough

    def finish(self, error: BaseException | None = None) -> None:
        """In the I/O thread: the request is over."""
        with self._lock:
            if not self._over:
                self.error = error
                self._over = True
                self._done.set()
        for item in self._late:
            item.life.nack(item.number)
