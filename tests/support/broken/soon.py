"""Broken clients that publish without waiting, of the memory backend and of the lease backend."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from qbridge_core.backend import Message, settled
from qbridge_memory import MemoryClient
from support.leases.client import LeaseClient

_in_order = ThreadPoolExecutor(1)


class ForgetsWhatIsSoon(MemoryClient):
    """Confirms a message that it has not sent."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        done = super().publish_soon(queue, messages, **options)
        if len(messages) == 1 and self.count(queue).ready > 1 and done[0].exception() is None:
            for delivery in self.receive(queue):
                self.ack(delivery)
        return done


class RaisesWhatIsSoon(MemoryClient):
    """Raises at once what belongs into the futures."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        done = super().publish_soon(queue, messages, **options)
        for each in done:
            each.result()
        return done


class StopsAtTheFirst(MemoryClient):
    """Lets one message keep those behind it from being sent."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        done: list[Future[None]] = []
        for position in range(len(super().publish_soon(queue, [], **options) or messages)):
            done += super().publish_soon(queue, messages[position : position + 1], **options)
            if (error := done[-1].exception()) is not None:
                return [*done, *(settled(error) for _ in messages[position + 1 :])]
        return done


class CancelsWhatIsSoon(MemoryClient):
    """Gives out futures that can be cancelled, and sends the messages all the same."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        return [self._later(done) for done in super().publish_soon(queue, messages, **options)]

    @staticmethod
    def _later(done: Future[None]) -> Future[None]:
        future: Future[None] = Future()

        def end() -> None:
            error = done.exception()
            if error is not None:
                future.set_exception(error)
            elif not future.cancelled():
                future.set_result(None)

        timer = threading.Timer(0.1, end)
        timer.daemon = True
        timer.start()
        return future


class SendsAtOnceWhatIsSoon(MemoryClient):
    """Takes no delay for what is published soon."""

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        return super().publish_soon(queue, messages, delay=min(delay, 0.0), timeout=timeout)


class LeavesFuturesOpen(MemoryClient):
    """Leaves whoever waits for a future to himself when it is disconnected."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        return super().publish_soon(queue, messages, **options) if self.connected else [Future() for _ in messages]


class TurnsWhatIsSoon(MemoryClient):
    """Sends in any order."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        if not isinstance(messages, list):
            return super().publish_soon(queue, messages, **options)
        return super().publish_soon(queue, messages[::-1], **options)[::-1]


class LetsOthersPass(MemoryClient):
    """Lets what is waited for overtake what the same thread has published before it, without waiting."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        if len(messages) != 1:
            return super().publish_soon(queue, messages, **options)
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        publish = super().publish_soon

        def send() -> None:
            time.sleep(0.02)
            (done,) = publish(queue, messages, **options)
            if (error := done.exception()) is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        _in_order.submit(send)
        return [future]


class WaitsForWhatIsSoon(LeaseClient):
    """Waits for the broker."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        done = super().publish_soon(queue, messages, **options)
        for each in done:
            each.exception()
        return done
