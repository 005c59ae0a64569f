"""A caller's wish for messages, without a consumer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.backend import PREFETCH_BYTES
from qbridge_rabbitmq.state.in_flight import Arrival

_LAST_WAIT: Final = 1.0


class GetRequest:
    """A caller's wish for up to ``limit`` messages that are ready now, as far as they are not too large together.

    Attributes:
        error: why the broker refused, when it did.
        items: the messages.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self.items: list[Arrival] = []
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._enough = False
        self._over = False
        self._done = threading.Event()

    def wait(self, timeout: float, is_coming: Callable[[], bool]) -> bool:
        """In the caller's thread: True when there is an answer, which may be fewer messages than there are.

        On a slow link a page takes long, since each message is asked for, and a large message takes long by itself.
        What has come by then is taken, and the one that is on its way is awaited for as long as ``is_coming``, which is
        asked now and then. One that is later still is for the next request (see ``Consumer``).
        """
        if self._done.wait(timeout):
            return True
        self._enough = True
        while not self._done.wait(_LAST_WAIT) and is_coming():
            pass
        with self._lock:
            self._over = True
            return self._done.is_set() or bool(self.items)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._over

    @property
    def wants_more(self) -> bool:
        """In the I/O thread: whether the broker should be asked for another message."""
        return (
            not self._over and not self._enough and len(self.items) < self._limit and self._size < PREFETCH_BYTES
        )  # fmt: skip

    def add(self, arrival: Arrival) -> bool:
        """In the I/O thread: one more message. False when it came too late."""
        with self._lock:
            if self._over:
                return False
            self.items.append(arrival)
            self._size += len(arrival.body)
            return True

    def finish(self) -> None:
        """In the I/O thread: the request is over."""
        with self._lock:
            self._over = True
            self._done.set()

    def fail(self, error: BaseException) -> list[Arrival]:
        """In the I/O thread: the channel has ended, and these were lost with it before anybody had them."""
        with self._lock:
            if self._over:
                return []
            lost, self.items = self.items, []
            self.error = error
            self._over = True
            self._done.set()
            return lost
