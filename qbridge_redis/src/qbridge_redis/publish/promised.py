"""Messages that are published without anybody waiting for them: what their futures say when there is no reply."""

from __future__ import annotations

from collections.abc import Callable

from qbridge_core.backend import (
    BrokerUnavailableError,
    NotConnectedError,
    Promise,
    PublishUnconfirmedError,
    QBridgeError,
)
from qbridge_redis.publish.shared_exchange import Posted


class Promised(Promise):
    """One of them.

    Attributes:
        queue: where it goes.
        seconds: how long its publisher wants to wait.
        stored: to be called when it is there.
        request: its command.
    """

    __slots__ = ("queue", "request", "seconds", "stored")

    def __init__(self, queue: str, deadline: float, seconds: float, stored: Callable[[], object]) -> None:
        super().__init__(deadline)
        self.queue = queue
        self.seconds = seconds
        self.stored = stored
        self.request: Posted


def late(promise: Promised, *, sent: bool) -> QBridgeError:
    """The error of one whose time is over."""
    if not sent:
        return BrokerUnavailableError(
            f"the message for {promise.queue!r} was not sent within {promise.seconds:.3g} s: those before it took all "
            "the time"
        )
    return PublishUnconfirmedError(
        f"no confirmation for {promise.queue!r} within {promise.seconds:.3g} s; the message may or may not be there"
    )


def disconnected(promise: Promised, *, sent: bool) -> QBridgeError:
    """The error of one that was under way at a ``disconnect``."""
    if not sent:
        return NotConnectedError(f"the client was disconnected; the message for {promise.queue!r} was not sent")
    return PublishUnconfirmedError(
        f"the client was disconnected before the confirmation for {promise.queue!r}; the message may be there or not"
    )
