"""The unsettled deliveries of one channel, in one place, and how they are settled.

A delivery tag means something on the channel that delivered it and nowhere else: on another channel it would
acknowledge another message. So each delivery is bound to its :class:`DeliveryChannel`, which ends with pika's channel.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from pika.channel import Channel

from qbridge_core.backend import Delivery, DeliveryLostError, Noted
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.state.acknowledgement_batches import batch
from qbridge_rabbitmq.state.identity import Key, Trace, key_of, trace

Held = tuple[Key, Delivery]
# Many more acknowledgements than can be on their way when the broker answers every few seconds.
_REMEMBERED: Final = 5_000
# A channel of RabbitMQ has a quorum queue apply 32 commands at most at a time; the settlements after those stay in the
# channel until the queue's log has moved, and are dropped with it (rabbit_fifo_client.erl, ``unsent_commands``;
# rabbitmq-server issue 10327). Half of them leaves room for what is sent when those that stayed are on their way.
_MOST_UNAPPLIED: Final = 16
# An acknowledgement of several messages is a command for each consumer that brought some of them. While the prefetch
# grows, each consumer of a channel holds as much as all before it.
_CONSUMERS: Final = 8


class Handback(NamedTuple):
    """What to remember of a message that goes back, because the broker refuses to have it elsewhere.

    Attributes:
        noted: a failure that is not written beside it.
        suspected: it may have killed a worker, and not because it comes back now.
    """

    noted: Noted | None
    suspected: bool


class Arrival(NamedTuple):
    """A message as it came from the broker.

    Attributes:
        suspected: it may have killed a worker.
        unstarted: it was delivered to this client before, and nobody has run it here.
        returned: this client has given it back in the middle of its journey.
    """

    channel: DeliveryChannel
    number: int
    redelivered: bool
    properties: bytes
    body: bytes
    suspected: bool = False
    unstarted: bool = False
    handback: Handback | None = None

    @property
    def trace(self) -> Trace:
        """What it is recognized by when it comes back."""
        return trace(self.properties, self.body)


class Loss(NamedTuple):
    """What was in flight on a channel when it ended, as far as a redelivery can be recognized."""

    held: list[Held]
    settling: list[Held]
    acknowledged: list[Key]


class DeliveryChannel:
    """What a channel delivered, from its opening to its end. The methods say which thread they belong to.

    Attributes:
        lost: the channel is gone; the broker delivers again what was unsettled.
        unsettled: numbers of all deliveries that the broker waits for, ascending (for the I/O thread; others may
            take its length).
        settled: how many were acknowledged (for the I/O thread).
        was_used: whether anything was ever settled here (likewise).
        sent: the same with those that nobody was given, in the order in which they were acknowledged (likewise).
        commands: how many commands to a quorum queue all settlements have been, at most (likewise).
        sources: how many consumers may have brought what is acknowledged at once; for the broker each message that was
            asked for has one of its own (likewise).
    """

    def __init__(self, connection: AmqpConnection, amqp: Channel, queue: str) -> None:
        self.lost = False
        self.queue = queue
        self.amqp = amqp
        self.unsettled: dict[int, None] = {}
        self.settled = 0
        self.was_used = False
        self.sent = 0
        self.commands = 0
        self.sources = _CONSUMERS
        self._applied = 0
        self.connection = connection
        # Guards the next four and the change of ``lost``: a delivery is never in none of them when the channel ends.
        self._lock = threading.Lock()
        self._claimable: dict[int, Delivery] = {}
        self._settling: dict[int, Delivery] = {}
        self._finished: deque[int] = deque()
        self._acknowledged: deque[Trace] = deque(maxlen=_REMEMBERED)
        self._count = 0  # of all that were put into it
        self._returned: deque[tuple[int, bool]] = deque()  # and whether to the queue
        self._taken: set[int] = set()

    # ------------------------------------------------------------------ any thread

    def hand_out(self, deliveries: Iterable[Delivery]) -> bool:
        """The deliveries go to the caller, who may settle each once. False when they must not: the channel is gone."""
        with self._lock:
            if self.lost:
                return False
            for delivery in deliveries:
                self._claimable[delivery.tag.number] = delivery
            return True

    def claim(self, number: int) -> bool | None:
        """Take the right to settle a delivery; False when somebody has it or had it, None when it is lost and known.

        Raises:
            DeliveryLostError: the channel is gone, and the message could not be recognized when it comes back.
        """
        with self._lock:
            if self.lost:
                self._require_known(number)
                return None
            delivery = self._claimable.pop(number, None)
            if delivery is None:
                return False
            self._settling[number] = delivery
            return True

    def unclaim(self, number: int) -> bool:
        """Settling it failed: it can be tried again. False when it is among the lost deliveries."""
        with self._lock:
            delivery = self._settling.pop(number, None)
            if delivery is None:
                return not self.lost
            self._claimable[number] = delivery
            return True

    def finish(self, number: int) -> bool:
        """Have a claimed delivery acknowledged with the next flush. False when it is among the lost deliveries."""
        with self._lock:
            delivery = self._settling.pop(number, None)
            if delivery is None:
                return not self.lost
            self._acknowledge(delivery.tag)
            return True

    def claim_and_finish(self, number: int) -> bool | None:
        """Both at once; the result is that of ``claim``.

        Raises:
            DeliveryLostError: as ``claim``.
        """
        with self._lock:
            if self.lost:
                self._require_known(number)
                return None
            delivery = self._claimable.pop(number, None)
            if delivery is None:
                return False
            self._acknowledge(delivery.tag)
            return True

    def acknowledge(self, arrival: Arrival) -> bool:
        """Have an arrival that nobody was given acknowledged with the next flush. False when the channel is gone."""
        with self._lock:
            if not self.lost:
                self._acknowledge(arrival)
            return not self.lost

    def give_back(self, number: int, *, requeue: bool = True) -> bool:
        """Have a delivery requeued with the next flush. False when the channel is gone, which requeues it too.

        Without ``requeue`` the broker moves it along the queue's own dead-letter route.
        """
        with self._lock:
            if self.lost:
                return False
            self._settling.pop(number, None)
            self._returned.append((number, requeue))
            return True

    def is_open(self, number: int) -> bool:
        """Whether a delivery that was handed out is not settled yet."""
        with self._lock:
            return number in self._claimable or number in self._settling

    def disown(self, number: int, delivery: Delivery) -> None:
        """It is not known among the lost deliveries any longer: settling it is an error from now on."""
        with self._lock:
            self._claimable[number] = delivery

    @property
    def in_flight(self) -> int:
        """Deliveries that are neither acknowledged nor about to be."""
        return max(0, len(self.unsettled) - len(self._finished))

    @property
    def has_finished(self) -> bool:
        """Whether acknowledgements wait for the next flush."""
        return bool(self._finished)

    def _require_known(self, number: int) -> None:
        if number in self._claimable:
            raise DeliveryLostError("the connection that delivered the message was lost; it will be delivered again")

    def _acknowledge(self, arrival: Arrival) -> None:
        self._finished.append(arrival.number)
        self._acknowledged.append(arrival.trace)
        self._count += 1

    # ------------------------------------------------------------------ I/O thread

    def resume(self, number: int, delivery: Delivery, settling: bool) -> None:
        """The delivery is one that was handed out before; ``settling`` when somebody has claimed it already."""
        with self._lock:
            (self._settling if settling else self._claimable)[number] = delivery

    def lose(self) -> Loss:
        """The channel is gone."""
        with self._lock:
            self.lost = True
            acknowledged = [key for trace in self._acknowledged if (key := key_of(self.queue, trace)) is not None]
            loss = Loss(self._take_known(self._claimable), self._take_known(self._settling), acknowledged)
            self._acknowledged.clear()
        self.unsettled.clear()
        return loss

    @property
    def has_unproven(self) -> bool:
        """Whether acknowledgements are remembered, because they may not have reached the broker."""
        return bool(self._acknowledged)

    def forget(self, sent: int) -> None:
        """The broker has seen so many acknowledgements: what comes back and looks like them is another message."""
        with self._lock:
            acknowledged = self._acknowledged
            while acknowledged and self._count - len(acknowledged) < sent:
                acknowledged.popleft()

    @property
    def is_ahead(self) -> bool:
        """Whether the end of the channel may undo settlements, because a quorum queue has not applied all of them."""
        return self.commands - self._applied > _MOST_UNAPPLIED

    def note_applied(self, commands: int) -> None:
        """There is an answer from the queue itself to what was sent after so many commands."""
        self._applied = max(self._applied, commands)

    def flush(self) -> bool:
        """Send what was settled since the last time: one acknowledgement for all, as far as they are contiguous.

        Returns whether there was anything to send.
        """
        if self.lost:
            self._finished.clear()
            self._returned.clear()
            return False
        if not self.amqp.is_open:
            return False  # it is closing: the broker would answer with an error of the connection
        settled = bool(self._returned or self._finished)
        if self._returned:
            self._flush_returned()
        if self._finished:
            self._flush_finished()
        return settled

    def nack(self, number: int, *, requeue: bool = True) -> None:
        """Requeue a delivery, or have it dead-lettered by the broker."""
        if not self.lost and self.unsettled.pop(number, 0) is None:
            self.amqp.basic_nack(number, multiple=False, requeue=requeue)
            self.was_used = True
            self.commands += 1

    def _flush_returned(self) -> None:
        for _ in range(len(self._returned)):
            number, requeue = self._returned.popleft()
            self.nack(number, requeue=requeue)

    def _flush_finished(self) -> None:
        finished = self._taken
        count = len(self._finished)
        for _ in range(count):
            finished.add(self._finished.popleft())
        self.sent += count
        self.was_used = True
        self.settled += len(finished)
        acks = batch(finished, self.unsettled)
        self.commands += min(count, len(acks) + self.sources)
        self.connection.send_acks(self.amqp.channel_number, acks)

    def _take_known(self, deliveries: dict[int, Delivery]) -> list[Held]:
        """Remove and return the deliveries that can be recognized."""
        known: list[Held] = []
        for number, delivery in list(deliveries.items()):
            key = key_of(self.queue, delivery.tag.trace)
            if key is not None:
                known.append((key, delivery))
                del deliveries[number]
        return known
