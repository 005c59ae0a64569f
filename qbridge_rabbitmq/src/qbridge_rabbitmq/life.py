"""The unsettled deliveries of one channel, in one place, and how they are settled.

A delivery tag means something on the channel that delivered it and nowhere else: on another channel it would
acknowledge another message. So each delivery is bound to its channel's :class:`Life`, which ends with the channel.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from pika.channel import Channel

from qbridge_core import DeliveryLostError
from qbridge_rabbitmq.wire import Connection


class Arrival(NamedTuple):
    """A message as it came from the broker."""

    life: Life
    number: int
    redelivered: bool
    properties: bytes
    body: bytes


class Life:
    """What a channel delivered, from its opening to its end. The methods say which thread they belong to.

    Attributes:
        lost: the channel is gone; the broker delivers again what was unsettled.
        unsettled: numbers of all deliveries that the broker waits for, ascending (for the I/O thread; others may
            take its length).
    """

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self.lost = False
        self.channel = channel
        self.unsettled: dict[int, None] = {}
        self._connection = connection
        self._claimable: dict[int, None] = {}
        self._finished: deque[int] = deque()
        self._returned: deque[int] = deque()
        self._holes: set[int] = set()

    # ------------------------------------------------------------------ any thread

    def hand_out(self, number: int) -> None:
        """The delivery goes to the caller, who may settle it once."""
        self._claimable[number] = None

    def claim(self, number: int) -> bool:
        """Take the right to settle a delivery; False when somebody has it or had it.

        Raises:
            DeliveryLostError: the channel is gone.
        """
        try:
            del self._claimable[number]
        except KeyError:
            return False
        if self.lost:
            self._claimable[number] = None
            raise DeliveryLostError("the connection that delivered the message was lost; it will be delivered again")
        return True

    def unclaim(self, number: int) -> None:
        """Settling it failed: it can be tried again."""
        self._claimable[number] = None

    def ack(self, number: int) -> None:
        """Have a claimed delivery acknowledged with the next flush."""
        self._finished.append(number)

    def give_back(self, number: int) -> None:
        """Have a claimed delivery requeued with the next flush."""
        self._returned.append(number)

    @property
    def in_flight(self) -> int:
        """Deliveries that are neither acknowledged nor about to be."""
        return max(0, len(self.unsettled) - len(self._finished))

    # ------------------------------------------------------------------ I/O thread

    def flush(self) -> None:
        """Send what was settled since the last time: one acknowledgement for all, as far as they are contiguous."""
        if self.lost:
            self._finished.clear()
            self._returned.clear()
            return
        if self._returned:
            self._flush_returned()
        if self._finished:
            self._flush_finished()

    def nack(self, number: int) -> None:
        """Requeue a delivery that nobody was given."""
        if not self.lost and self.unsettled.pop(number, 0) is None:
            self.channel.basic_nack(number, multiple=False, requeue=True)

    def _flush_returned(self) -> None:
        for _ in range(len(self._returned)):
            self.nack(self._returned.popleft())

    def _flush_finished(self) -> None:
        finished = self._holes
        for _ in range(len(self._finished)):
            finished.add(self._finished.popleft())
        unsettled = self.unsettled
        prefix = []
        for number in unsettled:
            if number not in finished:
                break
            prefix.append(number)
        acks = []
        if prefix:
            acks.append((prefix[-1], len(prefix) > 1))
            for number in prefix:
                del unsettled[number]
            finished.difference_update(prefix)
        for number in finished:
            unsettled.pop(number, None)
            acks.append((number, False))
        finished.clear()
        self._connection.send_acks(self.channel.channel_number, acks)
