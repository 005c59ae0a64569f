"""How messages get to a server together, whoever sends them; and threads for those that nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qbridge_core.backend import HelperThreads, monotonic
from qbridge_redis.connection.options import Options
from qbridge_redis.connection.pool import Pool
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.publish.shared_exchange import SharedExchange

_WAIT_MARGIN: Final = 0.25  # the server looks at the time every 100 ms, and its answer must come before the deadline


class Posts:
    """The way to one server, or to one hash slot of a cluster. Thread-safe.

    Args:
        options: of the client.
        pool: connections to there.

    Attributes:
        exchange: sends commands and has the reply to each, and what the replicas say of it where they are waited for.
        helpers: threads that send what nobody waits for, and look after replies that are not plain.
    """

    def __init__(self, options: Options, pool: Pool) -> None:
        self._options = options
        self._pool = pool
        self.helpers: Final = HelperThreads("qbridge-redis-publish")
        self.exchange: Final = SharedExchange(self._exchange, self.helpers.run)

    def _exchange(self, commands: Sequence[Command], deadline: float) -> list[tuple[Any, Any]]:
        connection = self._pool.take(deadline)
        try:
            timeout = max(0.001, deadline - monotonic())
            replies = connection.call_many(waited_for(commands, timeout, self._options.wait_replicas), timeout)
        finally:
            self._pool.give(connection)
        replicas = replies[-1] if self._options.wait_replicas else None
        return [(reply, replicas) for reply in replies[: len(commands)]]


def waited_for(commands: Sequence[Command], timeout: float, replicas: int) -> Sequence[Command]:
    """The commands and, where replicas must have them, a wait for those."""
    return [*commands, ("WAIT", replicas, _wait_ms(timeout))] if replicas else commands


def _wait_ms(timeout: float) -> int:
    return max(1, round(max(timeout - _WAIT_MARGIN, timeout / 3) * 1000))
