"""Looks after the consumers of a client: does each of them bring something, and does it hold as much as it should?"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Future
from typing import Final

from qbridge_core.backend import Pulse, monotonic
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumers import Consumers
from qbridge_rabbitmq.consume.prefetch import TICK
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.requests import Requests
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries

_EVERY: Final = 3.0
UNUSED: Final = 60.0
"""Seconds after which a queue that nothing is received from any more has no channel."""
MOST_UNUSED: Final = 500
"""So many keep theirs until then; a connection has 2,047 channels."""
_EXAMINED: Final = 40
"""So many idle consumers at most are examined at a time; the broker is asked about each of them."""


class Watch:
    """What is done now and then. For the I/O thread.

    Args:
        connections: the client's; those that are silent are dropped.
        consumers: those to look after.
        requests: asks the broker about their queues.
        declarations: knows how.
        lost: forgets what is too old.
        timeout: seconds after which a server that serves no consumer is left, if there is another one.
        every: seconds between two looks at the connections.

    Attributes:
        pulse: of the I/O thread.
    """

    def __init__(
        self,
        connections: Connections,
        consumers: Consumers,
        requests: Requests,
        declarations: Declarations,
        lost: LostDeliveries,
        timeout: float,
        every: float,
    ) -> None:
        self.pulse = Pulse("the thread of the RabbitMQ client")
        self._connections = connections
        self._consumers = consumers
        self._requests = requests
        self._declarations = declarations
        self._lost = lost
        self._timeout = timeout
        self._every = min(_EVERY, every)
        self._examine_at = 0.0
        self._served_at = 0.0
        self._examined: dict[Consumer, None] = {}
        """Those that were examined since all were, the others being next."""

    def look(self) -> None:
        """Look after silent connections, and consumers that bring nothing; and again after a while."""
        self.pulse.turn(self._every)
        self._connections.io.later(self._every, self.look)
        self._connections.check()
        self._leave_useless()
        if monotonic() < self._examine_at:
            return
        self._examine_at = monotonic() + _EVERY
        self._lost.expire()
        if not self._connections.is_up or self._connections.closing:
            return
        self._release_unused()
        idle = {consumer: tag for consumer in self._consumers.all() if (tag := self._idle_tag(consumer))}
        self._examined = {consumer: None for consumer in self._examined if consumer in idle}
        if len(self._examined) == len(idle):
            self._examined.clear()
        for consumer in [consumer for consumer in idle if consumer not in self._examined][:_EXAMINED]:
            self._examined[consumer] = None
            self._examine(consumer, idle[consumer])

    def _release_unused(self) -> None:
        """Give up the channels of queues that nothing is received from any more."""
        unused = [each for each in self._consumers.all() if each.channel is not None and not each.prefetch]
        unused.sort(key=lambda consumer: consumer.used_at)
        for consumer in unused[: max(0, len(unused) - MOST_UNUSED)]:
            consumer.release(math.inf)
        for consumer in unused:
            consumer.release(monotonic() - UNUSED)

    @staticmethod
    def _idle_tag(consumer: Consumer) -> str:
        consumer.confirm_acks()
        return consumer.idle_tag()

    def adapt(self) -> None:
        """Have each consumer hold as much as its speed demands; and again soon."""
        self._connections.io.later(TICK, self.adapt)
        for consumer in self._consumers.all():
            if consumer.adapt():
                count = self._declarations.count(consumer.queue)
                self._requests.begin(count, functools.partial(_report_count, consumer))

    def _leave_useless(self) -> None:
        """Go to another server when no consumer is served here, as by one that is cut off from its cluster.

        As long as one is served all stay: the tasks that run here would be given to other workers.
        """
        now = monotonic()
        wanted = [consumer for consumer in self._consumers.all() if consumer.prefetch]
        if not self._connections.is_up or not wanted or any(consumer.serves for consumer in wanted):
            self._served_at = now
        elif now - self._served_at > self._timeout:
            self._served_at = now
            self._connections.consuming.move("the server does not start a consumer")

    def _examine(self, consumer: Consumer, tag: str) -> None:
        def answered(future: Future[int]) -> None:
            error = future.exception()
            consumer.examined(tag, future.result() if error is None else 0, error)

        self._requests.begin(self._declarations.consumers(consumer.queue), answered)


def _report_count(consumer: Consumer, counted: Future[int]) -> None:
    if counted.exception() is None:
        consumer.drained(counted.result())
