"""Round trips on a channel: when one is back, the broker has seen all that was sent before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.state.in_flight import DeliveryChannel

# What the broker has seen a crash may undo until it is on its disk, which takes a classic queue some seconds.
_SETTLING: Final = 20.0


class RoundTrips:
    """Who waits for a round trip on the channel of a consumer. One is under way at a time. For the I/O thread only."""

    def __init__(self, io: IOThread) -> None:
        self._io = io
        self._waiting: list[Callable[[], None]] = []
        self._sent: list[Callable[[], None]] = []
        self._under_way: DeliveryChannel | None = None

    @property
    def are_under_way(self) -> bool:
        """Whether somebody waits for one."""
        return self._under_way is not None or bool(self._waiting)

    def add(self, done: Callable[[], None], channel: DeliveryChannel | None) -> None:
        """Call ``done`` after a round trip that begins now, or, without a channel, when there is a channel for it."""
        self._waiting.append(done)
        if channel is not None and self._under_way is None:
            self._send(channel)

    def opened(self, channel: DeliveryChannel) -> None:
        """There is a channel."""
        if self._waiting:
            self._send(channel)

    def confirm_acks(self, channel: DeliveryChannel) -> None:
        """Find out whether the broker has seen the acknowledgements, when that is not known."""
        if channel.has_unproven and self._under_way is None:
            self._send(channel)

    def pass_all(self) -> None:
        """The channel has ended: nothing is left to wait for."""
        self._under_way = None
        passed = self._sent + self._waiting
        self._sent, self._waiting = [], []
        for done in passed:
            done()

    def _send(self, channel: DeliveryChannel) -> None:
        if not channel.amqp.is_open:
            return  # its end passes them all
        self._sent, self._waiting = self._waiting, []
        self._under_way = channel
        sent = channel.sent
        # The cheapest method that changes nothing and has an answer.
        channel.amqp.flow(active=True, callback=lambda _: self._back(channel, sent))

    def _back(self, channel: DeliveryChannel, sent: int) -> None:
        self._io.later(_SETTLING, lambda: channel.forget(sent))
        passed, self._sent = self._sent, []
        for done in passed:
            done()
        # Not from in here: pika forgets the callback of a flow that begins during the callback of another one.
        self._io.later(0.0, lambda: self._end(channel))

    def _end(self, channel: DeliveryChannel) -> None:
        if self._under_way is not channel:  # the channel has ended since
            return
        self._under_way = None
        if self._waiting:
            self._send(channel)
