"""The kombu backend adopts the suite, on one transport of each kind."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from conformance.own_backends import OwnBackend
from qbridge_core.testing import FaultConformance, FaultyBroker
from support.brokers import RabbitMQBroker


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
    """``kombu+sqlalchemy://`` on a file of SQLite, where the system has one in memory: each change waits for a disk."""

    options = {"allow_loss": True, "max_message_bytes": 2**21}

    @pytest.fixture
    def broker_url(self, tmp_path: Path) -> Iterator[str]:
        """A new file."""
        memory = Path("/dev/shm")
        with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
            yield f"kombu+sqlalchemy:///{folder}/queues.db?dialect=sqlite"


class TestPostgreSQL(TestMemory):
    """``kombu+sqlalchemy://`` on the run's PostgreSQL, where two may write at once.

    What takes long and is the client's own work is left to SQLite.
    """

    test_g9_a_stuck_handler_neither_stops_the_others_nor_stays = None
    test_g10_an_async_handler_runs_many_at_once_and_is_cancelled = None
    test_g13_all_letters_are_replayed = None
    wait = 30.0
    options = {"allow_loss": True, "max_message_bytes": 2**21}
    outage_options = {"connect_timeout": 2.0, "request_timeout": 2.0, "publish_timeout": 2.0}

    @pytest.fixture
    def broker_url(self, postgresql_url: str) -> str:
        """The URL of the run's server."""
        return f"kombu+sqlalchemy{postgresql_url.removeprefix('postgresql')}?dialect=postgresql%2Bpsycopg"


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


class ThroughKombu:
    """A server with the URL that leads to it through kombu."""

    def __init__(self, broker: RabbitMQBroker) -> None:
        self.url = f"kombu+{broker.url}"
        self.start, self.kill = broker.start, broker.kill


@pytest.mark.faults
class TestAMQPFaults(FaultConformance):
    """``kombu+amqp://`` on a server that is killed."""

    queue_age = 2.0

    @pytest.fixture
    def faulty_broker(self, private_rabbitmq: RabbitMQBroker) -> FaultyBroker:
        """A server of the test's own."""
        return ThroughKombu(private_rabbitmq)
