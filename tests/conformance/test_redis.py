"""The Redis backend adopts the suite."""

import pytest

from conformance.own_backends import OwnBackend
from qbridge_core.testing import FaultConformance, FaultyBroker


class TestRedis(OwnBackend):
    """``redis://`` on the run's server."""

    options = {"lease": 1.0}
    redelivery_timeout = 10.0
    outage_options = {"connect_timeout": 2.0, "socket_timeout": 2.0, "publish_timeout": 2.0}

    @pytest.fixture
    def broker_url(self, redis_url: str) -> str:
        """The URL of the run's server."""
        return redis_url


@pytest.mark.faults
class TestRedisFaults(FaultConformance):
    """``redis://`` on a server that is killed."""

    options = {"lease": 1.0}

    @pytest.fixture
    def faulty_broker(self, private_redis: FaultyBroker) -> FaultyBroker:
        """A server of the test's own."""
        return private_redis
