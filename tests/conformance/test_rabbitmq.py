"""The RabbitMQ backend adopts the suite."""

import pytest

from conformance.own_backends import OwnBackend
from qbridge_core.testing import FaultConformance, FaultyBroker


class TestQuorum(OwnBackend):
    """``amqp://`` on the run's server, with quorum queues (the default)."""

    redelivery_timeout = 10.0
    outage_options = {"connect_timeout": 3.0, "request_timeout": 3.0, "publish_timeout": 3.0}

    @pytest.fixture
    def broker_url(self, amqp_url: str) -> str:
        """The URL of the run's server."""
        return amqp_url


class TestClassic(TestQuorum):
    """The same with classic queues."""

    options = {"queue_type": "classic"}


@pytest.mark.faults
class TestQuorumFaults(FaultConformance):
    """``amqp://`` on a server that is killed."""

    queue_age = 5.0

    @pytest.fixture
    def faulty_broker(self, private_rabbitmq: FaultyBroker) -> FaultyBroker:
        """A server of the test's own."""
        return private_rabbitmq


class TestClassicFaults(TestQuorumFaults):
    """The same with classic queues."""

    options = {"queue_type": "classic"}
    queue_age = 2.0  # delays are held in quorum queues, too
