"""A backend of somebody else's, with leases and a broker in a process of its own, adopts the suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge_core import QueueClient
from qbridge_core.testing import BackendConformance, FaultConformance
from support.brokers import start_new
from support.leases.broker import LeaseBroker
from support.leases.client import LeaseClient


@pytest.fixture(scope="session")
def lease_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaseBroker]:
    """The broker of these tests."""
    broker = start_new(LeaseBroker, tmp_path_factory.mktemp("leases"))
    yield broker
    broker.close()


class TestLeases(BackendConformance):
    """``lease://``."""

    options = {"lease": 1.0}
    outage_options = {"timeout": 2.0}
    redelivery_timeout = 10.0

    @pytest.fixture
    def broker_url(self, lease_broker: LeaseBroker) -> str:
        """The URL of the run's broker."""
        return lease_broker.url

    def create_client(self, url: str) -> QueueClient:
        """No plugin registers the class: the suite gets it from here."""
        client = LeaseClient(url, **self.options)
        client.connect()
        return client


@pytest.mark.faults
class TestLeaseFaults(FaultConformance):
    """``lease://`` on a broker that is killed."""

    options = {"lease": 1.0, "timeout": 2.0}

    @pytest.fixture
    def faulty_broker(self, tmp_path: Path) -> Iterator[LeaseBroker]:
        """A broker of the test's own."""
        broker = start_new(LeaseBroker, tmp_path / "leases")
        yield broker
        broker.close()

    create_client = TestLeases.create_client
