"""What ``RabbitMQClient`` does for those who operate queues, but for their dead letters."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from qbridge_core.backend import (
    DIAGNOSIS_SECONDS,
    Finding,
    QueueStats,
    QueueUse,
    check_declaration,
    check_queue_name,
    check_uses,
)
from qbridge_rabbitmq.client.connecting import Connecting
from qbridge_rabbitmq.connection.boundary import bounded
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.declarations import TO_DECLARE
from qbridge_rabbitmq.queues.describing import Describing

_BARRIER_TIMEOUT: Final = 2.0


class Operations(Connecting):
    """Makes queues, counts, describes and empties them, and looks what is wrong with them."""

    _describing: Describing

    @bounded
    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create the queue and its dead-letter queue where missing (rabbitmq.com/docs/dlx, quorum-queues)."""
        broker = self._live()
        check_declaration(queue, dead_letter_queue)
        delays.check_room(queue)
        broker.requests.call(f"queue {queue!r}", self._declarations.declare(queue, dead_letter_queue), TO_DECLARE)
        self._declarations.remember(queue, dead_letter_queue)
        self._watch_policies(queue)

    @bounded
    def stats(self, queue: str) -> QueueStats:
        """Count the messages and consumers of a queue, and its letters.

        ``in_flight`` are those of this client, what it has read ahead included. A dead-letter queue that was missing is
        looked for again after ten seconds.
        """
        return self._describing.stats(self._live().requests, queue, self._count(queue))

    @bounded
    def count(self, queue: str) -> QueueStats:
        """Count as ``stats`` does, without the letters."""
        return self._count(queue)

    @bounded
    def _occupied(self, queues: Collection[str]) -> set[str]:
        """Those that have something ready, or of which this client has something."""
        broker = self._live()
        held = set(filter(broker.holds, queues))
        return held | broker.requests.call("side queues", self._declarations.occupied(set(queues) - held))

    def _count(self, queue: str) -> QueueStats:
        broker = self._live()
        what = f"queue {check_queue_name(queue)!r}"
        consumer = broker.consumers.existing(queue)
        before = consumer.in_flight if consumer is not None else 0
        paused = not self._declarations.is_side_queue(queue) and bool(broker.pauses.paused([queue]))
        counts = self._declarations.count_all(queue, broker.pending_delays.count)
        ready, delayed, consumers = broker.requests.call(what, counts)
        in_flight = 0
        if consumer is not None:
            broker.consumers.barrier(consumer, _BARRIER_TIMEOUT)
            in_flight = max(before, consumer.in_flight) + broker.lost_deliveries.held(queue)
        return QueueStats(ready, in_flight, delayed, consumers=consumers, paused=paused)

    @bounded
    def describe(self, queue: str) -> QueueStats:
        """Tell what ``stats`` tells; with ``management_url`` rates, too, and the letters of queues declared by others.

        How long the oldest message has been there is known of classic queues only, with ``management_url`` and when the
        producer has set AMQP's ``timestamp``: this client does not look at a message of a work queue, since that marks
        it as delivered.
        """
        return self._describing.describe(self._live().requests, queue, self._count(queue))

    @bounded
    def queues(self) -> dict[str, str | None]:
        """List what this client has declared; with ``management_url`` all queues of the virtual host, foreign ones too.

        Raises:
            BrokerUnavailableError: the management API does not answer.
        """
        self._live()
        return self._describing.queues()

    @bounded
    def purge(self, queue: str, *, delayed: bool = False) -> int:
        """Delete the ready messages of a queue, or what waits in its delays; return how many.

        A delayed message that is just on its way from one level of its delay to the next is not reached.
        """
        purging = self._live().purging
        check_queue_name(queue)
        return purging.delayed(queue) if delayed else purging.ready(queue)

    @bounded
    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Look at the server and at queues; policies and dead queues are looked at with ``management_url`` only.

        Permissions are tried out by requests that the broker refuses in any case, which leaves lines in its log.
        """
        broker = self._live()
        uses, seconds = check_uses(queues, timeout)
        from qbridge_rabbitmq.checkup import looks  # for the few who ask: it takes memory

        return looks.look(broker, self._endpoint, self._declarations, self._policies, uses, seconds)
