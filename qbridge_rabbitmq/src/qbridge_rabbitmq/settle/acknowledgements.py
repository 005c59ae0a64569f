"""The end of a delivery: with the channel that brought it, or after its loss."""

from __future__ import annotations

from qbridge_core.backend import Delivery
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.in_flight import Arrival


class Acknowledgements:
    """Acknowledges deliveries of one client, together with others. Thread-safe.

    Args:
        io: sends them.
        lost: what was in flight when a channel ended.
    """

    def __init__(self, io: IOThread, lost: LostDeliveries) -> None:
        self._io = io
        self._lost = lost

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge on the channel that it is bound to by now; nothing when it is settled already."""
        while True:
            arrival: Arrival = delivery.tag
            claimed = arrival.channel.claim_and_finish(arrival.number)
            if claimed:
                self._io.wake_soon()
            if claimed is not None or self._lost.acknowledge(delivery):
                return

    def finish(self, delivery: Delivery) -> None:
        """The copy exists: acknowledge the original, or have that done when it comes back to this client."""
        while True:
            arrival: Arrival = delivery.tag
            if arrival.channel.finish(arrival.number):
                self._io.wake()
                return
            if self._lost.finish(delivery):
                return


def claim(delivery: Delivery) -> bool | None:
    """Take the right to settle a delivery; see :meth:`DeliveryChannel.claim`."""
    arrival: Arrival = delivery.tag
    return arrival.channel.claim(arrival.number)


def unclaim(delivery: Delivery, lost: LostDeliveries) -> None:
    """Give that right back: settling it has failed, and can be tried again."""
    while not delivery.tag.channel.unclaim(delivery.tag.number) and not lost.unclaim(delivery):
        pass
