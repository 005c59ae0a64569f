"""From an arrival to a delivery, unless its twin was handed out or its channel has ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    FIRST_FAILED_AT,
    Delivery,
    meta_int,
    meta_time,
)
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.pending_delays import PendingDelays
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.identity import likeness
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel


class Deliveries:
    """Makes deliveries of what has arrived. For any thread but the I/O thread.

    Args:
        lost: what was in flight when a channel ended.
        pending: what was delayed.
        acknowledge: ends a twin.
    """

    def __init__(self, lost: LostDeliveries, pending: PendingDelays, acknowledge: Callable[[Delivery], None]) -> None:
        self._lost = lost
        self._pending = pending
        self._acknowledge = acknowledge

    def hand_out(self, queue: str, arrivals: Sequence[Arrival]) -> list[Delivery]:
        """The deliveries for arrivals, but for twins of earlier ones, and for those whose channel has ended."""
        handed: list[Delivery] = []
        for channel, group in itertools.groupby(arrivals, _channel_of):
            deliveries = [_delivery(queue, arrival) for arrival in group]
            if channel.hand_out(deliveries):
                handed += deliveries
            else:
                self._lost.note_unstarted([likeness(queue, delivery.tag.trace) for delivery in deliveries])
                self._lost.note_suspects(queue, [delivery.tag for delivery in deliveries])
        return [delivery for delivery in handed if self._is_first(delivery)]

    def _is_first(self, delivery: Delivery) -> bool:
        """Whether no twin of it was handed out; otherwise it is acknowledged."""
        duplicates, properties = self._lost.duplicates, delivery.tag.properties
        delayed = delays.passed(delivery.queue, properties)
        if not delayed and not duplicates.marks:
            return True
        content = headers.read(properties)
        if delayed:
            self._pending.came(content.mark)
        # One without an id could not be recognized after a loss of the connection, and its twin may be all that is
        # left.
        delayed = delayed and bool(content.mark and content.message_id)
        if not (delayed or duplicates.marks) or duplicates.admit(content.mark, delayed):
            return True
        self._acknowledge(delivery)
        return False


def _channel_of(arrival: Arrival) -> DeliveryChannel:
    return arrival.channel


def _delivery(queue: str, arrival: Arrival) -> Delivery:
    _, _, redelivered, properties, body, suspected, _, returned = arrival
    message_id, producers, meta, _ = headers.read(properties)
    if returned is not None and returned.noted is not None:
        delivery = _delivery(queue, arrival._replace(handback=None))
        delivery.note(returned.noted)
        return delivery
    if not meta:
        return Delivery(
            body, queue, producers, message_id, 0, 0, None, redelivered, meta, arrival, suspected, None, _sent, _kind
        )
    return Delivery(
        body=body,
        queue=queue,
        headers=producers,
        message_id=message_id,
        attempts=meta_int(meta, ATTEMPTS),
        crashes=meta_int(meta, CRASHES),
        first_failed_at=meta_time(meta, FIRST_FAILED_AT),
        redelivered=redelivered or headers.SUSPECTED in meta,  # a copy of a suspect is new to the broker
        meta=meta,
        tag=arrival,
        suspected=suspected or headers.SUSPECTED in meta,
        sent=_sent,
        kind=_kind,
    )


def _sent(delivery: Delivery) -> int:
    """When it was sent, for those who ask."""
    return headers.sent_ms(delivery.tag.properties)


def _kind(delivery: Delivery) -> str:
    """Its media type, for those who ask."""
    return headers.content_type(delivery.tag.properties)
