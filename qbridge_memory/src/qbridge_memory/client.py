"""``MemoryClient``: the QBridge contract on a broker inside the process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.backend import (
    DIAGNOSIS_SECONDS,
    DUE_AT,
    NO_HEADERS,
    BrokerURL,
    Capabilities,
    Check,
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    Failure,
    Finding,
    InvalidURLError,
    Message,
    NotConnectedError,
    QueueStats,
    QueueUse,
    Rates,
    check_content,
    check_count,
    check_declaration,
    check_delay,
    check_delivery,
    check_message,
    check_messages,
    check_publish_timeout,
    check_queue_name,
    check_rejection,
    check_sequence,
    check_uses,
    check_wait,
    check_wanted,
    default_dead_letter_queue,
    examine,
    list_queues,
    option_count,
    promised,
    read_options,
    rejection,
    settled,
)
from qbridge_memory.holding import Holding
from qbridge_memory.letters import Letters
from qbridge_memory.named import broker_named
from qbridge_memory.stored import Event, Look, Outlook, StoredMessage

if TYPE_CHECKING:
    from concurrent.futures import Future

_SETTLED: Final = None
_ANY_NAME: Final = "any"


def _checked_journal(journal: object) -> Callable[[Event], object]:
    if not callable(journal):
        raise ConfigurationError(f"journal must be callable with an event, not {type(journal).__name__}")
    return journal


class MemoryClient(Letters, Holding):
    """A client of the in-memory broker. Thread-safe.

    ``memory://name`` is one broker for all clients of the process that use the name; ``memory://`` is a private broker
    of this client, which keeps its messages over ``disconnect`` and ``connect``. Nothing is shared with other
    processes or survives this one.

    Args:
        url: ``memory://`` or ``memory://name``.
        options: ``max_message_bytes``, the longest body that ``publish`` takes (16 MiB). And for tests ``clock``, what
            delays and times go by: that of the broker, if that exists, or the system's when missing; and ``journal``,
            called with each :class:`~qbridge_memory.stored.Event` of the broker from now on, as told there.

    Raises:
        InvalidURLError: the URL has more than a name.
        UnknownOptionError: another option was given.
        ConfigurationError: the option is no whole number of at least 1, or the broker goes by another clock.
    """

    system = "memory"
    capabilities = Capabilities(
        delay=True,
        browse=True,
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
    patience = 0.0
    reads_ahead = False
    waits_for_any = True

    def __init__(self, url: str = "memory://", **options: object) -> None:
        clock, journal = options.pop("clock", None), options.pop("journal", None)
        parsed = BrokerURL.parse(url)
        if parsed.scheme != "memory" or parsed.path or parsed.port is not None or parsed.username is not None:
            raise InvalidURLError(f"{parsed} is not of the form memory:// or memory://name")
        given = read_options(parsed, options, {"max_message_bytes": option_count})
        self.max_message_bytes = given.get("max_message_bytes", self.max_message_bytes)
        self._name = parsed.host
        self._broker = broker_named(parsed.host, clock)
        if journal is not None:
            self._broker.journal = _checked_journal(journal)
        self.clock = self._broker.clock
        self._connected = False
        self._pid = os.getpid()
        self._dead_letter_queues: dict[str, str] = {}
        self._declared: set[str] = set()
        # So that a receive can see that one happened while it waited, whatever has happened since.
        self._disconnects = 0
        self._unsubscribes: Counter[str] = Counter()
        self._rates = Rates()

    def __repr__(self) -> str:
        return f"MemoryClient('memory://{self._name}')" if self._name else super().__repr__()

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``, in the process that connected."""
        return self._connected and self._pid == os.getpid()

    def connect(self) -> None:
        """Connect; never fails. A forked process gets an empty broker: what the other one has, runs there."""
        if self._pid != os.getpid():
            self._broker = broker_named(self._name, self.clock)
            for queue in {*self._declared, *self._dead_letter_queues.values()}:
                self._broker.declare(queue)
            self._pid = os.getpid()
        self._connected = True

    def disconnect(self) -> None:
        """Give unsettled deliveries back to their queues."""
        self._connected = False
        self._disconnects += 1
        if self._pid == os.getpid():  # a child's copy of the broker may be locked for ever, and matters to nobody
            self._broker.wake()
            self._broker.unsubscribe(self)
            self._broker.give_back_all(self)

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create the queue and its dead-letter queue where missing."""
        self._require_connection(queue)
        check_declaration(queue, dead_letter_queue)
        self._broker.declare(queue)
        self._declared.add(queue)
        if dead_letter_queue is not None:
            self._broker.declare(dead_letter_queue)
            self._dead_letter_queues[queue] = dead_letter_queue

    def stats(self, queue: str) -> QueueStats:
        """Count the messages of a queue, those of all clients; consumers are clients that have subscribed."""
        return self._look(queue).stats

    def count(self, queue: str) -> QueueStats:
        """Count the messages of a queue, those of all clients."""
        self._require_connection(queue)
        return self._broker.count(queue)

    def outlook(self, queues: Iterable[str]) -> Outlook:
        """What there is to do in these queues, all looked at at one moment, and when there will be more."""
        return self._broker.outlook(queues)

    def describe(self, queue: str) -> QueueStats:
        """Tell what ``stats`` tells, and what came and went since the last time."""
        stats, added, held = self._look(queue)
        in_rate, out_rate = self._rates.of(queue, added, held)
        return replace(stats, in_rate=in_rate, out_rate=out_rate, unsettled=stats.in_flight)

    def _look(self, queue: str) -> Look:
        self._require_connection(queue)
        look = self._broker.look(queue)
        dead = self._dead_letter_queues.get(queue) or default_dead_letter_queue(queue)
        is_known = queue in self._declared or self._broker.has(dead)
        letters = self._broker.count(dead).ready if is_known else None
        return look._replace(stats=replace(look.stats, dead=letters))

    def queues(self) -> dict[str, str | None]:
        """List the queues of the broker, those of all clients; which one has whose letters this client must know."""
        self._require_connection("any")
        return list_queues(self._broker.names(), self._dead_letter_queues)

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
        """Publish one message; it is in the queue on return."""
        check_publish_timeout(timeout)
        self._put(queue, [Message(body, NO_HEADERS if headers is None else headers, message_id)], check_delay(delay))

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages at once, one by one."""
        return [
            promised(lambda message=each: self._published(queue, message, delay, timeout))  # type: ignore[misc]
            for each in check_sequence(messages)
        ]

    def _published(self, queue: str, message: Message, delay: float, timeout: float | None) -> Future[None]:
        check_publish_timeout(timeout)
        self._put(queue, [message], check_delay(delay))
        return settled()

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish all messages or none."""
        check_publish_timeout(timeout)
        self._put(queue, messages, 0.0)

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages``; wait up to ``timeout`` seconds for the first."""
        disconnects = self._disconnects
        self._require_connection(queue)
        unsubscribes = self._unsubscribes[queue]

        def cancelled() -> bool:
            return self._disconnects != disconnects or self._unsubscribes[queue] != unsubscribes

        count, seconds = check_count("max_messages", max_messages, 1), check_wait(timeout)
        taken = self._broker.take(queue, count, seconds, self, cancelled)
        return [_delivery(queue, token, message) for token, message in taken]

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take what is ready in any of the queues; wait for all of them at once."""
        counts, seconds = check_wanted(wanted), check_wait(timeout)
        disconnects = self._disconnects
        for queue in counts or ("any",):
            self._require_connection(queue)
        unsubscribes = self._unsubscribes_of(counts)

        with self._waits().one(self._broker.wake) as woken:

            def cancelled() -> bool:
                is_over = woken.is_set() or self._disconnects != disconnects
                return is_over or self._unsubscribes_of(counts) != unsubscribes

            taken = self._broker.take_any(counts, seconds, self, cancelled)
        return [_delivery(queue, token, message) for queue, token, message in taken]

    def _unsubscribes_of(self, queues: Iterable[str]) -> int:
        return sum(map(self._unsubscribes.__getitem__, queues))

    def subscribe(self, queue: str, prefetch: int) -> None:
        """Be counted as a consumer."""
        super().subscribe(queue, prefetch)
        self._require_connection(queue)
        self._broker.subscribe(queue, self)

    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked ``receive``; nothing is prefetched, so there is nothing to give back."""
        self._unsubscribes[check_queue_name(queue)] += 1
        self._broker.unsubscribe(self, queue)
        self._broker.wake(queue)

    def ack(self, delivery: Delivery) -> None:
        """Remove the message from the broker."""
        if type(delivery) is not Delivery:
            check_delivery(delivery)
        if self._still_open(delivery):
            self._finish(delivery, self._broker.remove(delivery.queue, delivery.tag))

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Hand back, retry or dead-letter the message in one atomic step."""
        check_rejection(delivery, failure, queue)
        delay = check_delay(delay)
        if not self._still_open(delivery):
            return
        if not requeue:
            failure = failure or rejection(delivery, self.clock)
            target = self._dead_letter_queues.get(delivery.queue, default_dead_letter_queue(delivery.queue))
            done = self._move(delivery, target, failure.dead_letter_headers(), failure.task_id, 0.0)
        elif failure is not None:
            meta = {**failure.retry_headers(), DUE_AT: self._due(delay)}
            done = self._move(delivery, queue or delivery.queue, meta, failure.task_id, delay)
        elif delay > 0:
            done = self._move(delivery, delivery.queue, {**delivery.meta, DUE_AT: self._due(delay)}, "", delay)
        else:
            done = self._broker.give_back(delivery.queue, delivery.tag)
        self._finish(delivery, done)

    def _put(self, queue: str, messages: Iterable[Message], delay: float) -> None:
        self._require_connection(queue)
        most, now = self.max_message_bytes, round(self.clock.wall() * 1000)
        meta = {DUE_AT: self._due(delay)} if delay else NO_HEADERS
        stored = [_stored(check_message(message), most, meta, now) for message in check_messages(messages)]
        self._broker.put(queue, stored, delay)

    def _due(self, delay: float) -> int:
        return round((self.clock.wall() + delay) * 1000)

    def _move(self, delivery: Delivery, target: str, meta: Mapping[str, Any], task_id: str, delay: float) -> bool:
        return self._broker.move(delivery.queue, delivery.tag, target, meta, task_id or None, delay)

    def _still_open(self, delivery: Delivery) -> bool:
        self._require_connection(delivery.queue)
        return delivery.tag is not _SETTLED

    def _finish(self, delivery: Delivery, done: bool) -> None:
        if not done:
            raise DeliveryLostError(
                f"a delivery of {delivery.queue!r} went back to the queue when its client disconnected"
            )
        delivery.tag = _SETTLED

    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Say that nothing outlives the process, and which queues there are not."""
        uses, seconds = check_uses(queues, timeout)
        self._require_connection(_ANY_NAME)
        looks = [(Check("server"), _in_memory), *((Check("queue", use.queue), self._look_at) for use in uses)]
        return examine(looks, seconds)

    def _look_at(self, check: Check) -> list[Finding]:
        if self._broker.has(check.queue):
            return [check.ok(f"there is a queue {check.queue!r}")]
        return [check.warning(f"there is no queue {check.queue!r}: what is sent to it is refused", "declare it")]

    def _require_connection(self, queue: str) -> None:
        """Refuse calls without a connection, with a bad name, or in a child process, which has only a copy."""
        if not self._connected:
            raise NotConnectedError("the memory client is not connected; call connect() first")
        if self._pid != os.getpid():
            raise NotConnectedError(
                "the memory client was connected before a fork; the broker lives in the parent process only"
            )
        check_queue_name(queue)


def _in_memory(check: Check) -> list[Finding]:
    return [check.ok("the broker is in the memory of this process, and ends with it: for tests and trials")]


def _delivery(queue: str, token: int, message: StoredMessage) -> Delivery:
    return Delivery.from_headers(
        message.body,
        queue,
        message.headers,
        message.meta,
        message_id=message.message_id,
        tag=token,
        redelivered=message.redelivered,
        sent=message.sent,
    )


def _stored(message: Message, most: int, meta: Mapping[str, Any], now: int) -> StoredMessage:
    body, headers, message_id = check_content(message, most)
    kept = MappingProxyType(dict(headers)) if headers else NO_HEADERS  # the producer may go on to change its own
    return StoredMessage(body, kept, message_id, meta, sent=now)
