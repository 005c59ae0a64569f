"""Publisher confirms on a channel of AMQP, many at once; kombu's own way waits for each one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qbridge_core.backend import BrokerBlockedError, QueueFullError, UnroutableError, monotonic


class Confirms:
    """The messages that were published on a channel and are not confirmed yet. For the thread that owns the channel."""

    def __init__(self, connection: Any, channel: Any) -> None:
        self._connection = connection
        self._channel = channel
        self._published = 0
        self._waiting: set[int] = set()
        self._refused: list[int] = []
        self._returned: list[str] = []
        self.blocked: str | None = None
        """Why the broker takes nothing now (a memory or disk alarm)."""
        channel.confirm_select()
        channel.events["basic_ack"].add(self._acked)
        channel.events["basic_nack"].add(self._nacked)
        channel.events["basic_return"].add(self._came_back)
        connection.on_blocked = self._block
        connection.on_unblocked = self._unblock

    def publish(self, name: str, messages: Sequence[Any], timeout: float) -> None:
        """Publish messages of py-amqp's and wait until the broker has confirmed all.

        Raises:
            UnroutableError: there is no such queue.
            QueueFullError: the broker refused one of them.
            BrokerBlockedError: the broker takes nothing now; nothing was published.
            TimeoutError: the confirmations did not come in time.
        """
        deadline = monotonic() + timeout
        self._look()
        if self.blocked is not None:
            raise BrokerBlockedError(f"the broker takes no messages now: {self.blocked}")
        self._refused.clear()
        self._returned.clear()
        for message in messages:
            self._published += 1
            self._waiting.add(self._published)
            self._channel.basic_publish(message, exchange="", routing_key=name, mandatory=True, timeout=timeout)
        while self._waiting:
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError(f"no confirmation within {timeout:g} s")
            self._connection.drain_events(timeout=left)
        if self._returned:
            raise UnroutableError(f"the queue {name!r} does not exist: {self._returned[0]}")
        if self._refused:
            raise QueueFullError(f"the broker refused {len(self._refused)} of {len(messages)} messages for {name!r}")

    def _look(self) -> None:
        """Read what the broker has said meanwhile, such as that the connection is at its end."""
        try:
            while True:
                self._connection.drain_events(timeout=0)
        except TimeoutError:
            return

    def _settled(self, tag: int, multiple: bool) -> set[int]:
        done = {each for each in self._waiting if each <= tag} if multiple else {tag}
        self._waiting -= done
        return done

    def _acked(self, tag: int, multiple: bool) -> None:
        self._settled(tag, multiple)

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._refused.extend(self._settled(tag, multiple))

    def _came_back(self, exc: Exception, exchange: str, routing_key: str, message: object) -> None:
        self._returned.append(str(exc))

    def _block(self, reason: str) -> None:
        self.blocked = reason

    def _unblock(self) -> None:
        self.blocked = None
