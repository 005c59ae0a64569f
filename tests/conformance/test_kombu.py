"""The kombu backend adopts the suite, on one transport of each kind."""

from pathlib import Path

import pytest

from conformance.own_backends import OwnBackend
from qbridge_core.testing import FaultConformance, FaultyBroker


class TestMemory(OwnBackend):
    """``kombu+memory://``: the queues of one process."""

    options = {"allow_loss": True}

    @pytest.fixture
    def broker_url(self) -> str:
        """All clients of a process share the queues."""
        return "kombu+memory://"


class TestAny(TestMemory):
    """``kombu+any://``: a class that is named in the URL, of which nothing more is known."""

    @pytest.fixture
    def broker_url(self) -> str:
        """One that every test can have."""
        return "kombu+any://?transport=kombu.transport.memory:Transport"


class TestFilesystem(TestMemory):
    """``kombu+filesystem://``: a folder of the test's own."""

    @pytest.fixture
    def broker_url(self, tmp_path: Path) -> str:
        """A new folder."""
        return f"kombu+filesystem://{tmp_path}/queues"


class TestSQLite(TestMemory):
    """``kombu+sqlalchemy://`` on a file of SQLite."""

    @pytest.fixture
    def broker_url(self, tmp_path: Path) -> str:
        """A new file."""
        return f"kombu+sqlalchemy:///{tmp_path}/queues.db?dialect=sqlite"


class TestRedis(TestMemory):
    """``kombu+redis://`` on the run's server."""

    outage_options = {"connect_timeout": 2.0, "request_timeout": 2.0, "publish_timeout": 2.0}

    @pytest.fixture
    def broker_url(self, redis_url: str) -> str:
        """The URL of the run's server."""
        return f"kombu+{redis_url}"


class TestAMQP(OwnBackend):
    """``kombu+amqp://`` on the run's server."""

    redelivery_timeout = 10.0
    outage_options = {"connect_timeout": 2.0, "request_timeout": 2.0, "publish_timeout": 2.0}

    @pytest.fixture
    def broker_url(self, amqp_url: str) -> str:
        """The URL of the run's server."""
        return f"kombu+{amqp_url}"


@pytest.mark.faults
class TestAMQPFaults(FaultConformance):
    """``kombu+amqp://`` on a server that is killed."""

    queue_age = 2.0

    @pytest.fixture
    def faulty_broker(self, private_rabbitmq: FaultyBroker) -> FaultyBroker:
        """A server of the test's own."""
        private_rabbitmq.url = f"kombu+{private_rabbitmq.url}"
        return private_rabbitmq
