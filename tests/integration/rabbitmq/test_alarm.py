"""A memory alarm of the broker: publishers learn of it in time, workers go on draining."""

from __future__ import annotations

import pytest

from qbridge_core import TransientError
from qbridge_rabbitmq import RabbitMQClient
from support.brokers import RabbitMQBroker
from support.wait import wait_for

pytestmark = pytest.mark.faults


def test_g1_a_memory_alarm_is_a_typed_error_and_acknowledgements_go_on(
    private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """During the alarm ``publish`` raises within its timeout and deliveries are acknowledged; afterwards it works."""
    with RabbitMQClient(rabbitmq_url=private_rabbitmq.url) as client:
        client.declare(unique_name)
        client.send_many(unique_name, range(10))
        client.subscribe(unique_name, 10)

        def refused() -> bool:
            try:
                client.publish(unique_name, b"x", timeout=1.0)
            except TransientError:
                return True
            return False

        with private_rabbitmq.out_of_memory():
            wait_for(refused, 20.0, "publishing is refused")
            received = 0
            while batch := client.receive(unique_name, 10, 2.0):
                for delivery in batch:
                    client.ack(delivery)
                received += len(batch)
            assert received >= 10
            wait_for(lambda: client.stats(unique_name).in_flight == 0, 20.0, "the acknowledgements arrive")
        wait_for(lambda: not refused(), 30.0, "publishing works again")
