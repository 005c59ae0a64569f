"""``KombuClient``: the QBridge contract on the transports of kombu."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from qbridge_core.backend import (
    DIAGNOSIS_SECONDS,
    HISTORY,
    NO_HEADERS,
    BrokerURL,
    Capabilities,
    ConfigurationError,
    ConnectionEvents,
    DeclaredQueues,
    Delivery,
    DeliveryLostError,
    Failure,
    Finding,
    InvalidURLError,
    Message,
    NotConnectedError,
    QueueStats,
    QueueUse,
    UnsupportedError,
    callers_own,
    check_count,
    check_declaration,
    check_delay,
    check_delivery,
    check_publish_timeout,
    check_queue_name,
    check_rejection,
    check_uses,
    check_wait,
    monotonic,
    read_options,
    rejection,
)
from qbridge_kombu.connected import Connected
from qbridge_kombu.connection.boundary import guarded_method
from qbridge_kombu.holding import Holding
from qbridge_kombu.letters import Letters
from qbridge_kombu.options import HINTS, READERS, Settings
from qbridge_kombu.state.in_flight import Tag
from qbridge_kombu.transports import SCHEMES, transport_class
from qbridge_kombu.transports.base import Transport

_DISCONNECT_TIME: Final = 5.0


class KombuClient(Letters, Holding):
    """A client of one of the brokers that kombu reaches. Thread-safe; not to be used by a child process after a fork.

    What it can promise depends on the broker: see ``capabilities``, and docs/kombu.md. A transport that takes a message
    from its broker when it is received loses what a worker holds when that dies, and is refused without
    ``allow_loss=True``.

    Args:
        url: ``kombu+amqp://user:password@host:port/vhost``, ``kombu+filesystem:///folder``,
            ``kombu+sqlalchemy://user:password@host/database?dialect=postgresql``, ``kombu+memory://``,
            ``kombu+sqs://key:secret@?region=eu-west-1``, or for any other
            transport ``kombu+any://user:password@host:port/path?transport=package.module:Class``.
        options: ``allow_loss`` (false), ``max_message_bytes`` (16 MiB), and in seconds ``connect_timeout`` (5),
            ``request_timeout`` (5), ``publish_timeout`` (10), ``poll_interval`` (0.2); and those of the transport,
            which docs/kombu.md lists. They may be in the URL's query as well.

    Raises:
        InvalidURLError: the URL cannot be understood.
        UnknownOptionError: an option that does not exist.
        ConfigurationError: an option's value is unusable, the transport would lose messages and ``allow_loss`` is not
            set, or what it needs is not installed.
    """

    logs_outages = True

    def __init__(self, url: str, **options: object) -> None:
        parsed = BrokerURL.parse(url)
        kind = _kind(parsed)
        given = read_options(parsed, options, {**READERS, **kind.options}, {**HINTS, **kind.hints})
        self._settings = Settings.of(given)
        self._transport: Transport = kind(parsed, {**_DEFAULTS, **given})
        if not self._transport.keeps_unacknowledged and not self._settings.allow_loss:
            raise ConfigurationError(
                f"{parsed.scheme}:// takes a message from its broker when a worker receives it, so what a worker holds "
                "is lost when it is killed: give allow_loss=True to accept that, or use a broker that keeps it (see "
                "docs/kombu.md)"
            )
        kind_of_broker = parsed.scheme.partition("+")[2]
        self.system = _SYSTEMS.get(kind_of_broker, kind_of_broker)
        self.server = (parsed.host, parsed.port) if parsed.host and len(parsed.hosts) == 1 else None
        self.max_message_bytes = self._settings.max_message_bytes
        self.patience = self._settings.publish_timeout + self._settings.connect_timeout + self._settings.request_timeout
        self._capabilities = replace(self._transport.capabilities, diagnoses=True)
        self.events = ConnectionEvents()
        self._declarations = DeclaredQueues()
        self._parts: Connected | None = None
        self._switching = threading.Lock()

    def __repr__(self) -> str:
        return f"KombuClient('{self._transport.url}')"

    @property
    def capabilities(self) -> Capabilities:
        """What the transport can do."""
        return self._capabilities

    # ------------------------------------------------------------------ connection

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``, in the process that connected."""
        parts = self._parts
        return parts is not None and parts.pid == os.getpid() and not parts.context.closing.is_set()

    @guarded_method
    def connect(self) -> None:
        """Connect, with a thread for each connection.

        Raises:
            BrokerUnavailableError: the broker cannot be reached within ``connect_timeout``.
            AuthenticationError: it refused the credentials.
            ConfigurationError: what the transport needs is not installed.
        """
        if self._parts is not None and self._parts.pid != os.getpid():
            self._switching = threading.Lock()  # the parent's may be held by a thread that does not exist here
            self._parts = None
        with self._switching:
            if self._parts is None:
                parts = Connected(self._transport, self._settings, self._declarations, self.events)
                parts.start()
                self._parts = parts

    @guarded_method
    def disconnect(self) -> None:
        """Give back what is unsettled, and close. Takes about 5 seconds at most."""
        if self._parts is not None and self._parts.pid != os.getpid():
            return  # the connections and threads are the parent's
        with self._switching:
            parts = self._parts
            if parts is None:
                return
            try:
                parts.stop(_DISCONNECT_TIME)
            finally:
                self._parts = None

    # ------------------------------------------------------------------ queues

    @guarded_method
    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create both queues where they are missing."""
        check_declaration(queue, dead_letter_queue)
        self._connected().declare(queue, dead_letter_queue)
        self._declarations.remember(queue, dead_letter_queue)

    @guarded_method
    def stats(self, queue: str) -> QueueStats:
        """Count the messages and letters; a folder knows how old its first file is.

        Those in flight are this client's own, unless the broker counts all.
        """
        check_queue_name(queue)
        return self._connected().looking.stats(queue)

    @guarded_method
    def count(self, queue: str) -> QueueStats:
        """Count the messages."""
        check_queue_name(queue)
        return self._connected().looking.count(queue)

    @guarded_method
    def describe(self, queue: str) -> QueueStats:
        """Tell what ``stats`` tells, and what all consumers hold where the broker knows."""
        check_queue_name(queue)
        return self._connected().looking.describe(queue)

    @guarded_method
    def queues(self) -> dict[str, str | None]:
        """List those that this client has declared; Redis and a folder know all of the bridge's, a database all."""
        return self._connected().looking.queues()

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
        """Publish one message; the broker has it on return."""
        check_queue_name(queue)
        seconds = self._delay(delay)
        message = Message(body, NO_HEADERS if headers is None else headers, message_id)
        self._connected().publisher.publish(queue, [message], seconds, check_publish_timeout(timeout))

    @guarded_method
    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish in batches, each confirmed."""
        check_queue_name(queue)
        given = callers_own(messages) if isinstance(messages, Iterable) else messages
        self._connected().publisher.publish(queue, given, 0.0, check_publish_timeout(timeout))

    # ------------------------------------------------------------------ consuming

    @guarded_method
    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages``; wait up to ``timeout`` seconds for the first."""
        check_queue_name(queue)
        count, seconds = check_count("max_messages", max_messages, 1), check_wait(timeout)
        return self._connected().receiving.receive(queue, count, seconds)

    @guarded_method
    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked ``receive``, and give back what it has not returned."""
        check_queue_name(queue)
        parts = self._connected()
        parts.settling.hand_back_all(parts.receiving.cancel(queue), monotonic() + self._settings.request_timeout)

    @guarded_method
    def check_task_timeout(self, queue: str, seconds: float, workers: int) -> None:  # noqa: ARG002 - the contract's
        """Refuse runs that take longer than the broker lets a worker hold a message."""
        check_queue_name(queue)
        self._connected().leases.check_task_timeout(queue, seconds)

    @guarded_method
    def ack(self, delivery: Delivery) -> None:
        """Remove the message from the broker."""
        check_delivery(delivery)
        parts = self._connected()
        parts.settling.acknowledge(_own(parts, delivery))

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
        """Hand back, retry or dead-letter: the copy is confirmed before the original is removed."""
        check_rejection(delivery, failure, queue)
        parts = self._connected()
        tag, settling = _own(parts, delivery), parts.settling
        if not requeue:
            settling.dead_letter(tag, failure or rejection(delivery))
        elif failure is not None:
            settling.retry(tag, failure, queue or delivery.queue, self._delay(delay))
        else:
            settling.hand_back(tag, self._delay(delay), delivery.meta.get(HISTORY))

    @guarded_method
    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the broker has carried out the acknowledgements."""
        seconds = check_wait(timeout)
        return self._connected().settling.flush(seconds)

    # ------------------------------------------------------------------ what may hurt

    @guarded_method
    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Look at what the transport can tell of its broker and of queues."""
        parts = self._connected()
        uses, seconds = check_uses(queues, timeout)
        return parts.checkup.look(uses, seconds)

    def _delay(self, delay: object) -> float:
        seconds = check_delay(delay, self.capabilities.max_delay)
        if seconds > 0 and not self.capabilities.delay:
            raise UnsupportedError(f"{self._transport.url.scheme}:// cannot hold a message back")
        return seconds

    def _connected(self) -> Connected:
        parts = self._parts
        if parts is None or parts.context.closing.is_set():
            raise NotConnectedError("the client is not connected; call connect() first")
        if parts.pid != os.getpid():
            raise NotConnectedError("the client was connected before a fork; connect a new one in this process")
        return parts


_SYSTEMS: Final = {"amqp": "rabbitmq", "amqps": "rabbitmq", "rediss": "redis", "sqs": "aws_sqs"}
_DEFAULTS: Final = {name: getattr(Settings(), name) for name in READERS}


def _kind(url: BrokerURL) -> type[Transport]:
    if url.scheme not in SCHEMES:
        raise InvalidURLError(f"{url} is no URL of the kombu backend, which has {', '.join(sorted(SCHEMES))}")
    kind: type[Transport] = transport_class(url.scheme)
    return kind


def _own(parts: Connected, delivery: Delivery) -> Tag:
    tag = delivery.tag
    if not isinstance(tag, Tag):
        raise ConfigurationError("ack and reject take a Delivery that receive() of this client returned")
    if tag.in_flight is not parts.context.in_flight:
        raise DeliveryLostError(f"a delivery of {delivery.queue!r} went back to the broker with its connection")
    return tag
