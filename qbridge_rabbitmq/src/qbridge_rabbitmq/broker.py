"""What exists between ``connect`` and ``disconnect``: the connections of a client, and all that lives on them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, Final

from qbridge_core.backend import ConnectionEvents, Message, Pulse
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.connections import ANSWERS, HARDLY_ANSWERS, Connections, Ends
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.consume.consumers import Consumers
from qbridge_rabbitmq.consume.deliveries import Deliveries
from qbridge_rabbitmq.consume.receiving import Receiving
from qbridge_rabbitmq.consume.watch import Watch
from qbridge_rabbitmq.publish.delayed import DelayedSender
from qbridge_rabbitmq.publish.departures import Departures
from qbridge_rabbitmq.publish.flights import Flights
from qbridge_rabbitmq.publish.messages import publication
from qbridge_rabbitmq.publish.publisher import Publisher
from qbridge_rabbitmq.publish.sender import Sender
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.locks import Locks
from qbridge_rabbitmq.queues.pauses import Pauses
from qbridge_rabbitmq.queues.pending_delays import PendingDelays
from qbridge_rabbitmq.queues.policies import Policies
from qbridge_rabbitmq.queues.purging import Purging
from qbridge_rabbitmq.queues.requests import Requests, Steps
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.recovery.poison_queue import PoisonQueue
from qbridge_rabbitmq.settle.acknowledgements import Acknowledgements
from qbridge_rabbitmq.settle.flushing import Flushing
from qbridge_rabbitmq.settle.handbacks import Handbacks
from qbridge_rabbitmq.settle.rejections import Rejections
from qbridge_rabbitmq.state.in_flight import Arrival

_POLICIES_EVERY: Final = 3.0
# A worker that lives is connected again, and has its locks, after so many of the longest pauses and what it takes on a
# busy machine to connect.
_GRACE: Final = 1.5
_CONNECTING: Final = 2.0


class ConnectedBroker:
    """The parts of a connected client, put together. For any thread but the I/O thread.

    Args:
        endpoint: where to connect and how.
        declarations: what the client has declared, before too.
        policies: looks after those of the broker, where they can be read.
        events: told of outages.

    Attributes:
        connections: the two connections and their thread.
        io: that thread.
        requests: has the broker do something and waits for its answer.
        publisher: publishes, in the I/O thread.
        sender: publishes for any other thread.
        flights: does the same for those who do not wait.
        consumers: where messages come from.
        receiving: takes them from there.
        lost_deliveries: what was in flight when a channel ended.
        pending_delays: what was delayed when a connection ended.
        deliveries: makes them of what has arrived.
        delayed: publishes what shall come later.
        acknowledgements: end deliveries.
        handbacks: put messages back into their queues.
        rejections: whatever else becomes of a delivery.
        flushing: sees that the broker has all that.
        locks: those that this client has at the broker.
        purging: deletes what waits.
        pauses: which queues are paused.
        poison_queue: hands out the messages that may have killed a worker.
        browsing: held by who takes dead letters to look at them, for that is for one at a time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        declarations: Declarations,
        policies: Policies | None = None,
        events: ConnectionEvents | None = None,
    ) -> None:
        options = endpoint.options
        self.lost_deliveries = lost = LostDeliveries()
        self.pending_delays = PendingDelays()
        self.publisher = Publisher()
        self.connections = connections = Connections(
            endpoint,
            self._send_settlements,
            consuming=Ends(self._consuming_up, self._consuming_down),
            publishing=Ends(self.publisher.up, self.publisher.down),
            events=events,
        )
        self.io = connections.io
        self.requests = requests = Requests(connections, options.request_timeout)
        self.locks = Locks(requests)
        self.purging = Purging(requests, declarations, self.pending_delays)
        departures = Departures(connections, self.publisher)
        self.sender = Sender(connections, self.publisher, departures, options.publish_timeout)
        self.flights = Flights(
            connections, self.publisher, departures, options.publish_timeout, self.sender.leave_silent
        )
        self.pauses = Pauses(requests, declarations, self._publish)
        self.consumers = Consumers(connections, self._restore, lost, options.request_timeout)
        self.acknowledgements = Acknowledgements(self.io, lost)
        self.deliveries = Deliveries(lost, self.pending_delays, self.acknowledgements.acknowledge)
        self.delayed = DelayedSender(self.sender, requests, declarations, self.pending_delays)
        self.handbacks = Handbacks(
            self.io, self.sender, declarations, lost, self.acknowledgements, self.consumers.existing
        )
        self.flushing = Flushing(connections, self.consumers, self.handbacks, declarations.is_classic)
        self.rejections = Rejections(
            self.io,
            self.sender,
            self.delayed,
            requests,
            declarations,
            lost,
            self.acknowledgements,
            self.handbacks,
            self.consumers.existing,
        )
        self.receiving = Receiving(connections, self.consumers, requests, declarations, options.request_timeout)
        self._watch = Watch(
            connections, self.consumers, requests, declarations, lost, options.request_timeout, options.heartbeat / 4
        )
        self.poison_queue = self._suspects(_GRACE * options.reconnect_delay_max + _CONNECTING)
        self.browsing = threading.Lock()
        self._declarations = declarations
        self._policies = policies

    def open(self) -> None:
        """Connect; raises as :meth:`Connections.open`."""
        self.connections.open(self._watch.look, self._watch.adapt, self._watch_policies)

    @property
    def pulse(self) -> Pulse:
        """Of the I/O thread."""
        return self._watch.pulse

    def close(self) -> None:
        """Send what is left, close the connections and end the thread."""
        patience = HARDLY_ANSWERS
        try:
            if self.flushing.before_closing():
                patience = ANSWERS
        finally:
            self.connections.begin_closing()
            self.consumers.interrupt()
            self.connections.close(patience)
            self.flights.close()
            self.lost_deliveries.close()

    def holds(self, queue: str) -> bool:
        """Whether something of a queue is in flight here, or was when a channel ended."""
        consumer = self.consumers.existing(queue)
        return consumer is not None and (consumer.in_flight > 0 or self.lost_deliveries.held(queue) > 0)

    def _publish(self, queue: str, body: bytes) -> None:
        """Publish a message of QBridge's own."""
        self.sender.send([publication(queue, Message(body), self.sender.room, len(body))])

    def _suspects(self, grace: float) -> PoisonQueue:
        def fetch(queue: str, timeout: float) -> list[Arrival]:
            return self.receiving.receive(queue, 1, timeout, list)

        def keep(queue: str, arrival: Arrival) -> None:
            self.consumers.of(queue).buffer.put(arrival)

        return PoisonQueue(
            self.connections,
            self.locks,
            self.sender,
            self.lost_deliveries,
            fetch,
            self.deliveries.hand_out,
            keep,
            grace,
        )

    # ------------------------------------------------------------------ I/O thread

    def _consuming_up(self, connection: AmqpConnection) -> None:
        self.pending_delays.back()
        self._declarations.connected(_version(connection))
        if self._policies is not None:
            self._policies.check()  # it may be another server
        self.pauses.connected()
        self.requests.up(connection)
        self.requests.begin(self._resume(), lambda _: self.consumers.up(connection))

    def _resume(self) -> Steps[None]:
        yield from self.locks.resume()  # first: others wait for them
        yield from self._declarations.restore_all()

    def _consuming_down(self, reason: BaseException) -> None:
        self.pending_delays.lost()
        self.requests.down(reason)
        self.consumers.down(reason)

    def _send_settlements(self) -> bool:
        return self.consumers.send_settlements()

    def _restore(self, queue: str, done: Callable[[BaseException | None], None]) -> None:
        """See that the queue exists."""
        self.requests.begin(self._declarations.restore(queue), lambda future: done(future.exception()))

    def _watch_policies(self) -> None:
        if self._policies is not None:
            self.io.later(_POLICIES_EVERY, self._watch_policies)
            self._policies.check_if_due()


def _version(connection: Any) -> tuple[int, ...]:
    properties = connection.server_properties or {}
    found = re.match(r"(\d+)\.(\d+)", str(properties.get("version", "")))
    return (int(found[1]), int(found[2])) if found else (0,)
