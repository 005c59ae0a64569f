"""How consumers of RabbitMQ end: what waits for that, and for how long it is waited for."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qbridge_rabbitmq.connection.connections import Progress
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumers import Consumers
from qbridge_rabbitmq.consume.deliveries import Deliveries
from qbridge_rabbitmq.queues.pending_delays import PendingDelays
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.settle.acknowledgements import Acknowledgements
from support.amqp_model import IO, Broker, Connection
from support.wait import wait_for

QUEUE = "q"
SILENCE = 0.05


class Link:
    """What consumers know of the connections, and how much has come on them."""

    def __init__(self, broker: Broker) -> None:
        self.io = IO()
        self.connection = Connection(broker)
        self.consuming = SimpleNamespace(connection=self.connection)
        self.looks = 0
        self.is_silent = False
        self.lost = LostDeliveries()
        self.consumers = Consumers(cast(Any, self), lambda _, done: done(None), self.lost, timeout=30.0)

    @property
    def received(self) -> int:
        """Another number at each look, unless the broker is silent."""
        self.looks += not self.is_silent
        return self.looks

    def progress(self) -> Progress:
        """As in ``Connections``."""
        return Progress(cast(Any, self))

    def answer(self) -> None:
        """The broker answers all that it was asked."""
        for channel in self.connection.live:
            while channel.waits:
                channel.answer()

    def consume(self, prefetch: int) -> Consumer:
        """The consumer of the queue, at work."""
        consumer = self.consumers.of(QUEUE)
        consumer.subscribe(prefetch)
        self.answer()
        assert consumer.serves
        return consumer


def test_g8_what_is_settled_while_a_consumer_ends_makes_it_no_room() -> None:
    """A quorum queue would send more, and deliver that again, as after a death; it is settled when the end is there."""
    broker = Broker()
    for number in range(3):
        broker.publish(number)
    link, ended = Link(broker), threading.Event()
    consumer = link.consume(2)
    link.connection.channels[0].deliver()
    acknowledgements = Acknowledgements(cast(Any, link.io), link.lost)
    deliveries = Deliveries(link.lost, PendingDelays(), acknowledgements.acknowledge)
    held = list(deliveries.hand_out(QUEUE, consumer.buffer.take(2, 0.0)))
    consumer.unsubscribe(ended.set)
    broker.wishes.update(int(delivery.body) for delivery in held)
    for delivery in held:
        acknowledgements.acknowledge(delivery)
    assert not link.consumers.send_settlements()
    link.answer()
    assert ended.is_set()
    assert broker.gone == set()
    assert link.consumers.send_settlements()
    link.answer()
    assert broker.gone == broker.delivered == {0, 1}


@pytest.mark.parametrize("is_silent", [False, True])
def test_the_end_of_a_consumer_is_waited_for_while_anything_comes(is_silent: bool) -> None:
    """A broker may have many consumers to end, and no time for this one yet; one that is silent is left soon."""
    link = Link(Broker())
    consumer = link.consume(1)
    link.is_silent = is_silent
    ends: list[bool] = []
    helper = threading.Thread(target=lambda: ends.append(link.consumers.end(consumer, SILENCE)))
    helper.start()
    if not is_silent:
        wait_for(lambda: link.looks > 4, 10.0, "it waits for longer than a broker may be silent")
        link.answer()
    helper.join(10.0)
    assert ends == [not is_silent]
