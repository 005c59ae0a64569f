"""What the tests of the Redis backend share."""

from __future__ import annotations

import queue as queues
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from qbridge_core import (
    BrokerUnavailableError,
    Delivery,
    Failure,
    QueueClient,
    QueueMismatchError,
    QueueStats,
    Reason,
    TransientError,
)
from qbridge_redis import RedisClient
from support.brokers import RedisReply

T = TypeVar("T")
Cli = Callable[..., RedisReply]


class MakeClient(Protocol):
    """Makes connected clients."""

    def __call__(self, url: str | None = None, **options: object) -> RedisClient:
        """Connect to the run's server, or to the URL."""
        ...


class Background(Generic[T]):
    """A call in a thread of its own; `result()` waits for what it returns or raises."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._call())
        except BaseException as exc:
            self._error = exc

    @property
    def running(self) -> bool:
        """Whether the call has not ended."""
        return self._thread.is_alive()

    def result(self, timeout: float = 15.0) -> T:
        """The outcome, waiting for it."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the call did not end"
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def take(client: RedisClient, queue: str, timeout: float = 10.0) -> Delivery:
    """Receive one message, waiting for it."""
    (delivery,) = client.receive(queue, 1, timeout)
    return delivery


def receive_calmly(client: RedisClient, queue: str, count: int = 10) -> list[Delivery]:
    """Receive during an outage, as a worker does."""
    try:
        return client.receive(queue, count, 0.5)
    except BrokerUnavailableError:
        return []


class Consumers:
    """A thread for each of some queues that receives as a worker does, and acknowledges what it gets."""

    def __init__(self, client: RedisClient, names: list[str], *, acknowledge: bool = True) -> None:
        self.got: queues.Queue[Delivery] = queues.Queue()
        self._client = client
        self._acknowledge = acknowledge
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._consume, args=(name,), daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def _consume(self, name: str) -> None:
        self._client.subscribe(name, 5)
        while not self._ended.is_set():
            try:
                batch = receive_calmly(self._client, name, 5)
            except QueueMismatchError:
                self._ended.wait(0.5)
                continue
            for delivery in batch:
                if self._acknowledge:
                    self._client.ack(delivery)
                self.got.put(delivery)
        self._client.unsubscribe(name)

    def take(self, count: int, timeout: float = 20.0) -> list[Delivery]:
        """So many of what came."""
        until = time.monotonic() + timeout
        return [self.got.get(timeout=max(0.01, until - time.monotonic())) for _ in range(count)]

    def end(self) -> None:
        """End the threads."""
        self._ended.set()
        for thread in self._threads:
            thread.join(10.0)


def failure(
    queue: str, attempts: int = 1, *, crashes: int = 0, reason: Reason = Reason.FAILED, text: str = "broken"
) -> Failure:
    """A failure to settle a delivery with."""
    now = time.time()
    return Failure(
        reason=reason,
        attempts=attempts,
        crashes=crashes,
        exception_type="ValueError",
        exception_message=text,
        traceback="Traceback …",
        first_failed_at=now,
        last_failed_at=now,
        source_queue=queue,
        task_id="task-1",
        worker="host:1",
    )


def are_shared(client: RedisClient, count: int) -> bool:
    """Whether so many queues are read together."""
    assert client._nodes is not None
    return len(client._nodes.several.queues()) >= count


def is_empty(client: QueueClient, queue: str) -> bool:
    """Whether nothing is left of a queue; False while the server cannot say."""
    try:
        return client.stats(queue) == QueueStats(0, 0, 0)
    except TransientError:
        return False


def is_blocked(cli: Cli) -> bool:
    """Whether some client of the server waits in a blocking read."""
    info = cli("INFO", "clients")
    return isinstance(info, str) and "blocked_clients:0" not in info
