"""What all parts of the suite share: clients, names, waiting."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest

from qbridge_core import (
    BrokerURL,
    Delivery,
    DeliveryLostError,
    Failure,
    InvalidURLError,
    QueueClient,
    Reason,
    TransientError,
    connect,
)
from qbridge_core.backend import DUE_AT, SENT_AT
from qbridge_core.testing.link import Link
from qbridge_core.testing.settings import WAIT, Settings

T = TypeVar("T")
Comparable = TypeVar("Comparable", str, bytes, tuple[str, str], tuple[bytes, dict[str, str], str | None])
MakeClient = Callable[[], QueueClient]
TIMES = frozenset({DUE_AT, SENT_AT})
"""Headers of QBridge's that may be on any message."""


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


class Backend(Settings):
    """Fixtures of the suite; override what your backend needs."""

    @pytest.fixture
    def broker_url(self) -> str:
        """The URL that clients of this test connect to."""
        assert self.url, "set the class attribute url or override the fixture broker_url"
        return self.url

    def create_client(self, url: str) -> QueueClient:
        """Return a new connected client; called several times a test. Override it to test a class directly.

        It should pass ``self.options`` on. Child processes of the suite call it too: they import your test module, and
        call this method of a new instance of the class.
        """
        return connect(url, **self.options)

    def create_hasty_client(self, url: str) -> QueueClient:
        """A client with short timeouts."""
        return self.with_options({**self.options, **self.outage_options}).create_client(url)

    @pytest.fixture
    def make_client(self, broker_url: str) -> Iterator[MakeClient]:
        """A function that returns a new connected client; all are disconnected after the test."""
        clients: list[QueueClient] = []

        def make() -> QueueClient:
            clients.append(self.create_client(broker_url))
            return clients[-1]

        yield make
        self.disconnect_in_time(*clients)

    @pytest.fixture
    def client(self, make_client: MakeClient) -> QueueClient:
        """A connected client."""
        return make_client()

    @pytest.fixture
    def link(self, broker_url: str) -> Iterator[Link]:
        """A way to the broker that can be frozen and cut; a test that needs it is skipped where there is none.

        The default is a TCP proxy to the host and the port of the URL. Override it when yours looks different: yield an
        object with the methods of :class:`~qbridge_core.testing.link.Link`.
        """
        try:
            url = BrokerURL.parse(broker_url)
        except InvalidURLError:
            url = BrokerURL("")
        if not self.proxied or not url.host or url.port is None or len(url.hosts) != 1:
            pytest.skip("the URL does not name one host and port, so there is no connection to break")
        link = Link(url.host, url.port)
        yield link
        link.close()

    @pytest.fixture
    def make_linked_client(self, broker_url: str, link: Link) -> Iterator[Callable[..., QueueClient]]:
        """Like ``make_client``, over ``link``; with ``leases=False`` its leases are long."""
        clients: list[QueueClient] = []

        def make(leases: bool = True) -> QueueClient:
            suite = self if leases else self.with_options(self.patient_options)
            clients.append(suite.create_hasty_client(link.through(broker_url)))
            return clients[-1]

        yield make
        link.restore()
        self.disconnect_in_time(*clients)

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

    # ------------------------------------------------------------------ what tests do again and again

    def eventually(self, condition: Callable[[], T], timeout: float | None = None, message: str = "") -> T:
        """``eventually`` with the timeout ``wait``."""
        return eventually(condition, self.wait if timeout is None else timeout, message)

    def receive_one(self, client: QueueClient, queue: str, timeout: float | None = None) -> Delivery:
        """Receive exactly one message."""
        patience = self.wait if timeout is None else timeout
        deliveries = client.receive(queue, 1, patience)
        assert len(deliveries) == 1, f"no message in {queue} within {patience:g} s"
        return deliveries[0]

    def receive_all(self, client: QueueClient, queue: str, count: int, timeout: float | None = None) -> list[Delivery]:
        """Receive ``count`` messages."""
        received: list[Delivery] = []
        patience = self.wait if timeout is None else timeout
        deadline = time.monotonic() + patience
        while len(received) < count and time.monotonic() < deadline:
            received += client.receive(queue, count - len(received), 0.2)
        assert len(received) == count, f"only {len(received)} of {count} messages came within {patience:g} s"
        return received

    def in_order(self, client: QueueClient, items: Iterable[Comparable]) -> list[Comparable]:
        """The items, sorted where the client does not claim ``ordered``: to be compared with others of that kind."""
        return list(items) if client.capabilities.ordered else sorted(items)

    def counting_time(self, client: QueueClient) -> float:
        """Seconds that ``stats`` may take to be right: none where ``exact_stats`` is claimed."""
        return 0.0 if client.capabilities.exact_stats else self.counting_timeout

    def assert_counts(
        self, client: QueueClient, queue: str, *, soon: bool = False, message: str = "", **counts: int
    ) -> None:
        """Fail unless ``stats`` counts so many: at once, or within ``counting_timeout`` where counts are estimates.

        Args:
            client: whose ``stats`` is asked.
            queue: of which queue.
            soon: what is counted takes its time, too: ``wait`` at most.
            message: what to say when it fails.
            counts: the wanted ``ready``, ``in_flight`` and ``delayed``; what is not given may be any number.
        """
        seconds = max(self.counting_time(client), self.wait if soon else 0.0)
        _assert_counted(client, queue, counts, seconds, message or "stats is wrong")

    def assert_empty(self, client: QueueClient, queue: str, *, soon: bool = False) -> None:
        """``assert_counts`` for a queue that holds nothing at all."""
        self.assert_counts(client, queue, soon=soon, ready=0, in_flight=0, delayed=0)

    def await_counts(self, client: QueueClient, queue: str, **counts: int) -> None:
        """Before a call that goes by the counts: wait where they are estimates, and leave exact ones alone."""
        if not client.capabilities.exact_stats:
            _assert_counted(client, queue, counts, self.counting_time(client), "stats does not become right")

    def bury(self, client: QueueClient, queue: str, *bodies: bytes) -> None:
        """Publish messages and dead-letter them."""
        for body in bodies:
            client.publish(queue, body, headers={"h": "ü"}, message_id=f"m-{body!r}")
        for delivery in self.receive_all(client, queue, len(bodies)):
            client.reject(delivery, requeue=False, failure=a_failure(queue, attempts=4))

    def disconnect_in_time(self, *clients: QueueClient, timeout: float | None = None) -> None:
        """Disconnect all at the same time; fail when that hangs or raises."""
        patience = max(self.wait, WAIT) if timeout is None else timeout
        calls = [Call(client.disconnect) for client in clients]
        deadline = time.monotonic() + patience
        for call in calls:
            if not call.ended(max(0.0, deadline - time.monotonic())):
                pytest.fail("disconnect hangs")
        for call in calls:
            call.result()


