"""The RabbitMQ backend adopts the conformance suite."""

from __future__ import annotations

import pytest

from qbridge_core.testing import BackendConformance, FaultConformance, FaultyBroker


class TestRabbitMQ(BackendConformance):
    """``amqp://`` on the shared broker."""

    @pytest.fixture
    def broker_url(self, amqp_url: str) -> str:
        """The broker of the test run."""
        return amqp_url


@pytest.mark.faults
class TestRabbitMQFaults(FaultConformance):
    """A node of one's own that is killed."""

    @pytest.fixture
    def faulty_broker(self, private_rabbitmq: FaultyBroker) -> FaultyBroker:
        """A running node that belongs to this test."""
        return private_rabbitmq
