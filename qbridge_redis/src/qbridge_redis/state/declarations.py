"""Which queues this client declared, and how they come into being."""

from __future__ import annotations

from typing import Final

from redis.exceptions import ResponseError

from qbridge_core.backend import DeclaredQueues, UnroutableError, suspects_queue
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import checked, code, refused
from qbridge_redis.connection.outage_log import log
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import ENSURE

_MISSING: Final = -1


class Declarations(DeclaredQueues):
    """The declared queues of one client, and how Redis gets them. Thread-safe."""

    def __init__(self, keys: Keys, group: str) -> None:
        super().__init__()
        self._keys = keys
        self._group = group
        self._warned: set[str] = set()

    def holds_suspects(self, queue: str) -> bool:
        """Whether it holds the suspects of a queue that this client declared."""
        return any(queue == suspects_queue(declared) for declared in self.declared())

    def ensure(self, connection: RedisConnection, queue: str, *, create: bool = False) -> bool:
        """Make the group of a queue where it is missing; the queue too with ``create`` or if it was declared.

        Returns whether it was missing.

        Raises:
            UnroutableError: there is no such queue, and it was not declared.
            QueueMismatchError: the key is no stream.
        """
        may_create = 1 if create or self.is_declared(queue) else 0
        reply = connection.call(ENSURE([self._keys.stream(queue)], self._group, may_create))
        made = checked(reply, f"make the queue {queue!r}")
        if made == _MISSING:
            raise UnroutableError(f"the queue {queue!r} does not exist; declare it first")
        return bool(made)

    def check_surroundings(self, connection: RedisConnection, queue: str) -> None:
        """Look at the key of a queue's delayed messages before the first one is there, and for other consumer groups.

        Raises:
            QueueMismatchError: the key is no sorted set.
        """
        stream, delayed = self._keys.stream(queue), self._keys.delayed(queue)
        reply, groups = connection.call_many([("ZCARD", delayed), ("XINFO", "GROUPS", stream)])
        if isinstance(reply, ResponseError) and code(reply) == "WRONGTYPE":
            raise refused(reply, f"make the queue {queue!r}") from reply
        if not isinstance(groups, ResponseError):  # a user may lack the right to ask
            self._warn_of_others(queue, {row[row.index(b"name") + 1].decode("utf-8", "replace") for row in groups})

    def _warn_of_others(self, queue: str, groups: set[str]) -> None:
        others = sorted(groups - {self._group})
        if others and queue not in self._warned:
            self._warned.add(queue)
            log.warning(
                "queue %r has other consumer groups, %s: each group gets every message, so if workers read as one of "
                "them, tasks run twice. Give all programs the same option group (this one has %r), and remove a group "
                "that is left over: XGROUP DESTROY",
                queue, ", ".join(map(repr, others)), self._group,
            )  # fmt: skip
