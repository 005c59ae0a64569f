"""The suite, put together."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import pytest

from qbridge_core import Delivery, QueueClient, TaskManager, TransientError
from qbridge_core.testing.base import Backend, MakeClient, is_empty
from qbridge_core.testing.connection import ConnectionTests
from qbridge_core.testing.data import DataTests
from qbridge_core.testing.dead_letters import DeadLetterTests
from qbridge_core.testing.delays import DelayTests
from qbridge_core.testing.lending import LendingTests
from qbridge_core.testing.outages import OutageTests
from qbridge_core.testing.publishing import PublishingTests
from qbridge_core.testing.receiving import ReceivingTests
from qbridge_core.testing.settling import SettlingTests
from qbridge_core.testing.workers import WorkerTests

T = TypeVar("T")


class BackendConformance(
    ConnectionTests,
    PublishingTests,
    DataTests,
    DelayTests,
    ReceivingTests,
    SettlingTests,
    LendingTests,
    DeadLetterTests,
    OutageTests,
    WorkerTests,
):
    """Everything that can be tested on a broker that others use too."""


class FaultyBroker(Protocol):
    """A broker of one's own that can be killed."""

    url: str

    def start(self) -> object:
        """Start it (again) on the same data and port; return when it accepts connections."""

    def kill(self) -> object:
        """Kill it (SIGKILL); return when it is gone."""


class FaultConformance(Backend):
    """What must hold when the broker itself is killed and comes back. For backends that claim ``durable``.

    Override the fixture ``faulty_broker``.

    Attributes:
        queue_age: seconds that a queue must be old before the broker is killed, for brokers that lose a younger one
            (RabbitMQ 3.10 does not recover a quorum queue that is killed in its first second).
    """

    queue_age: ClassVar[float] = 0.0

    @pytest.fixture
    def queue(self, client: QueueClient, queue_name: str, dead: str) -> str:
        """A declared, empty queue that is old enough to survive."""
        client.declare(queue_name, dead)
        old_enough = time.monotonic() + self.queue_age
        self.eventually(lambda: time.monotonic() >= old_enough, self.queue_age + 1)
        return queue_name

    @pytest.fixture
    def faulty_broker(self) -> FaultyBroker:
        """A running broker that belongs to this test."""
        raise NotImplementedError("override the fixture faulty_broker")

    @pytest.fixture
    def broker_url(self, faulty_broker: FaultyBroker) -> str:
        """The URL of the broker that will be killed."""
        return faulty_broker.url

    def test_g1_confirmed_messages_survive_a_broker_crash(
        self, faulty_broker: FaultyBroker, client: QueueClient, queue: str
    ) -> None:
        """What ``send_many`` confirmed is there after a SIGKILL of the broker, and the client finds it by itself."""
        client.send_many(queue, range(50))
        faulty_broker.kill()
        faulty_broker.start()
        seen: set[bytes] = set()

        def all_seen() -> bool:
            for delivery in _receive(client, queue):
                client.ack(delivery)
                seen.add(delivery.body)
            return len(seen) == 50

        self.eventually(all_seen, 60.0, "messages are missing after the crash")

    def test_g15_a_subscribed_worker_goes_on_after_a_broker_crash(
        self, faulty_broker: FaultyBroker, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """A running manager needs no restart: every task is done after the broker was killed and restarted."""
        runs: Counter[int] = Counter()
        lock = threading.Lock()

        def handler(payload: int) -> None:
            with lock:
                runs[payload] += 1
                if len(runs) == 100:
                    half.set()

        half = threading.Event()
        client.send_many(queue, range(300))
        with TaskManager(client, handler, queue, dead, max_workers=4):
            assert half.wait(30.0)
            faulty_broker.kill()
            faulty_broker.start()
            self.eventually(lambda: len(runs) == 300, 60.0, "tasks are missing after the crash")
            self.eventually(_quiet(lambda: is_empty(client, queue)), 30.0, "the queue is not empty at the end")
        assert make_client().stats(dead).ready == 0

    def test_g1_publishing_while_the_broker_is_down_raises_and_recovers(
        self, faulty_broker: FaultyBroker, client: QueueClient, queue: str
    ) -> None:
        """A publish without a broker raises a TransientError in bounded time, and works again later."""
        faulty_broker.kill()
        with pytest.raises(TransientError):
            client.publish(queue, b"x", timeout=1.0)
        faulty_broker.start()
        self.eventually(
            _quiet(lambda: client.publish(queue, b"y", timeout=2.0) is None),
            60.0,
            "publishing does not recover",
        )
        self.eventually(_quiet(lambda: client.stats(queue).ready > 0), 30.0, "counting does not recover")
        self.eventually(lambda: b"y" in {delivery.body for delivery in _receive(client, queue)}, 30.0, "y is missing")


def _receive(client: QueueClient, queue: str) -> list[Delivery]:
    try:
        return client.receive(queue, 10, 1.0)
    except TransientError:
        return []


def _quiet(call: Callable[[], T]) -> Callable[[], T | None]:
    """The call, with None for an answer while the broker is away."""

    def attempt() -> T | None:
        try:
            return call()
        except TransientError:
            return None

    return attempt
