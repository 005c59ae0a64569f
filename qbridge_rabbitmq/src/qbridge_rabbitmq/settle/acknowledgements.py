"""The end of a delivery: with the channel that brought it, or after its loss."""

from __future__ import annotations

from qbridge_core.backend import Delivery
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.state.in_flight import Arrival


def acknowledge(broker: ConnectedBroker, delivery: Delivery) -> None:
    """Have a delivery acknowledged, on the channel that it is bound to by now; nothing when it is settled already."""
    while True:
        arrival: Arrival = delivery.tag
        claimed = arrival.channel.claim_and_finish(arrival.number)
        if claimed:
            broker.io.wake_soon()
        if claimed is not None or broker.lost_deliveries.acknowledge(delivery):
            return


def claim(delivery: Delivery) -> bool | None:
    """Take the right to settle a delivery; see :meth:`DeliveryChannel.claim`."""
    arrival: Arrival = delivery.tag
    return arrival.channel.claim(arrival.number)


def finish(broker: ConnectedBroker, delivery: Delivery) -> None:
    """The copy exists: acknowledge the original, here or, if its connection was lost meanwhile, when it comes back."""
    while True:
        arrival: Arrival = delivery.tag
        if arrival.channel.finish(arrival.number):
            broker.io.wake()
            return
        if broker.lost_deliveries.finish(delivery):
            return
