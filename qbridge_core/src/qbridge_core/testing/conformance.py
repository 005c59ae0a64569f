"""The suite, put together."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import pytest

from qbridge_core import Delivery, Message, QBridgeError, QueueClient, TaskManager, TransientError
from qbridge_core.message import SOURCE_QUEUE, meta_text
from qbridge_core.testing.base import Backend, MakeClient, a_failure, is_empty
from qbridge_core.testing.connection import ConnectionTests
from qbridge_core.testing.data import DataTests
from qbridge_core.testing.dead_letters import DeadLetterTests
from qbridge_core.testing.delayed import DelayedMessageTests
from qbridge_core.testing.delays import DelayTests
from qbridge_core.testing.describing import DescribingTests
from qbridge_core.testing.diagnosing import DiagnosisTests
from qbridge_core.testing.history import HistoryTests
from qbridge_core.testing.imports import ImportTests
from qbridge_core.testing.interruptions import InterruptionTests
from qbridge_core.testing.leases import LeaseTests
from qbridge_core.testing.letters import LetterTests
from qbridge_core.testing.outages import OutageTests
from qbridge_core.testing.pausing import PausingTests
from qbridge_core.testing.publishing import PublishingTests
from qbridge_core.testing.receiving import ReceivingTests
from qbridge_core.testing.recovery import RecoveryTests
from qbridge_core.testing.settling import SettlingTests
from qbridge_core.testing.several_queues import SeveralQueuesTests
from qbridge_core.testing.sharing import SharingTests
from qbridge_core.testing.soon import SoonTests
from qbridge_core.testing.workers import WorkerTests

T = TypeVar("T")
_DELAY = 1.0
# It is over after the crash: a broker may hold for minutes what it moves from one queue to the next when it is killed.
_LATE = 3.2
_OLD = b"old"


class BackendConformance(
    ConnectionTests,
    SharingTests,
    PublishingTests,
    SoonTests,
    DataTests,
    DelayTests,
    DelayedMessageTests,
    ReceivingTests,
    SeveralQueuesTests,
    SettlingTests,
    LeaseTests,
    DeadLetterTests,
    LetterTests,
    DiagnosisTests,
    DescribingTests,
    HistoryTests,
    ImportTests,
    OutageTests,
    RecoveryTests,
    InterruptionTests,
    WorkerTests,
    PausingTests,
):
    """Everything that can be tested on a broker that others use too."""


class FaultyBroker(Protocol):
    """A broker of one's own that can be killed."""

    url: str

    def start(self) -> object:
        """Start it (again) on the same data and port; return when it accepts connections."""

    def kill(self) -> object:
        """Kill it (SIGKILL); return when it is gone."""

    # And, where that can be had: forget(), to kill it, delete its data and start it.


