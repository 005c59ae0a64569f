"""How the queues of an app are worked on: their settings and pools, with those of the apps that it includes."""

from __future__ import annotations

from qbridge_core.app.queues import Queue, QueuePool, check_together, queue_of


class Layout:
    """That of one app.

    What it is given must agree with what there is beside it in ``whole``: that of the app that includes all others,
    which is itself where nothing includes it.

    Attributes:
        own: the queues that were given settings here, by name.
    """

    def __init__(self) -> None:
        self.own: dict[str, Queue] = {}
        self._own_pools: list[QueuePool] = []
        self._included: list[Layout] = []
        self._looked_up: dict[str, Queue] = {}

    @property
    def queues(self) -> list[Queue]:
        """All queues that have settings."""
        return [*self.own.values(), *(queue for other in self._included for queue in other.queues)]

    @property
    def pools(self) -> list[QueuePool]:
        """All pools."""
        return [*self._own_pools, *(pool for other in self._included for pool in other.pools)]

    def add_queue(self, queue: Queue, whole: Layout) -> None:
        """Take settings of a queue in.

        Raises:
            ConfigurationError: it has some already, or those of a pool.
        """
        check_together(whole.pools, [*whole.queues, queue])
        self.own[queue.name] = queue
        whole._looked_up = {}

    def add_pool(self, pool: QueuePool, whole: Layout) -> None:
        """Take a pool in.

        Raises:
            ConfigurationError: another one has its name or one of its queues, or one of those has settings of its own.
        """
        check_together([*whole.pools, pool], whole.queues)
        self._own_pools.append(pool)
        whole._looked_up = {}

    def include(self, other: Layout, whole: Layout) -> None:
        """Take that of another app in, and what comes to it later.

        Raises:
            ConfigurationError: they do not agree.
        """
        check_together([*whole.pools, *other.pools], [*whole.queues, *other.queues])
        self._included.append(other)
        whole._looked_up = {}

    def queue(self, name: str) -> Queue:
        """The settings of a queue, which each message that is sent looks up; ask the whole."""
        looked_up = self._looked_up  # another one by then, if there are other settings
        queue = looked_up.get(name)
        if queue is None:
            queue = self._found(name) or queue_of(name, {})
            pool = next((pool for pool in self.pools if name in pool.weights), None)
            queue = looked_up[name] = queue if pool is None else pool.has(queue)
        return queue

    def _found(self, name: str) -> Queue | None:
        own = self.own.get(name)
        return own or next((found for other in self._included if (found := other._found(name))), None)
