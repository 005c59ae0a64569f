"""What ``RedisClient`` does for those who operate queues, but for their dead letters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from qbridge_core.backend import (
    DIAGNOSIS_SECONDS,
    Finding,
    QueueStats,
    QueueUse,
    Rates,
    check_declaration,
    check_uses,
    list_queues,
)
from qbridge_redis.client.connecting import Connecting
from qbridge_redis.connection.boundary import guarded_method
from qbridge_redis.queues.admin import Look

_LISTING_TIME: Final = 10.0


class Operations(Connecting):
    """Makes queues, counts, describes and empties them, and looks what is wrong with them."""

    _rates: Rates

    @guarded_method
    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create the streams and their group where missing."""
        check_declaration(queue, dead_letter_queue)
        self._connected().declare(queue, dead_letter_queue)

    @guarded_method
    def stats(self, queue: str) -> QueueStats:
        """Count what all clients have sent and hold, and look at the consumer group and the stream.

        In one round trip; on a cluster, where the letters are on another node, in two. A consumer counts that has asked
        for messages, or renewed a lease, within the time of a lease: so one that was killed does for so long. What was
        handed back is as old as its copy.
        """
        return self._look(queue).stats

    @guarded_method
    def count(self, queue: str) -> QueueStats:
        """Count the messages of a queue, those of all clients, in one round trip."""
        return self._running(queue).admin.count(queue)

    @guarded_method
    def _occupied(self, queues: Collection[str]) -> set[str]:
        """Those that have something, in one round trip; on a cluster one to each master."""
        return self._connected().occupied(queues)

    @guarded_method
    def describe(self, queue: str) -> QueueStats:
        """Tell what ``stats`` tells, and what came and went since the last time."""
        look = self._look(queue)
        in_rate, out_rate = self._rates.of(queue, look.added, look.held)
        return replace(look.stats, in_rate=in_rate, out_rate=out_rate, unsettled=look.stats.in_flight)

    def _look(self, queue: str) -> Look:
        dead = self._declarations.dead_letter_queue(queue)
        node, other = self._running(queue), self._running(dead)
        if node is other:
            return node.admin.look(queue, dead)
        look = node.admin.look(queue, None)
        return replace(look, stats=replace(look.stats, dead=other.admin.letters(queue, dead)))

    @guarded_method
    def queues(self) -> dict[str, str | None]:
        """Look for streams that have the consumer group, on a cluster on all masters; by ``SCAN``, for ten seconds.

        The server does not know which queue has whose dead letters: this client must have declared that, or it must
        have the usual name.
        """
        found = self._connected().find_queues(_LISTING_TIME)
        return list_queues(found.union(self._declarations.declared()), self._declarations.dead_letter_queues())

    @guarded_method
    def purge(self, queue: str, *, delayed: bool = False) -> int:
        """Delete the ready messages, or the delayed ones."""
        node = self._running(queue)
        return node.delayed_messages.purge(queue) if delayed else node.admin.purge(queue)

    @guarded_method
    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Look at the server, on a cluster at all masters, and at queues.

        Permissions are tried out by commands that find nothing to change.
        """
        nodes = self._connected()
        uses, seconds = check_uses(queues, timeout)
        from qbridge_redis.checkup import looks  # for the few who ask: it takes memory

        return looks.look(nodes, self._options, uses, seconds)
