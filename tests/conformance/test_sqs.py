"""The kombu backend adopts the suite on Amazon SQS, as moto's server imitates it.

That forgets all queues when it is restarted, so the tests that kill the broker are not for it.
"""

import pytest

from conformance.own_backends import OwnBackend
from support.sqs import SQSBroker


class TestSQS(OwnBackend):
    """``kombu+sqs://`` on a server of the process."""

    options = {"lease": 3, "wait_time": 1}
    wait = 20.0  # the server takes 10 ms for a request
    redelivery_timeout = 30.0
    outage_options = {"connect_timeout": 2.0, "request_timeout": 2.0, "publish_timeout": 2.0}

    @property
    def patient_options(self) -> dict[str, object]:
        """A lease that outlasts the outages of the suite; a request that is late takes a message for that time."""
        return {**self.options, "lease": 12}

    @pytest.fixture
    def broker_url(self, sqs_server: SQSBroker) -> str:
        """The URL of that server."""
        return sqs_server.url
