"""Publishes what nobody waits for: all that has come since the I/O thread looked last goes out together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from qbridge_core.backend import (
    BrokerUnavailableError,
    Message,
    NotConnectedError,
    Promise,
    Promises,
    PublishUnconfirmedError,
    QBridgeError,
    copied,
    monotonic,
    settled,
)
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.publish.departures import Departures
from qbridge_rabbitmq.publish.messages import grouped
from qbridge_rabbitmq.publish.publisher import Batch, Publication, Publisher


class Send(Promise):
    """One message, and the future of its confirmation.

    Attributes:
        publication: the message.
        seconds: how long its publisher wants to wait.
        flight: what it was sent with.
        taken: the I/O thread has it, so it may have been sent.
    """

    __slots__ = ("flight", "publication", "seconds", "taken")

    def __init__(self, publication: Publication, seconds: float) -> None:
        super().__init__(monotonic() + seconds)
        self.publication = publication
        self.seconds = seconds
        self.flight: Flight | None = None
        self.taken = False


class Flight(Batch):
    """Messages that are sent together, and each of which has a publisher of its own.

    Args:
        sends: the messages.
        keep: called in the I/O thread with each one when it has its outcome.
    """

    def __init__(self, sends: list[Send], keep: Callable[[Send, QBridgeError | None], None]) -> None:
        super().__init__([send.publication for send in sends])
        self._sends = {send.publication: send for send in sends}
        self._keep = keep
        for send in sends:
            send.flight = self

    def settle(self, message: Publication, error: QBridgeError | None = None) -> None:
        """In the I/O thread: one message has its outcome."""
        if (send := self._sends.pop(message, None)) is not None:
            self._keep(send, error)

    def fail(self, error: QBridgeError) -> None:
        """In the I/O thread: none of the messages was sent."""
        for message in list(self._sends):
            self.settle(message, copied(error))


class Flights:
    """For any thread, unless it is said otherwise.

    Args:
        connections: the client's.
        publisher: publishes on one of them.
        departures: the way to it.
        timeout: seconds to wait for confirmations, unless a publisher says otherwise.
        leave_silent: called in the I/O thread with a flight that nobody confirms, though it had all the time.
    """

    def __init__(
        self,
        connections: Connections,
        publisher: Publisher,
        departures: Departures,
        timeout: float,
        leave_silent: Callable[[Batch], None],
    ) -> None:
        self._connections = connections
        self._publisher = publisher
        self._timeout = timeout
        self._leave_silent = leave_silent
        self._departures = departures
        self._promises: Promises[Send] = Promises(self._late, "qbridge-rabbitmq-deadlines")

    def send(
        self, made: Callable[[Message], Publication], messages: Sequence[Message], timeout: float | None
    ) -> list[Future[None]]:
        """Publish messages soon; the future of each ends when it is confirmed, or with the error that it has.

        Args:
            made: makes what is published of a message, or raises why that cannot be.
            messages: the messages.
            timeout: seconds to wait for the confirmations, unless it is ``None``.
        """
        seconds = self._timeout if timeout is None else timeout
        futures: list[Future[None]] = []
        sends: list[Send] = []
        for message in messages:
            try:
                send = Send(made(message), seconds)
            except QBridgeError as exc:
                futures.append(settled(exc))
            else:
                self._promises.add(send)
                sends.append(send)
                futures.append(send.future)
        if sends:
            self._departures.bring(self._flights, sends)
        return futures

    def close(self) -> None:
        """The client was disconnected: whoever waits for a future learns of it."""
        self._promises.end_all(_disconnected)

    def _flights(self, brought: list[list[Send]]) -> Iterator[Flight]:
        """In the I/O thread: what is sent together, of what is still to be sent."""
        sends = {send.publication: send for send in self._taken(brought)}
        for publications in grouped(sends):
            yield Flight([sends[each] for each in publications], self._land)

    def _taken(self, brought: list[list[Send]]) -> Iterator[Send]:
        for sends in brought:
            for send in sends:
                send.taken = True  # first: who finds it late says what may have become of it
                if send in self._promises:
                    yield send

    def _land(self, send: Send, error: QBridgeError | None) -> None:
        if isinstance(error, BrokerUnavailableError) and self._connections.closing:
            closed = NotConnectedError("the client was disconnected; the message was not sent")
            closed.__cause__ = error
            error = closed
        self._promises.keep(send, error)

    def _late(self, send: Send) -> QBridgeError:
        if not send.taken:
            return BrokerUnavailableError(f"the message was not sent within {send.seconds:g} s")
        flight = send.flight
        if flight is not None and send.seconds >= self._timeout:
            self._connections.io.post(lambda: self._leave_silent(flight))
        blocked = self._publisher.blocked
        reason = f"; the broker blocks publishers: {blocked}" if blocked else ""
        return PublishUnconfirmedError(f"no confirmation within {send.seconds:g} s{reason}")


def _disconnected(send: Send) -> QBridgeError:
    if send.taken:
        return PublishUnconfirmedError("the client was disconnected before the confirmation")
    return NotConnectedError("the client was disconnected; the message was not sent")
