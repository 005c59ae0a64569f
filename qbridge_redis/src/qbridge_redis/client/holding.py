"""What ``RedisClient`` does with messages and queues that are held back."""

from __future__ import annotations

from collections.abc import Iterable

from qbridge_core.backend import (
    DelayedMessage,
    check_count,
    check_delayed,
    check_delayed_id,
    check_queue_names,
)
from qbridge_redis.client.connecting import Connecting
from qbridge_redis.connection.boundary import guarded_method


class Holding(Connecting):
    """Takes delayed messages in hand, and pauses queues."""

    @guarded_method
    def delayed(
        self, queue: str, limit: int = 100, *, after: DelayedMessage | str | None = None
    ) -> list[DelayedMessage]:
        """List what is held back, the next one first; an ``after`` that is gone still has its place."""
        messages = self._running(queue).delayed_messages
        return messages.look(queue, check_count("limit", limit), None if after is None else check_delayed_id(after))

    @guarded_method
    def release_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str] | None = None) -> int:
        """Deliver them now, a hundred in one atomic step."""
        node = self._running(queue)
        if messages is None:
            return node.delayed_messages.release(queue)
        chosen = check_delayed(messages)
        return chosen.finish(node.delayed_messages.take(queue, chosen, release=True))

    @guarded_method
    def delete_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str]) -> int:
        """Delete them, a hundred in one atomic step."""
        node = self._running(queue)
        chosen = check_delayed(messages)
        return chosen.finish(node.delayed_messages.take(queue, chosen, release=False))

    @guarded_method
    def pause(self, queue: str) -> None:
        """Leave a mark beside the queue, the sorted set ``<queue>:paused``."""
        self._running(queue).pauses.pause(queue)

    @guarded_method
    def resume(self, queue: str) -> None:
        """Take the mark away."""
        self._running(queue).pauses.resume(queue)

    @guarded_method
    def paused(self, queues: Iterable[str]) -> set[str]:
        """Look for the marks, in one round trip; on a cluster one to each master.

        There a slot that cannot be asked does not keep the others from being told of: what it said last counts.
        """
        names = check_queue_names(queues)
        nodes = self._connected()
        return nodes.paused(names) if names else set()
