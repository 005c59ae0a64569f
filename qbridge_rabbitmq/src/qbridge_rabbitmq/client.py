"""``RabbitMQClient``: the QBridge contract on RabbitMQ."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from qbridge_core.backend import (
    DIAGNOSIS_SECONDS,
    NO_HEADERS,
    BrokerURL,
    Capabilities,
    ConnectionEvents,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    Failure,
    Finding,
    Message,
    NotConnectedError,
    Pulse,
    QBridgeError,
    QueueMismatchError,
    QueueStats,
    QueueUse,
    check_after,
    check_choice,
    check_count,
    check_declaration,
    check_delay,
    check_delivery,
    check_imports,
    check_letters,
    check_message,
    check_publish_timeout,
    check_queue_name,
    check_rejection,
    check_replay,
    check_sequence,
    check_uses,
    check_wait,
    check_wanted,
    each_with,
    logger,
)
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.connection.boundary import bounded, translated
from qbridge_rabbitmq.connection.options import Endpoint, Options
from qbridge_rabbitmq.consume.consumer_timeout import most_in_time
from qbridge_rabbitmq.dead_letters import importing, listing, replay
from qbridge_rabbitmq.holding import Holding
from qbridge_rabbitmq.publish.messages import chunks, publication
from qbridge_rabbitmq.publish.publisher import LARGE, Batch
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.declarations import TO_DECLARE, Declarations
from qbridge_rabbitmq.queues.describing import ALWAYS, WITH_MANAGEMENT, Describing
from qbridge_rabbitmq.queues.management import Management
from qbridge_rabbitmq.queues.policies import Policies
from qbridge_rabbitmq.recovery.poison_queue import PoisonQueue
from qbridge_rabbitmq.state.in_flight import Arrival

_log: Final = logger("qbridge.rabbitmq")
# While the broker writes some chunks the next one is made.
_CHUNKS_UNDER_WAY: Final = 4
_UNSUBSCRIBE_TIMEOUT: Final = 1.0
# A worker that lives is connected again, and has its locks, after so many of the longest pauses and what it takes on a
# busy machine to connect.
_GRACE: Final = 1.5
_CONNECTING: Final = 2.0
_BARRIER_TIMEOUT: Final = 2.0


class RabbitMQClient(Holding):
    """A client of RabbitMQ 3.10 or later. Thread-safe; not to be used by a child process after a fork.

    One background thread keeps two connections to the broker, one for consuming and one for publishing, and renews them
    when they are lost.

    Queues that it declares are durable quorum queues whose dead letters go to the dead-letter queue; a queue that
    somebody else declared is used as it is, whatever its type and arguments. Nothing depends on the broker's own
    dead-lettering: ``reject`` publishes a copy, waits for its confirmation, and only then acknowledges the original.

    What the broker itself moves to a dead-letter queue (it does so for a message over a limit, or when another consumer
    rejects it) is listed with reason ``rejected``.

    Args:
        rabbitmq_url: ``amqp://user:password@host:port/vhost``, or ``amqps://`` for TLS; a vhost's ``/`` is written
            ``%2F``, and no vhost means ``/``. The nodes of a cluster are ``host1:port1,host2:port2``; they are tried
            in an order that the client draws.
        options: see :class:`qbridge_rabbitmq.connection.options.Options`; they win over the same names in the URL's
            query.

    Raises:
        InvalidURLError: the URL cannot be understood.
        UnknownOptionError: an option does not exist.
        ConfigurationError: an option has a value that makes no sense.
    """

    logs_outages = True
    system = "rabbitmq"
    capabilities = Capabilities(
        delay=True,
        max_delay=delays.MAX_SECONDS,
        browse=True,
        crashes=True,
        durable=True,
        shared=True,
        instant_ack=True,
        letters=True,
        diagnoses=True,
        details=ALWAYS,
        queues=True,
        sent_at=True,
        history=True,
        purge_delayed=True,
        pause=True,
        imports=True,
    )

    def __init__(self, rabbitmq_url: str = "amqp://guest:guest@localhost:5672/", **options: object) -> None:
        url = BrokerURL.parse(rabbitmq_url)
        self._options = Options.read(url, options)
        self.events = ConnectionEvents()
        self.max_message_bytes = self._options.max_message_bytes
        self.patience = self._options.publish_timeout + 2 * self._options.request_timeout
        self._endpoint = Endpoint.create(url, self._options)
        self.server = self._endpoint.server
        self._policies = Policies.of(self._endpoint)
        self._declarations = Declarations(self._options.queue_type)
        self._describing = Describing(self._declarations, api := Management.of(self._endpoint))
        if api is not None:
            self.capabilities = replace(self.capabilities, details=WITH_MANAGEMENT)
        self._broker: ConnectedBroker | None = None
        self._poison_queue: PoisonQueue
        self._lifecycle = threading.Lock()
        self._browsing = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._endpoint}, {'' if self.connected else 'not '}connected>"

    # ------------------------------------------------------------------ connection

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect`` in the process that connected, also while it reconnects."""
        return self._broker is not None and not self._is_parents and self._broker.io.alive

    @property
    def _is_parents(self) -> bool:
        """Whether a parent process has connected: its thread does not exist here, and its sockets are its own."""
        return self._broker is not None and self._broker.connections.pid != os.getpid()

    @bounded
    def connect(self) -> None:
        """Connect; returns when both connections are open."""
        if self._is_parents:
            # The parent's locks may be held by threads that do not exist here.
            self._lifecycle, self._browsing = threading.Lock(), threading.Lock()
            self._broker = None
        with self._lifecycle:
            if self._broker is not None and not self._broker.io.alive:
                self._broker.connections.let_go()
                self._broker = None
            if self._broker is None:
                broker = ConnectedBroker(self._endpoint, self._declarations, self._policies, self.events)
                broker.open()
                grace = _GRACE * self._options.reconnect_delay_max + _CONNECTING
                self._poison_queue = broker.poison_queue(grace)
                self._broker = broker

    @bounded
    def disconnect(self) -> None:
        """Send what is left, close the connections and end the thread.

        A silent broker has 1.5 seconds at most, and 2.5 one that answers but for a queue that may lack settlements.
        """
        if self._is_parents:
            return
        with self._lifecycle:
            broker, self._broker = self._broker, None
            if broker is not None:
                self._return_suspects(broker)
                broker.close()

    def _return_suspects(self, broker: ConnectedBroker) -> None:
        """Give back, as copies, what nobody has run; the originals would come back as if we had died of them."""
        for queue, arrivals in broker.consumers.take_unread(self._declarations.is_side_queue).items():
            broker.handbacks.give_back(queue, arrivals)

    def pulses(self) -> tuple[Pulse, ...]:
        """Of the background thread."""
        broker = self._broker
        return () if broker is None or self._is_parents else (broker.pulse,)

    # ------------------------------------------------------------------ queues

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

    def _count(self, queue: str) -> QueueStats:
        broker = self._live()
        what = f"queue {check_queue_name(queue)!r}"
        consumer = broker.consumers.existing(queue)
        before = consumer.in_flight if consumer is not None else 0
        paused = not self._declarations.is_side_queue(queue) and bool(broker.pauses.paused([queue]))
        # In the order in which messages move, so that one that moves meanwhile is counted twice and never missed.
        counted = broker.requests.call(what, self._declarations.count_delayed(queue))
        delayed = max(counted, broker.pending_delays.count(queue))
        ready, consumers = broker.requests.call(what, self._declarations.look_at(queue))
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

    # ------------------------------------------------------------------ publishing

    @bounded
    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        """Publish one persistent message; return once the broker has confirmed it (rabbitmq.com/docs/confirms)."""
        broker = self._live()
        given = Message(body, NO_HEADERS if headers is None else headers, message_id)
        delay = check_delay(delay, delays.MAX_SECONDS)
        message = publication(queue, given, broker.sender.room, self.max_message_bytes, delay)
        timeout = check_publish_timeout(timeout)
        if delay > 0:
            broker.delayed.send(message, delay, timeout)
        else:
            broker.sender.send([message], timeout)

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages; the I/O thread writes all that have come, and hears their confirmations.

        Those with a delay are published by threads that wait: their delay queues may have to be made.
        """
        given = check_sequence(messages)
        try:
            if check_delay(delay, delays.MAX_SECONDS) > 0:
                return super().publish_soon(queue, given, delay=delay, timeout=timeout)
            return self._publish_soon(queue, given, timeout)
        except QBridgeError as exc:
            return each_with(exc, len(given))

    @bounded
    def _publish_soon(self, queue: str, messages: Sequence[Message], timeout: float | None) -> list[Future[None]]:
        broker, seconds = self._live(), check_publish_timeout(timeout)
        room, most = broker.sender.room, self.max_message_bytes
        check_queue_name(queue)  # before the messages: they may be in the wrong order
        return broker.flights.send(lambda each: publication(queue, check_message(each), room, most), messages, seconds)

    # Not bounded: what is raised where the messages come from is the caller's.
    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish messages in order, many under way at once; ``timeout`` counts anew for each few hundred of them."""
        broker = self._live()
        check_queue_name(queue)  # before the messages: they may be in the wrong order
        timeout = check_publish_timeout(timeout)
        under_way: deque[Batch] = deque()
        large = False
        for chunk in chunks(queue, messages, broker.sender.room, self.max_message_bytes):
            # Large ones go through a channel of their own, and two channels do not keep the order between them.
            before, large = large, len(chunk[0].body) > LARGE
            most = _CHUNKS_UNDER_WAY if large == before else 1
            while len(under_way) >= most:
                broker.sender.wait_for(under_way.popleft(), timeout)
            under_way.append(broker.sender.begin(chunk))
        while under_way:
            broker.sender.wait_for(under_way.popleft(), timeout)

    # ------------------------------------------------------------------ consuming

    @bounded
    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages``; wait up to ``timeout`` seconds for the first.

        For a subscribed queue they come from what its consumer has brought; otherwise each is asked for, and the broker
        again and again until the timeout.
        """
        broker = self._live()
        max_messages, timeout = check_count("max_messages", max_messages, 1), check_wait(timeout)
        if self._declarations.is_side_queue(check_queue_name(queue)):
            return self._poison_queue.receive(queue, timeout)
        return broker.receiving.receive(queue, max_messages, timeout, functools.partial(self._accept, broker, queue))

    @bounded
    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take what the consumers of subscribed queues have brought; with one that is not subscribed, ask for each."""
        broker = self._live()
        counts, timeout = check_wanted(wanted), check_wait(timeout)
        several = None
        if not any(map(self._declarations.is_side_queue, counts)):
            several = broker.receiving.several(counts)
        if several is None:
            return super().receive_any(counts, timeout)
        with self._waits().one(several.wake):
            return broker.receiving.receive_any(several, counts, timeout, functools.partial(self._accept, broker))

    def _accept(self, broker: ConnectedBroker, queue: str, arrivals: list[Arrival]) -> list[Delivery]:
        kept = [one for one in arrivals if not (one.redelivered and self._is_renewed(broker, queue, one))]
        return broker.deliveries.hand_out(queue, kept)

    def _is_renewed(self, broker: ConnectedBroker, queue: str, arrival: Arrival) -> bool:
        """Whether a copy took the place of a message that the broker may soon drop."""
        if self._declarations.is_unlimited(queue):
            return False
        if arrival.suspected and broker.consumers.of(queue).works:
            return False  # the worker moves it to the suspects, as a copy too
        return broker.handbacks.renew(queue, arrival)

    @bounded
    def check_task_timeout(self, queue: str, seconds: float, workers: int) -> None:
        """Compare with the server's delivery acknowledgement timeout (rabbitmq.com/docs/consumers)."""
        broker = self._live()
        if self._declarations.lets_hold(queue):
            return
        broker.consumers.of(queue).most = most_in_time(self._options, seconds, workers)

    @bounded
    def subscribe(self, queue: str, prefetch: int) -> None:
        """Start a consumer (rabbitmq.com/docs/consumers, consumer-prefetch); it is renewed whenever it is lost."""
        broker = self._live()
        super().subscribe(queue, prefetch)
        self._refuse_stream(broker, queue)
        consumer = broker.consumers.of(queue)
        fixed = self._options.prefetch is not None
        limit = self._options.prefetch or min(prefetch, 65_535)
        if consumer.prefetch > limit:  # a consumer keeps the prefetch that it began with
            self.unsubscribe(queue)
        consumer.prefetch = limit
        broker.io.post(lambda: consumer.subscribe(limit, fixed))
        self._watch_policies(queue)

    @bounded
    def unsubscribe(self, queue: str) -> None:
        """End the consumer; give back what ``receive`` has not returned, as copies: see ``reject``."""
        broker = self._live()
        consumer = broker.consumers.of(check_queue_name(queue))
        ended = threading.Event()
        consumer.interrupt()
        with consumer.ending:
            broker.io.post(lambda: consumer.unsubscribe(ended.set))
            consumer.interrupt()
            if not ended.wait(_UNSUBSCRIBE_TIMEOUT):
                return  # a silent broker: it takes all of them back with the connection
            left = [arrival for arrival in consumer.take_left() if not arrival.channel.lost]
            broker.handbacks.give_back(queue, left)

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge, with the next of the acknowledgements that the I/O thread sends together.

        When the connection was lost meanwhile, the message is acknowledged as soon as the broker delivers it again to
        this client.
        """
        if type(delivery) is not Delivery or type(delivery.tag) is not Arrival:
            _refuse_strange(delivery)
        try:
            self._live().acknowledgements.acknowledge(delivery)
        except OSError as exc:  # not ``bounded``, which would cost each task a call
            raise exc if isinstance(exc, QBridgeError) else translated(exc) from exc

    @bounded
    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Hand back, retry or dead-letter a message; a copy is confirmed before the original is acknowledged.

        What a worker hands back goes to the end of the queue, as a copy too: the broker would deliver the original as
        one that was delivered before, and nobody could tell it from one that has killed its worker.

        When the connection was lost meanwhile, it is done as soon as the broker delivers the message again to this
        client.
        """
        check_rejection(delivery, failure, queue)
        _refuse_strange(delivery)
        rejections = self._live().rejections
        rejections.reject(delivery, requeue, check_delay(delay, delays.MAX_SECONDS), failure, queue)

    @bounded
    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        """Hand back as ``reject`` does; the copies are on their way together, and so are their confirmations."""
        handbacks = self._live().handbacks
        held = list(deliveries)
        for delivery in held:
            _refuse_strange(delivery)
        handbacks.hand_back(held)

    @bounded
    def flush(self, timeout: float = 5.0) -> bool:
        """Send the settlements and wait until the broker has seen them, and keeps them when the connection is lost.

        A quorum queue that may be behind with many settlements is asked for a message, which goes back as a copy when
        nobody consumes here any longer; that may take five seconds more.
        """
        return self._live().flushing.flush(check_wait(timeout))

    # ------------------------------------------------------------------ dead letters

    @bounded
    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List a dead-letter queue, oldest first.

        The letters are taken without an acknowledgement and given back by closing the channel, which keeps their order.
        While this runs, other consumers do not see them. With ``after`` all letters before it are taken, too; when that
        one is gone, nobody knows where it was.
        """
        broker = self._live()
        check_queue_name(queue)
        behind = check_after(after)
        if check_count("limit", limit) == 0:
            return []
        with self._browsing:
            if behind is None:
                return listing.look(broker, self._declarations, queue, limit)
            return listing.look_behind(broker, self._declarations, queue, limit, behind)

    @bounded
    def replay(
        self,
        dead_letter_queue: str,
        *,
        target: str | None = None,
        limit: int | None = None,
        letters: Iterable[DeadLetter | str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send dead letters back, in order; while this runs, other consumers do not see those of a page.

        To find letters that are named, all before them are taken, and given back at the end.
        """
        broker = self._live()
        check_replay(dead_letter_queue, target, limit)
        chosen = check_choice(letters, limit=limit, body=body, headers=headers, most=self.max_message_bytes)
        with self._browsing:
            if chosen is None:
                return replay.replay(broker, self._declarations, dead_letter_queue, target, limit)
            done = replay.replay_chosen(broker, self._declarations, dead_letter_queue, target, chosen)
        return chosen.finish(done)

    @bounded
    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        """Delete letters that are named; all before them are taken to find them, and given back at the end."""
        broker = self._live()
        check_queue_name(dead_letter_queue)
        chosen = check_letters(letters)
        with self._browsing:
            done = replay.delete(broker, self._declarations, dead_letter_queue, chosen)
        return chosen.finish(done)

    # ------------------------------------------------------------------ what may hurt

    @bounded
    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Look at the server and at queues; policies and dead queues are looked at with ``management_url`` only.

        Permissions are tried out by requests that the broker refuses in any case, which leaves lines in its log.
        """
        broker = self._live()
        uses, seconds = check_uses(queues, timeout)
        from qbridge_rabbitmq.checkup import looks  # for the few who ask: it takes memory

        return looks.look(broker, self._endpoint, self._declarations, self._policies, uses, seconds)

    @bounded
    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Publish letters into a dead-letter queue, with values of headers as AMQP 0-9-1 has them."""
        broker = self._live()
        check_queue_name(dead_letter_queue)
        return importing.import_letters(broker, dead_letter_queue, check_imports(letters))

    # ------------------------------------------------------------------ details

    def _watch_policies(self, queue: str) -> None:
        if self._policies is not None:
            self._policies.watch(queue, self._declarations.dead_letter_queue(queue))

    def _live(self) -> ConnectedBroker:
        broker = self._broker
        if broker is None:
            raise NotConnectedError("the RabbitMQ client is not connected; call connect() first")
        if (pid := broker.connections.pid) != os.getpid():
            raise NotConnectedError(
                f"the RabbitMQ client was connected in process {pid}; call connect() in this process too"
            )
        if not broker.io.alive and not broker.connections.closing:
            raise NotConnectedError("the thread of the RabbitMQ client has ended; call connect() to start another one")
        return broker

    def _refuse_stream(self, broker: ConnectedBroker, queue: str) -> None:
        if self._declarations.knows(queue):
            return  # declaring it has told
        try:
            broker.requests.call(f"queue {queue!r}", self._declarations.refuse_stream(queue))
        except QueueMismatchError:
            raise
        except QBridgeError as exc:  # not connected just now, or not permitted to declare: it may well be a queue
            _log.debug("cannot tell the type of queue %r: %s", queue, exc)


def _refuse_strange(delivery: Delivery) -> None:
    """Refuse what no RabbitMQ client has handed out."""
    if not isinstance(check_delivery(delivery).tag, Arrival):
        raise DeliveryLostError(f"a delivery of {delivery.queue!r} did not come from this client; nothing was settled")