class FaultConformance(Backend):
    """What must hold when the broker itself is killed and comes back. For backends that claim ``durable``.

    Override the fixture ``faulty_broker``.

    Attributes:
        queue_age: seconds that a queue must be old before the broker is killed, for brokers that lose a younger one
            (RabbitMQ 3.10 does not recover a quorum queue that is killed in its first second).
        recovery_timeout: seconds within which a client works again after the broker is back.
    """

    queue_age: ClassVar[float] = 0.0
    recovery_timeout: ClassVar[float] = 60.0

    @pytest.fixture
    def queue(self, client: QueueClient, queue_name: str, dead: str) -> str:
        """A declared, empty queue that is old enough to survive, with what the broker needs for its delays."""
        client.declare(queue_name, dead)
        if client.capabilities.pause:
            client.paused([queue_name])  # what the broker needs for that
        if client.capabilities.delay:
            client.publish(queue_name, _OLD, delay=_DELAY)
        old_enough = time.monotonic() + self.queue_age
        self.eventually(lambda: time.monotonic() >= old_enough, self.queue_age + 1)
        if client.capabilities.delay:
            client.ack(self.receive_one(client, queue_name))
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
        self, faulty_broker: FaultyBroker, client: QueueClient, queue: str, dead: str
    ) -> None:
        """What was confirmed, in whatever state, is there after a SIGKILL of the broker, and a pause is."""
        if not client.capabilities.durable:
            self._lose(faulty_broker, client, queue)
            return
        client.publish_many(queue, [Message(b"retried"), Message(b"dead"), Message(b"late"), Message(b"held")])
        retried, buried, late, held = self.receive_all(client, queue, 4)
        client.reject(retried, requeue=True, failure=a_failure(queue, attempts=2))
        client.reject(buried, requeue=False, failure=a_failure(queue, attempts=4))
        delay = _LATE if client.capabilities.delay else 0.0
        client.reject(late, requeue=True, delay=delay, failure=a_failure(queue, attempts=3))
        client.publish(queue, b"published", headers={"h": "1"}, message_id="m-published", delay=delay)
        much_later = self._delay_for_long(client, queue)
        bodies = {json.dumps(number).encode() for number in range(50)}
        client.publish_many(queue, [Message(body, {"h": "1"}, f"m-{body!r}") for body in sorted(bodies)])
        client.flush()
        if client.capabilities.pause:
            client.pause(dead)
        faulty_broker.kill()
        faulty_broker.start()
        if client.capabilities.pause:
            survives = _quiet(lambda: client.paused([queue, dead]) == {dead})
            self.eventually(survives, self.recovery_timeout, "a pause ends with its broker")
        wanted = {(body, 0, f"m-{body!r}") for body in bodies} | {(b"retried", 2, None), (b"late", 3, None)}
        wanted.add((b"published", 0, "m-published"))
        seen: set[tuple[bytes, int, str | None]] = set()

        def all_seen() -> bool:
            for delivery in _receive(client, queue):
                client.ack(delivery)
                assert delivery.crashes == 0, "the end of a broker is no crash"
                seen.add((delivery.body, delivery.attempts, delivery.message_id))
                if delivery.body in (b"retried", b"late"):
                    seen.add((delivery.body, delivery.attempts, None))  # a retry may give an id
                elif delivery.body != b"held":
                    assert dict(delivery.headers) == {"h": "1"}
            return seen >= wanted

        try:
            self.eventually(all_seen, self.recovery_timeout, "messages are missing after the crash")
        except BaseException as exc:
            exc.add_note(f"these: {wanted - seen}")
            raise
        if (held.body, 0, None) not in seen:  # its client has it still, or will have it again
            client.disconnect()
            client.connect()
            again = self.receive_one(client, queue, self.redelivery_timeout)
            assert (again.body, again.attempts, again.crashes) == (b"held", 0, 0)
        self.assert_counts(client, queue, delayed=much_later, message="a delay ends with a crash of the broker")
        letter = self.receive_one(client, dead)
        assert (letter.body, meta_text(letter.meta, SOURCE_QUEUE)) == (b"dead", queue)

    @staticmethod
    def _delay_for_long(client: QueueClient, queue: str) -> int:
        """Publish a message that no test waits for, where delays are claimed; return how many."""
        if not client.capabilities.delay:
            return 0
        client.publish(queue, b"much later", delay=300.0)
        return 1

    def _lose(self, faulty_broker: FaultyBroker, client: QueueClient, queue: str) -> None:
        """What is not claimed does not hold: else it is to be claimed."""
        client.publish(queue, b"x")
        faulty_broker.kill()
        faulty_broker.start()
        counts = _quiet(lambda: client.stats(queue) is not None)
        self.eventually(counts, self.recovery_timeout, "counting does not recover")
        self.assert_counts(client, queue, ready=0, message="a message survives a crash of the broker: claim durable")

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
            self.eventually(lambda: len(runs) == 300, self.recovery_timeout, "tasks are missing after the crash")
            patience = max(30.0, self.counting_time(client))
            self.eventually(_quiet(lambda: is_empty(client, queue)), patience, "the queue is not empty at the end")
        # The one of the fixture is no task: a broker may have forgotten in its crash that it was acknowledged.
        assert {letter.body for letter in _receive(make_client(), dead)} <= {_OLD}, "a task became a dead letter"

    def test_g1_publishing_while_the_broker_is_down_raises_and_recovers(
        self, faulty_broker: FaultyBroker, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """A publish without a broker raises a TransientError in bounded time, and works again later.

        Also when the broker has lost its queues meanwhile, where ``faulty_broker`` can do that.
        """
        faulty_broker.kill()
        with pytest.raises(TransientError):
            client.publish(queue, b"x", timeout=1.0)
        faulty_broker.start()
        self.eventually(
            _quiet(lambda: client.publish(queue, b"y", timeout=2.0) is None),
            self.recovery_timeout,
            "publishing does not recover",
        )
        patience = max(30.0, self.counting_time(client))
        self.eventually(_quiet(lambda: client.stats(queue).ready > 0), patience, "counting does not recover")
        self.eventually(lambda: b"y" in {delivery.body for delivery in _receive(client, queue)}, 30.0, "y is missing")
        if forget := getattr(faulty_broker, "forget", None):
            consumer, quiet = make_client(), f"{queue}-quiet"
            consumer.declare(quiet)
            for each in (client, consumer):  # what was declared is remembered over that
                each.disconnect()
                each.connect()
            self._find_lost_queues(forget, client, queue, dead)
            self.eventually(
                _quiet(lambda: consumer.receive(quiet, 1, 0.1) == [], QBridgeError),
                self.recovery_timeout,
                "a client that only receives does not declare again what it had declared",
            )
            client.publish(quiet, b"x")
            assert self.receive_one(consumer, quiet).body == b"x"

    def _find_lost_queues(self, forget: Callable[[], object], client: QueueClient, queue: str, dead: str) -> None:
        """A broker that comes back without its queues gets them again from the client that had declared them."""
        forget()
        self.eventually(
            _quiet(lambda: client.publish(queue, b"x") is None, QBridgeError), self.recovery_timeout, "a queue is lost"
        )
        found = self.eventually(lambda: _receive(client, queue), self.recovery_timeout, "nothing comes")
        assert [delivery.body for delivery in found] == [b"x"]
        client.publish(dead, b"letter")  # it is there too, before a rejection needs it
        client.reject(found[0], requeue=False)
        assert {letter.body for letter in self.receive_all(client, dead, 2)} == {b"letter", b"x"}


def _receive(client: QueueClient, queue: str) -> list[Delivery]:
    try:
        return client.receive(queue, 10, 1.0)
    except TransientError:
        return []


def _quiet(call: Callable[[], T], also: type[Exception] = TransientError) -> Callable[[], T | None]:
    """The call, with None for an answer while the broker is away."""

    def attempt() -> T | None:
        try:
            return call()
        except (TransientError, also):
            return None

    return attempt
