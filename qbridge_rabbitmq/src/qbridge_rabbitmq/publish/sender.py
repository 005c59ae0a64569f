"""Sends messages from any thread and waits for their confirmations."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from qbridge_core.backend import BrokerUnavailableError, QBridgeError, monotonic
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.publish.departures import Departures
from qbridge_rabbitmq.publish.publisher import LARGE, Batch, Publication, Publisher

# While the broker writes some chunks the next one is made.
_CHUNKS_UNDER_WAY: Final = 4


class Sender:
    """What callers have of the publisher. For any thread but the I/O thread.

    Args:
        connections: the client's.
        publisher: publishes on one of them.
        departures: the way to it.
        timeout: seconds to wait for confirmations, unless a caller says otherwise.
    """

    def __init__(self, connections: Connections, publisher: Publisher, departures: Departures, timeout: float) -> None:
        self._connections = connections
        self._publisher = publisher
        self._timeout = timeout
        self._departures = departures

    @property
    def room(self) -> int:
        """How many bytes the properties of a message may have."""
        return self._publisher.room

    def send(self, messages: list[Publication], timeout: float | None = None) -> None:
        """Publish messages and wait for their confirmations.

        Raises:
            QBridgeError: the first message that failed.
        """
        self.wait_for(self.begin(messages), timeout)

    def send_in_order(self, chunks: Iterable[list[Publication]], timeout: float | None = None) -> None:
        """Publish many messages, some chunks of them under way at once; ``timeout`` is for each chunk.

        Raises:
            QBridgeError: the first message that failed.
        """
        under_way: deque[Batch] = deque()
        large = False
        for chunk in chunks:
            # Large ones go through a channel of their own, and two channels do not keep the order between them.
            before, large = large, len(chunk[0].body) > LARGE
            most = _CHUNKS_UNDER_WAY if large == before else 1
            while len(under_way) >= most:
                self.wait_for(under_way.popleft(), timeout)
            under_way.append(self.begin(chunk))
        while under_way:
            self.wait_for(under_way.popleft(), timeout)

    def send_each(self, messages: list[Publication], timeout: float | None = None) -> dict[int, QBridgeError]:
        """Publish messages and wait for their confirmations; the errors of those that failed, by their position.

        Raises:
            QBridgeError: not all of them had an outcome in time.
        """
        batch = self.begin(messages)
        self._await(batch, timeout)
        return batch.errors

    def send_apart(self, messages: list[Publication], timeout: float) -> Iterator[tuple[int, QBridgeError | None]]:
        """Publish messages all at once; yield each one's position when it has an outcome, and what kept it back if any.

        None shares the fate of another one, and what is not confirmed in time comes last.
        """
        came: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        waiting: dict[Batch, int] = {_Announced(message, came): position for position, message in enumerate(messages)}
        batches = list(waiting)
        self._connections.io.post(lambda: self._publisher.submit(batches))
        deadline = monotonic() + timeout
        while waiting:
            try:
                batch = came.get(timeout=max(0.0, deadline - monotonic()))
            except queue.Empty:
                break
            yield waiting.pop(batch), batch.errors.get(0)
        for batch, position in waiting.items():
            yield position, self._publisher.unconfirmed(batch, timeout)

    def begin(self, messages: list[Publication]) -> Batch:
        """Publish messages; ``wait_for`` then waits for their confirmations."""
        batch = Batch(messages)
        self._departures.bring(_as_they_are, batch)
        return batch

    def wait_for(self, batch: Batch, timeout: float | None = None) -> None:
        """Wait for the confirmations of a batch; once.

        Raises:
            QBridgeError: the first message that failed.
        """
        self._await(batch, timeout)
        try:
            batch.raise_error()
        except BrokerUnavailableError:
            self._connections.require_open()
            raise

    def _await(self, batch: Batch, timeout: float | None) -> None:
        seconds = self._timeout if timeout is None else timeout
        if not batch.wait(seconds):
            self._connections.require_open()
            if seconds >= self._timeout:
                self._connections.io.post(lambda: self.leave_silent(batch))
            raise self._publisher.unconfirmed(batch, seconds)

    def leave_silent(self, batch: Batch) -> None:
        """In the I/O thread: go to another node, if nothing was confirmed since a batch that had all its time."""
        if self._publisher.is_silent(batch):
            self._connections.publishing.move("the server confirms nothing")


def _as_they_are(batches: list[Batch]) -> list[Batch]:
    return batches


class _Announced(Batch):
    """A message that says so when it has an outcome."""

    def __init__(self, message: Publication, came: queue.SimpleQueue[Batch]) -> None:
        super().__init__([message])
        self._came = came

    def settle(self, message: Publication, error: QBridgeError | None = None) -> None:
        super().settle(message, error)
        self._came.put(self)

    def fail(self, error: QBridgeError) -> None:
        super().fail(error)
        self._came.put(self)
