"""Broken clients that publish without waiting, of the memory backend and of the lease backend."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from qbridge_core.backend import settled
from qbridge_memory import MemoryClient
from support.leases.client import LeaseClient


class ForgetsWhatIsSoon(MemoryClient):
    """Confirms a message that it has not sent."""

    def publish_soon(self, *args: Any, **options: Any) -> Future[None]:
        return settled()


class RaisesWhatIsSoon(MemoryClient):
    """Raises at once what belongs into the future."""

    def publish_soon(self, *args: Any, **options: Any) -> Future[None]:
        self.publish(*args, **options)
        return settled()


class CancelsWhatIsSoon(MemoryClient):
    """Gives out a future that can be cancelled, and sends the message all the same."""

    def publish_soon(self, *args: Any, **options: Any) -> Future[None]:
        future: Future[None] = Future()
        done = super().publish_soon(*args, **options)
        if (error := done.exception()) is not None:
            future.set_exception(error)
        else:
            self._later(future)
        return future

    @staticmethod
    def _later(future: Future[None]) -> None:
        def end() -> None:
            if not future.cancelled():
                future.set_result(None)

        timer = threading.Timer(0.1, end)
        timer.daemon = True
        timer.start()


class SendsAtOnceWhatIsSoon(MemoryClient):
    """Takes no delay for what is published soon."""

    def publish_soon(self, *args: Any, delay: float = 0.0, **options: Any) -> Future[None]:
        return super().publish_soon(*args, delay=min(delay, 0.0), **options)


class LeavesFuturesOpen(MemoryClient):
    """Leaves whoever waits for a future to himself when it is disconnected."""

    def publish_soon(self, *args: Any, **options: Any) -> Future[None]:
        return super().publish_soon(*args, **options) if self.connected else Future()


class TurnsWhatIsSoon(MemoryClient):
    """Sends in any order."""

    _held: tuple[Any, Any] | None = None

    def publish_soon(self, queue: str, body: bytes, **options: Any) -> Future[None]:
        if body != b"1":
            done = super().publish_soon(queue, body, **options)
            if self._held is not None:
                held, self._held = self._held, None
                super().publish_soon(queue, held[0], **held[1])
            return done
        self._held = body, options
        return settled()


class WaitsForWhatIsSoon(LeaseClient):
    """Waits for the broker."""

    def publish_soon(self, *args: Any, **options: Any) -> Future[None]:
        future: Future[None] = Future()
        try:
            self.publish(*args, **options)
        except Exception as exc:
            future.set_exception(exc)
        else:
            future.set_result(None)
        return future
