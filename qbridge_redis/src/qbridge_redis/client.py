"""``RedisClient``: the QBridge contract on Redis Streams."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from qbridge_core.backend import (
    DIAGNOSIS_SECONDS,
    NO_HEADERS,
    Capabilities,
    ConnectionEvents,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    Ended,
    Failure,
    Finding,
    Message,
    NotConnectedError,
    Pulse,
    QBridgeError,
    QueueStats,
    QueueUse,
    Rates,
    check_after,
    check_choice,
    check_count,
    check_declaration,
    check_delay,
    check_delivery,
    check_imports,
    check_letters,
    check_publish_timeout,
    check_queue_name,
    check_rejection,
    check_replay,
    check_sequence,
    check_uses,
    check_wait,
    check_wanted,
    copied,
    futures_for,
    list_queues,
    monotonic,
)
from qbridge_redis.connection.boundary import guarded_method
from qbridge_redis.connection.options import Deployment, Options
from qbridge_redis.holding import Holding
from qbridge_redis.node import Node
from qbridge_redis.nodes import Nodes
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.queues.admin import Look
from qbridge_redis.state.declarations import Declarations
from qbridge_redis.state.in_flight import EntryTag

_DISCONNECT_TIME: Final = 5.0
_LISTING_TIME: Final = 10.0
# Due times are scores: microseconds, exact in a double for the next centuries (redis.io/commands/zadd).
_LONGEST_DELAY: Final = 100 * 365 * 86_400.0


class RedisClient(Holding):
    """A client of Redis (7.0 or later) or Valkey. Thread-safe; not to be used by a child process after a fork.

    A queue is a stream with one consumer group, and its name is the stream's key: anything that can ``XADD`` can
    publish, with the field ``body``. An entry leaves the stream when it is settled. A worker holds no more than
    it asked for; it renews its leases as long as its process lives, and others take over what a dead one held.
    All workers of a queue must have the same ``lease``: one with a shorter one takes over what the others run.

    Args:
        redis_url: ``redis://user:password@host:port/db``; with sentinels
            ``redis+sentinel://user:password@sentinel1:26379,sentinel2:26379/service/db``, where user and password are
            those of the server; for a cluster ``redis+cluster://user:password@node1:6379,node2:6379``. Write
            ``rediss`` in place of ``redis`` for TLS. ``unix:///path/to/redis.sock?db=0`` for a Unix socket.
        options: ``prefix`` ("", put before every queue name), ``group`` ("qbridge"), ``wait_replicas`` (how many
            replicas must have a message before ``publish`` returns: 0, with sentinels and clusters 1), and in
            seconds ``lease`` (30), ``publish_timeout`` (10), ``connect_timeout`` (3), ``socket_timeout`` (3); for the
            sentinels ``sentinel_username`` and ``sentinel_password``; for TLS ``cafile``, ``certfile``, ``keyfile``.
            They may be in the URL's query as well.

    Raises:
        InvalidURLError: the URL cannot be understood.
        UnknownOptionError: an option that does not exist.
        ConfigurationError: an option's value is unusable.
    """

    capabilities = Capabilities(
        delay=True,
        max_delay=_LONGEST_DELAY,
        browse=True,
        crashes=True,
        durable=True,
        shared=True,
        instant_ack=True,
        letters=True,
        diagnoses=True,
        details=frozenset({"dead", "consumers", "oldest_age", "in_rate", "out_rate", "unsettled"}),
        queues=True,
        sent_at=True,
        history=True,
        purge_delayed=True,
        browse_delayed=True,
        pause=True,
        imports=True,
    )

    logs_outages = True
    reads_ahead = False
    system = "redis"

    def __init__(self, redis_url: str = "redis://localhost:6379/0", **options: object) -> None:
        self._options = Options.parse(redis_url, options)
        self.events = ConnectionEvents()
        self.server = self._options.server
        self.max_message_bytes = self._options.max_message_bytes
        self.patience = self._options.patience
        self._keys = Keys(self._options.prefix, cluster=self._options.deployment is Deployment.CLUSTER)
        self._declarations = Declarations(self._keys, self._options.group)
        self._rates = Rates()
        self._nodes: Nodes | None = None
        self._switching = threading.Lock()

    def __repr__(self) -> str:
        prefix = f", prefix={self._options.prefix!r}" if self._options.prefix else ""
        return f"RedisClient('{self._options}'{prefix})"

    # ------------------------------------------------------------------ connection

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``, in the process that connected."""
        nodes = self._nodes
        return nodes is not None and nodes.pid == os.getpid() and not nodes.closing.is_set()

    @guarded_method
    def connect(self) -> None:
        """Connect, look whether the server can keep the guarantees, and start two background threads.

        On a cluster each hash slot that is used later gets a pair of threads and connections of its own.

        Raises:
            BrokerUnavailableError: the server cannot be reached within ``connect_timeout``.
            AuthenticationError: it refused the credentials.
            ConfigurationError: it is too old, evicts keys (``maxmemory-policy allkeys-*``), or is another kind of
                server than the URL says.
        """
        if self._nodes is not None and self._nodes.pid != os.getpid():
            self._switching = threading.Lock()  # the parent's may be held by a thread that does not exist here
            self._nodes = None
        with self._switching:
            if self._nodes is None:
                nodes = Nodes(self._options, self._keys, self._declarations, self.events)
                nodes.start()
                self._nodes = nodes

    @guarded_method
    def disconnect(self) -> None:
        """Send acknowledgements, hand back what is unsettled, close.

        Takes 5 seconds at most, and hardly more than one when the server does not answer.
        """
        if self._nodes is not None and self._nodes.pid != os.getpid():
            return  # the connections and threads are the parent's
        with self._switching:
            nodes = self._nodes
            if nodes is None:
                return
            try:
                nodes.stop(_DISCONNECT_TIME)
            finally:
                self._nodes = None

    def pulses(self) -> list[Pulse]:
        """Of the background threads."""
        nodes = self._nodes
        return [] if nodes is None or nodes.pid != os.getpid() else nodes.pulses()

    # ------------------------------------------------------------------ queues

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

    # ------------------------------------------------------------------ publishing

    @guarded_method
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
        """Publish one message; on return it is in the stream, as durable as the server and ``wait_replicas`` make it.

        ``PublishUnconfirmedError`` also says that the master has it, but not enough replicas have.
        """
        node = self._running(queue)
        delay = check_delay(delay, _LONGEST_DELAY)
        timeout = check_publish_timeout(timeout)
        message = Message(body, NO_HEADERS if headers is None else headers, message_id)
        node.publisher.publish(queue, message, delay, timeout)
        if delay > 0:
            node.delayed(queue)

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages; those that are under way are sent in pipelines, with those of threads."""
        given = check_sequence(messages)
        return futures_for(
            len(given), lambda ended: self._publish_then(queue, given, ended, delay=delay, timeout=timeout)
        )

    def _publish_then(
        self, queue: str, messages: Sequence[Message], ended: Ended, *, delay: float = 0.0, timeout: float | None = None
    ) -> None:
        try:
            self._hand_over(queue, messages, ended, delay, timeout)
        except QBridgeError as exc:
            for position in range(len(messages)):
                ended(position, copied(exc))

    @guarded_method
    def _hand_over(
        self, queue: str, messages: Sequence[Message], ended: Ended, delay: float, timeout: float | None
    ) -> None:
        node, delay = self._running(queue), check_delay(delay, _LONGEST_DELAY)
        node.publish_then(queue, messages, delay, check_publish_timeout(timeout), ended)

    @guarded_method
    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish in pipelines; ``timeout`` is for each of them."""
        check_queue_name(queue)  # before the messages: they may be in the wrong order
        self._running(queue).publisher.publish_many(queue, messages, check_publish_timeout(timeout))

    # ------------------------------------------------------------------ consuming

    @guarded_method
    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages``, and hold no more.

        A subscribed queue that is busy is asked in halves: one is returned, and the other is on its way by then. When
        nobody comes for it, it goes back after a second.
        """
        node = self._running(queue)
        batch = node.receive(queue, check_count("max_messages", max_messages, 1), check_wait(timeout))
        if node.context.closing.is_set():
            raise NotConnectedError("the client was disconnected")  # what came is handed back by disconnect
        return batch

    @guarded_method
    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take what comes to any of the queues, with one blocking read for all of them.

        On a cluster, and without a timeout, each is asked in its turn.
        """
        nodes = self._connected()
        counts, timeout = check_wanted(wanted), check_wait(timeout)
        node = nodes.single()
        if node is None or timeout <= 0:
            return super().receive_any(counts, timeout)
        news = threading.Event()
        with self._waits().one(news.set) as woken:
            batch = node.several.receive(counts, timeout, news, woken)
        if node.context.closing.is_set():
            raise NotConnectedError("the client was disconnected")  # what came is handed back by disconnect
        return batch

    @guarded_method
    def subscribe(self, queue: str, prefetch: int) -> None:
        """Have the queue read with a connection of its own, or, when it is idle and there are many, with the others.

        What comes while nobody receives goes back after a second.
        """
        super().subscribe(queue, prefetch)
        self._running(queue).subscribe(queue)

    @guarded_method
    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked ``receive``, and give back what it has not returned."""
        nodes = self._nodes
        if nodes is not None and self.connected:
            nodes.node(queue).unsubscribe(queue)

    def ack(self, delivery: Delivery) -> None:
        """Note the acknowledgement; it is sent with the next read or a few milliseconds later.

        A delivery whose lease ran out is acknowledged too: its work is done, whoever holds it now.
        """
        if type(delivery) is not Delivery:
            check_delivery(delivery)
        node = self._connected().node(delivery.queue)
        tag = delivery.tag
        if type(tag) is not EntryTag or not node.knows(tag):
            raise _not_ours(delivery)
        if tag.in_flight.ack(tag):
            node.acknowledgements.wake()

    @guarded_method
    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Hand back, retry or dead-letter the message in one atomic step on the server.

        What is handed back goes to the end of the queue, as a retry does. Where no copy can be written, the message
        itself goes back, to be delivered again at once, or after a failure when about half a lease is over.
        """
        check_rejection(delivery, failure, queue)
        node = self._running(delivery.queue)
        delay = check_delay(delay, _LONGEST_DELAY)
        if type(delivery.tag) is not EntryTag or not node.knows(delivery.tag):
            raise _not_ours(delivery)
        if not requeue:
            node.rejections.dead_letter(delivery, failure)
        elif failure is None:
            node.rejections.hand_back(delivery, delay)
        else:
            node.rejections.retry(delivery, failure, delay, queue)
        if requeue and delay > 0:
            self._running(queue or delivery.queue).delayed(queue or delivery.queue)

    @guarded_method
    def flush(self, timeout: float = 5.0) -> bool:
        """Send the acknowledgements now; return True when none is left."""
        timeout = check_wait(timeout)
        nodes = self._nodes
        if nodes is None or not self.connected:
            return True
        deadline = monotonic() + timeout
        done = True
        for node in nodes.nodes():
            done = node.acknowledgements.flush(max(0.0, deadline - monotonic())) and done
        return done

    # ------------------------------------------------------------------ dead letters

    @guarded_method
    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List a dead-letter queue, oldest first; an ``after`` that is gone still has its place."""
        letters = self._running(queue).dead_letters
        return letters.look(queue, check_count("limit", limit), check_after(after))

    @guarded_method
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
        """Send dead letters back in their order, each page in one atomic step. Letters that a consumer holds stay.

        One that cannot be sent ends it; those behind it keep their places.

        On a cluster, if both queues have not one hash slot: each one copied, confirmed, then deleted.

        Raises:
            ConfigurationError: the arguments make no sense.
            LettersGoneError: some of those that were named are not there, or a consumer holds them.
            UnroutableError: a letter does not say where it came from, or that queue is gone; it stays where it is.
            PublishUnconfirmedError: the reply was lost; calling again does not send a letter twice
                (but for a cluster without common hash slots).
        """
        check_replay(dead_letter_queue, target, limit)
        chosen = check_choice(letters, limit=limit, body=body, headers=headers, most=self.max_message_bytes)
        node = self._running(dead_letter_queue)
        if chosen is None:
            return node.dead_letters.replay(dead_letter_queue, target, limit)
        if (edit := chosen.edit) is not None:
            node.context.limits.check(edit.body or b"", edit.headers or {})
        return chosen.finish(node.dead_letters.replay_chosen(dead_letter_queue, target, chosen))

    @guarded_method
    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        """Delete letters that are named, a hundred in one atomic step; those that a consumer holds stay."""
        node = self._running(dead_letter_queue)
        chosen = check_letters(letters)
        return chosen.finish(node.dead_letters.delete(dead_letter_queue, chosen))

    # ------------------------------------------------------------------ what may hurt

    @guarded_method
    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Look at the server, on a cluster at all masters, and at queues.

        Permissions are tried out by commands that find nothing to change.
        """
        nodes = self._connected()
        uses, seconds = check_uses(queues, timeout)
        from qbridge_redis.checkup import looks  # for the few who ask: it takes memory

        return looks.look(nodes, self._options, uses, seconds)

    @guarded_method
    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Put letters into a dead-letter queue; of header values only bytes stay what they are, beside texts."""
        check_queue_name(dead_letter_queue)
        node = self._running(dead_letter_queue)
        contents = [fields.imported(letter) for letter in check_imports(letters)]
        node.publisher.publish_letters(dead_letter_queue, contents)
        return len(contents)

    # ------------------------------------------------------------------ helpers

    def _connected(self) -> Nodes:
        nodes = self._nodes
        if nodes is None or nodes.closing.is_set():
            raise NotConnectedError("the Redis client is not connected; call connect() first")
        if nodes.pid != os.getpid():
            raise NotConnectedError(
                f"the Redis client was connected in process {nodes.pid}; call connect() in this process too"
            )
        return nodes

    def _running(self, queue: str) -> Node:
        return self._connected().node(queue)


def _not_ours(delivery: Delivery) -> DeliveryLostError:
    return DeliveryLostError(f"a delivery of {delivery.queue!r} belongs to another connection; it is delivered again")