class Call:
    """A call in a thread of its own, for what may hang."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._value: object = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self, timeout: float) -> bool:
        """Wait for its end."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self) -> object:
        """What it returned; or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self._value

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._value = self._function()
        except BaseException as exc:
            self.error = exc
        self.seconds = time.monotonic() - began


def a_failure(
    queue: str, attempts: int = 1, reason: Reason = Reason.FAILED, crashes: int = 0, replays: int = 0
) -> Failure:
    """A failure with a value in each field."""
    return Failure(
        reason=reason,
        attempts=attempts,
        crashes=crashes,
        exception_type="ValueError",
        exception_message="it broke: ü",
        traceback='Traceback (most recent call last):\n  File "x.py", line 1\nValueError: it broke',
        first_failed_at=1_700_000_000.25,
        last_failed_at=1_700_000_060.5,
        source_queue=queue,
        task_id="task-1",
        worker="host:1",
        replays=replays,
    )


def _assert_counted(client: QueueClient, queue: str, counts: dict[str, int], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while (seen := _counted(client, queue, counts)) != counts:
        assert time.monotonic() < deadline, f"{message}: {seen}, not {counts}, in {queue}"
        time.sleep(0.01)


def _counted(client: QueueClient, queue: str, names: Iterable[str]) -> dict[str, int]:
    stats = client.stats(queue)
    return {name: getattr(stats, name) for name in names}


def is_empty(client: QueueClient, queue: str) -> bool:
    """True when the queue holds nothing at all."""
    stats = client.stats(queue)
    return stats.ready == stats.in_flight == stats.delayed == 0


def succeeds(call: Callable[[], object]) -> bool:
    """Whether a call could be made; the broker may be away."""
    try:
        return call() is not False
    except DeliveryLostError:
        raise
    except TransientError:
        return False
