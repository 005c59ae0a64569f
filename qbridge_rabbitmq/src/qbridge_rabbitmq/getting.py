"""A caller's wish for messages, without a consumer."""

from __future__ import annotations

import threading

from qbridge_rabbitmq.life import Arrival


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
        self._lock = threading.Lock()
        self._given_up = False
        self._done = threading.Event()

    def wait(self, timeout: float) -> bool:
        """In the caller's thread: True when it is done; when False the messages go back by themselves."""
        if self._done.wait(timeout):
            return True
        with self._lock:
            self._given_up = not self._done.is_set()
            return not self._given_up

    def add(self, arrival: Arrival) -> bool:
        """In the I/O thread: one more message; whether the request wants another one."""
        self.items.append(arrival)
        return len(self.items) < self._limit

    def finish(self, error: BaseException | None = None) -> None:
        """In the I/O thread: the request is over."""
        with self._lock:
            self.error = error
            if not self._given_up:
                self._done.set()
                return
        for item in self.items:
            item.life.nack(item.number)
