"""Renews the leases of what this client holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from redis.exceptions import ResponseError

from qbridge_core.backend import monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import is_missing_group
from qbridge_redis.protocol.scripts import RENEW
from qbridge_redis.state.context import NodeContext, log
from qbridge_redis.state.in_flight import InFlight

RENEWALS: Final = 3
"""So often a lease is renewed before it runs out."""
_BATCH: Final = 500


class Leases:
    """The leases of all queues of one server. For one thread.

    Args:
        lease: seconds.
        contexts: those of the nodes that are there.

    Attributes:
        due_at: when to call ``renew`` (monotonic time).
    """

    def __init__(self, lease: float, contexts: Callable[[], Sequence[NodeContext]]) -> None:
        self._contexts = contexts
        self._every = lease / RENEWALS
        self.due_at = monotonic() + self._every

    def renew(self, connection: RedisConnection) -> None:
        """Renew them, and note what is not this client's any more."""
        # Set first: a node that comes from another server while the replies are on their way wants it sooner.
        self.due_at = monotonic() + self._every
        try:
            for context in self._contexts():
                for in_flight in context.all_in_flight():
                    self._renew(connection, context, in_flight)
        except BaseException:
            self.due_at = 0.0
            raise

    def _renew(self, connection: RedisConnection, context: NodeContext, in_flight: InFlight) -> None:
        options, stream = context.options, context.keys.stream(in_flight.queue)
        held = in_flight.held()
        for start in range(0, len(held), _BATCH):
            batch = held[start : start + _BATCH]
            reply = connection.call(RENEW([stream], options.group, context.consumer, *batch))
            if isinstance(reply, ResponseError):
                if is_missing_group(reply):  # the reader makes it again
                    in_flight.mark_deleted()
                else:
                    log.warning("leases of %s are not renewed: %s", in_flight.queue, reply)
                continue
            lost, deleted = reply
            in_flight.mark_deleted(deleted)
            if taken := in_flight.lose(lost):
                log.warning("%d deliveries of %s were taken over by another worker", taken, in_flight.queue)
