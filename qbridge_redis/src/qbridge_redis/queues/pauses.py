"""The marks of queues that are paused: sorted sets, so that workers need no other permission than they have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from qbridge_core.backend import PublishUnconfirmedError
from qbridge_redis.connection.errors import checked, refused
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.queues.admin import ask, is_marked
from qbridge_redis.state.context import NodeContext

_WAIT_MS: Final = 1_000
_MARK: Final = "paused"
"""What is in the set. The score is the Unix time of the pause, for whoever looks with redis-cli."""


class Pauses:
    """The marks on one server. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._last: set[str] = set()

    def pause(self, queue: str) -> None:
        """Leave the mark."""
        self._do(("ZADD", self._context.keys.paused(queue), "NX", f"{time.time():.3f}", _MARK), f"pause {queue!r}")

    def resume(self, queue: str) -> None:
        """Take the mark away."""
        self._do(("ZREM", self._context.keys.paused(queue), _MARK), f"resume {queue!r}")

    def _do(self, command: Command, action: str) -> None:
        replicas, commands = self._context.options.wait_replicas, [command]
        if replicas:
            commands.append(("WAIT", replicas, _WAIT_MS))
        with self._context.pool.connection() as connection:
            replies = ask(self._context, connection, commands)
        checked(replies[0], action)
        if replicas and checked(replies[1], action) < replicas:
            raise PublishUnconfirmedError(
                f"{action}: the master did it, and {replies[1]} of {replicas} replicas know; a failover may undo it"
            )

    def look_command(self, queues: Sequence[str]) -> Command:
        """What to ask, together with other things, whether any of these queues has a mark: 0 means none has."""
        return ("EXISTS", *[self._context.keys.paused(queue) for queue in queues])

    def looked(self, queues: Sequence[str], reply: object) -> set[str]:
        """Which of these queues have a mark, where that was answered."""
        if reply == 0:
            self._last = set()
            return set()
        return self.paused(queues)

    def paused(self, queues: Sequence[str]) -> set[str]:
        """Which of these queues have a mark: one command as long as none of them has one."""
        keys = [self._context.keys.paused(queue) for queue in queues]
        with self._context.pool.connection() as connection:
            (count,) = ask(self._context, connection, [("EXISTS", *keys)]) if keys else (0,)
            found: set[str] = set()
            if count != 0:  # or the user may look at some of the keys only, and that is an error
                replies = ask(self._context, connection, [("ZCARD", key) for key in keys])
                found = {queue for queue, reply in zip(queues, replies, strict=True) if is_marked(reply)}
                if isinstance(count, ResponseError) and all(is_marked(reply) is None for reply in replies):
                    raise refused(count, f"look whether {queues[0]!r} is paused") from count
        self._last = found
        return found

    def last(self, queues: Sequence[str]) -> set[str]:
        """What ``paused`` has said last."""
        return self._last.intersection(queues)
