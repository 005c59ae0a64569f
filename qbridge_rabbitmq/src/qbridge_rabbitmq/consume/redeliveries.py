"""What comes from a queue, looked at before it is handed out: is it new, or was it in flight here before?"""

from __future__ import annotations

from collections.abc import Iterable

from qbridge_core.backend import monotonic
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.recovery.poison import PoisonRule
from qbridge_rabbitmq.state.identity import Key, exact, key_of, likeness
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel


class Redeliveries:
    """Recognizes the redelivered messages of one queue. For the I/O thread.

    Args:
        queue: its name.
        io: the I/O thread.
        lost: what was in flight when a channel ended; without it nothing is recognized.

    Attributes:
        rule: which of them may have killed a worker.
    """

    def __init__(self, queue: str, io: IOThread, lost: LostDeliveries | None) -> None:
        self._queue = queue
        self._io = io
        self._lost = lost
        self.rule = PoisonRule()

    def examine(self, arrival: Arrival) -> Arrival | None:
        """What there is to hand out; None when it was in flight here and has been dealt with."""
        if arrival.redelivered:
            return self._investigate(arrival)
        lost = self._lost
        if lost is not None and not lost.is_empty:
            if self._replaces_a_lost_one(lost, arrival):
                return None
            if lost.has_handbacks and (key := self._likeness(arrival))[2]:  # a copy that could not say everything
                arrival = arrival._replace(handback=lost.take_handback(key))
        if self.rule.roused:
            self.rule.calm(monotonic())
        return arrival

    def note_unstarted(self, arrivals: Iterable[Arrival]) -> None:
        """These were lost before anybody could run them."""
        if self._lost is not None:
            self._lost.note_unstarted(map(self._likeness, arrivals))

    def note_end(self, channel: DeliveryChannel, unread: list[Arrival]) -> None:
        """A channel has ended: what was in flight on it, and what nobody had taken, comes again."""
        if self._lost is None:
            channel.lose()
            return
        self._lost.adopt(channel)
        self.note_unstarted(unread)
        self._lost.note_suspects(self._queue, unread)

    def _investigate(self, arrival: Arrival) -> Arrival | None:
        lost = self._lost
        if lost is None:
            return arrival
        if not lost.is_empty:
            key = key_of(self._queue, arrival.trace)
            if key is not None and lost.recognize(key, arrival):
                self._io.wake()
                return None
            if lost.has_handbacks and (handback := lost.take_handback(self._exact(arrival))) is not None:
                return arrival._replace(suspected=handback.suspected, unstarted=True, handback=handback)
            if lost.was_unstarted(self._likeness(arrival)):
                return arrival._replace(unstarted=True)
        suspected = self.rule.blames(arrival.properties, monotonic())
        return arrival._replace(suspected=True) if suspected else arrival

    def _replaces_a_lost_one(self, lost: LostDeliveries, arrival: Arrival) -> bool:
        """Whether its twin was in flight here, and may be gone from the broker: then it takes the place of that one."""
        key = key_of(self._queue, arrival.trace)
        if key is None or not lost.duplicates.is_out(key[2]) or not lost.recognize(key, arrival):
            return False
        self._io.wake()
        return True

    def _likeness(self, arrival: Arrival) -> Key:
        return likeness(self._queue, arrival.trace)

    def _exact(self, arrival: Arrival) -> Key:
        return exact(self._queue, arrival.properties, arrival.body)
