"""Messages that are published without anybody waiting for them: what is said of them when there is no reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qbridge_core.backend import (
    BrokerUnavailableError,
    Ended,
    NotConnectedError,
    PublishUnconfirmedError,
    QBridgeError,
)
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.publish.shared_exchange import Posted, SharedExchange


@dataclass(frozen=True, slots=True)
class Call:
    """What the messages of one call have in common.

    Attributes:
        queue: where they go.
        seconds: how long their publisher wants to wait.
        deadline: until when.
        stored: to be called with each that is there.
        ended: told of the end of each.
    """

    queue: str
    seconds: float
    deadline: float
    stored: Callable[[], object]
    ended: Ended


class Promised(Posted):
    """One of them.

    Args:
        call: what it was published by.
        position: its own among the messages of that.
        command: its command.
        size: about so many bytes.
        replied: called once, when there is a reply or an error; in any thread, which it must not hold up.

    Attributes:
        exchange: what sends it.
    """

    __slots__ = ("_position", "call", "exchange")

    def __init__(
        self, call: Call, position: int, command: Command, size: int, replied: Callable[[Promised], None]
    ) -> None:
        super().__init__(command, size, call.deadline, replied)  # type: ignore[arg-type]  # it is called with this one
        self.call = call
        self.exchange: SharedExchange | None = None
        self._position = position

    def withdraw(self) -> bool:
        """Take it back; False when it may have been sent."""
        return self.exchange is None or self.exchange.withdraw(self)

    def end(self, error: BaseException | None, _result: object = None, /) -> None:
        """Tell its publisher."""
        self.call.ended(self._position, error)


def late(promise: Promised) -> QBridgeError:
    """The error of one whose time is over; it is not sent any more."""
    queue, seconds = promise.call.queue, promise.call.seconds
    if promise.withdraw():
        return BrokerUnavailableError(
            f"the message for {queue!r} was not sent within {seconds:.3g} s: those before it took all the time"
        )
    return PublishUnconfirmedError(
        f"no confirmation for {queue!r} within {seconds:.3g} s; the message may or may not be there"
    )


def disconnected(promise: Promised) -> QBridgeError:
    """The error of one that was under way at a ``disconnect``."""
    queue = promise.call.queue
    if promise.withdraw():
        return NotConnectedError(f"the client was disconnected; the message for {queue!r} was not sent")
    return PublishUnconfirmedError(
        f"the client was disconnected before the confirmation for {queue!r}; the message may be there or not"
    )
