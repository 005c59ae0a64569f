"""The RabbitMQ backend adopts the suite."""

import pytest

from conformance.own_backends import OwnBackend
from qbridge_core import BrokerUnavailableError
from qbridge_core.testing import FaultConformance, FaultyBroker

_LONG_NAMES = "test_names_that_are_nearly_alike_are_names_of_several_queues"


class TestQuorum(OwnBackend):
    """``amqp://`` on the run's server, with quorum queues (the default)."""

    redelivery_timeout = 10.0
    outage_options = {"connect_timeout": 3.0, "request_timeout": 3.0, "publish_timeout": 3.0}

    @pytest.fixture
    def broker_url(self, amqp_url: str) -> str:
        """The URL of the run's server."""
        return amqp_url

    @pytest.fixture(autouse=True)
    def expected(self, request: pytest.FixtureRequest) -> None:
        """RabbitMQ 4.3 closes the connection where it should say that a queue with a long name is not there."""
        if request.node.originalname != _LONG_NAMES:
            return
        if request.getfixturevalue("client")._declarations.server_version == (4, 3):
            request.node.add_marker(pytest.mark.xfail(raises=BrokerUnavailableError, reason="docs/versions.md"))


class TestClassic(TestQuorum):
    """The same with classic queues."""

    options = {"queue_type": "classic"}


@pytest.mark.faults
class TestQuorumFaults(FaultConformance):
    """``amqp://`` on a server that is killed."""

    queue_age = 5.0  # RabbitMQ 3.10 needs one second for a new queue, and more on a busy machine

    @pytest.fixture
    def faulty_broker(self, private_rabbitmq: FaultyBroker) -> FaultyBroker:
        """A server of the test's own."""
        return private_rabbitmq


class TestClassicFaults(TestQuorumFaults):
    """The same with classic queues."""

    options = {"queue_type": "classic"}  # delays are held in quorum queues here, too
