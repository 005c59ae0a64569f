"""Renews the leases of what this client holds."""

from __future__ import annotations

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

    Attributes:
        due_at: when to call ``renew`` (monotonic time).
    """

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._every = context.options.lease / RENEWALS
        self.due_at = monotonic() + self._every

    def renew(self, connection: RedisConnection) -> None:
        """Renew them, and note what is not this client's any more."""
        now = monotonic()
        for in_flight in self._context.all_in_flight():
            self._renew(connection, in_flight)
        self.due_at = now + self._every

    def _renew(self, connection: RedisConnection, in_flight: InFlight) -> None:
        options, stream = self._context.options, self._context.keys.stream(in_flight.queue)
        held = in_flight.held()
        for start in range(0, len(held), _BATCH):
            batch = held[start : start + _BATCH]
            reply = connection.call(RENEW([stream], options.group, self._context.consumer, *batch))
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
