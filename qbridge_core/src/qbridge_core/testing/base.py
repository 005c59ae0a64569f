"""What all parts of the suite share: clients, names, waiting."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

from qbridge_core import Delivery, Failure, QueueClient, Reason, connect

T = TypeVar("T")
MakeClient = Callable[[], QueueClient]
WAIT = 10.0


def eventually(condition: Callable[[], T], timeout: float = WAIT, message: str = "") -> T:
    """Return the first true value of ``condition()``; fail with ``message`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(message or f"still {value!r} after {timeout:g} s")
        time.sleep(0.01)


def disconnect_in_time(client: QueueClient) -> None:
    """Disconnect; fail when that hangs."""
    thread = threading.Thread(target=client.disconnect, daemon=True)
    thread.start()
    thread.join(WAIT)
    if thread.is_alive():
        pytest.fail("disconnect hangs")


class Backend:
    """Settings and fixtures of the suite; override what your backend needs.

    Attributes:
        url: the broker's URL; override the ``broker_url`` fixture instead when a fixture of yours makes it.
        options: options for ``connect``; choose short leases so that the suite is quick.
        redelivery_timeout: seconds within which the tasks of a killed process are delivered again.
    """

    url: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    redelivery_timeout: ClassVar[float] = 60.0

    @pytest.fixture
    def broker_url(self) -> str:
        """The URL that clients of this test connect to."""
        assert self.url, "set the class attribute url or override the fixture broker_url"
        return self.url

    def create_client(self, url: str) -> QueueClient:
        """Return a new connected client; called several times a test. Override it to test a class directly."""
        return connect(url, **self.options)

    @pytest.fixture
    def make_client(self, broker_url: str) -> Iterator[MakeClient]:
        """A function that returns a new connected client; all are disconnected after the test."""
        clients: list[QueueClient] = []

        def make() -> QueueClient:
            clients.append(self.create_client(broker_url))
            return clients[-1]

        yield make
        for client in clients:
            disconnect_in_time(client)

    @pytest.fixture
    def client(self, make_client: MakeClient) -> QueueClient:
        """A connected client."""
        return make_client()

    @pytest.fixture
    def dead(self, queue_name: str) -> str:
        """The name of the dead-letter queue of ``queue``."""
        return f"{queue_name}-dead"

    @pytest.fixture
    def queue_name(self) -> str:
        """A queue name that nobody else uses."""
        return f"qbridge-test-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def queue(self, client: QueueClient, queue_name: str, dead: str) -> str:
        """A declared, empty queue with a dead-letter queue."""
        client.declare(queue_name, dead)
        return queue_name


def receive_one(client: QueueClient, queue: str, timeout: float = WAIT) -> Delivery:
    """Receive exactly one message."""
    deliveries = client.receive(queue, 1, timeout)
    assert len(deliveries) == 1, f"no message in {queue} within {timeout:g} s"
    return deliveries[0]


def receive_all(client: QueueClient, queue: str, count: int, timeout: float = WAIT) -> list[Delivery]:
    """Receive ``count`` messages."""
    received: list[Delivery] = []
    deadline = time.monotonic() + timeout
    while len(received) < count and time.monotonic() < deadline:
        received += client.receive(queue, count - len(received), 0.2)
    assert len(received) == count, f"only {len(received)} of {count} messages came within {timeout:g} s"
    return received


def a_failure(queue: str, attempts: int = 1, reason: Reason = Reason.FAILED) -> Failure:
    """A failure with a value in each field."""
    return Failure(
        reason=reason,
        attempts=attempts,
        crashes=0,
        exception_type="ValueError",
        exception_message="it broke: ü",
        traceback='Traceback (most recent call last):\n  File "x.py", line 1\nValueError: it broke',
        first_failed_at=1_700_000_000.25,
        last_failed_at=1_700_000_060.5,
        source_queue=queue,
        task_id="task-1",
        worker="host:1",
    )


def is_empty(client: QueueClient, queue: str) -> bool:
    """True when the queue holds nothing at all."""
    stats = client.stats(queue)
    return stats.ready == stats.in_flight == stats.delayed == 0
