"""What travels between a broker and a worker: messages that are published, and deliveries of them.

The body and the producer's own headers are never changed; what QBridge has to say is in headers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.checks import (
    DEFAULT_MAX_MESSAGE_BYTES,
    check_body,
    check_headers,
    check_message_id,
    check_queue_name,
    check_task_id,
)
from qbridge_core.contract.encoding import Encoder, encoded
from qbridge_core.contract.envelope import write_task
from qbridge_core.contract.headers import (
    ATTEMPTS,
    CONTENT_TYPE_HEADER,
    CRASHES,
    DUE_AT,
    FIRST_FAILED_AT,
    HISTORY,
    NO_HEADERS,
    REPLAYS,
    SENT_AT,
    TASK_ID,
    instant,
    meta_instant,
    meta_int,
    meta_text,
    meta_time,
)
from qbridge_core.contract.names import worker_identity
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock
from qbridge_core.runtime.randomness import random_bytes

if TYPE_CHECKING:  # below they are imported where they are used: whoever works has them, who only sends needs neither
    from qbridge_core.contract.dead_letter import Failure, Noted
    from qbridge_core.contract.history import Attempt

_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_KEPT: Final = (TASK_ID, REPLAYS, HISTORY, SENT_AT)
"""What stays with a message that begins anew."""


def _no_headers() -> Mapping[str, Any]:
    return NO_HEADERS


def new_id() -> str:
    """A random UUID (RFC 9562, version 4) as text, in a fifth of the time that ``uuid.uuid4`` takes."""
    digits = random_bytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish.

    Attributes:
        body: the exact bytes.
        headers: the producer's own headers, strings (names must not start with ``x-qbridge-``).
        message_id: unique for each published message, 1 to 255 bytes in UTF-8; ``None`` leaves it out.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=_no_headers)
    message_id: str | None = None

    @classmethod
    def for_task(
        cls,
        payload: object,
        *,
        task_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        version: int = 1,
        expires_at: float | None = None,
        encoder: Encoder | None = None,
    ) -> tuple[Message, str]:
        """Build the JSON envelope of a task; return the message and its task id.

        ``name`` says which task it is, and ``version`` what its payload is made of, for an :class:`~qbridge_core.App`.
        What has not begun at ``expires_at`` (Unix time in seconds) is not run. ``encoder`` makes what JSON has of what
        it does not have.

        The message id is fresh for each call even when a task id is used twice, so that two messages are
        never taken for one.

        Raises:
            PayloadError: the payload cannot be written as JSON, or the task id is not a usable string.
        """
        message_id = new_id()
        task_id = message_id if task_id is None else check_task_id(task_id)
        if encoder is not None:
            payload = encoded(payload, encoder, task_id)
        body = write_task(payload, task_id, name, version, expires_at)
        return cls(body, check_headers(headers), message_id), task_id


def check_message(message: object) -> Message:
    """Return what a caller gave as a message.

    Raises:
        ConfigurationError: it is something else.
    """
    if not isinstance(message, Message):
        raise ConfigurationError(
            f"publish_many takes Message objects, not {type(message).__name__}; use send_many() for payloads"
        )
    return message


def check_content(
    message: Message, most: int = DEFAULT_MAX_MESSAGE_BYTES
) -> tuple[bytes, Mapping[str, str], str | None]:
    """Return the body, the headers and the id of a message that a caller publishes; the body as plain ``bytes``.

    Args:
        message: what a caller gave, as a :class:`Message`.
        most: the client's ``max_message_bytes``.

    Raises:
        ConfigurationError: the body is no bytes.
        MessageTooLargeError: it is longer than that.
        PayloadError: the headers or the id cannot be kept on every broker.
    """
    headers, message_id = message.headers, message.message_id
    return (
        check_body(message.body, most),
        headers if headers is NO_HEADERS else check_headers(headers),
        None if message_id is None else check_message_id(message_id),
    )


def check_messages(messages: Iterable[Message]) -> Iterable[Message]:
    """Return what a caller gave as messages.

    Raises:
        ConfigurationError: there is nothing to go through.
    """
    if not isinstance(messages, Iterable):
        raise ConfigurationError(
            f"publish_many takes Message objects to go through, not {type(messages).__name__}; use publish() for one"
        )
    return messages


def check_sequence(messages: Sequence[Message]) -> Sequence[Message]:
    """Return what a caller gave as messages that are counted.

    Raises:
        ConfigurationError: it is no sequence.
    """
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise ConfigurationError(
            f"publish_soon takes a list of Message objects, not {type(messages).__name__}; write [message] for one"
        )
    return messages


def check_delivery(delivery: object) -> Delivery:
    """Return what a caller settles as a delivery.

    Raises:
        ConfigurationError: it is something else.
    """
    if not isinstance(delivery, Delivery):
        raise ConfigurationError(
            f"ack and reject take a Delivery that receive() returned, not {type(delivery).__name__}"
        )
    return delivery


def check_rejection(delivery: object, failure: object, queue: object) -> None:
    """Refuse arguments of ``reject`` that make no sense, before anything is settled.

    Raises:
        ConfigurationError: one of them is no delivery, no failure, or no name of a queue.
    """
    from qbridge_core.contract.dead_letter import Failure

    check_delivery(delivery)
    if failure is not None and not isinstance(failure, Failure):
        raise ConfigurationError(f"failure must be a Failure or None, not {type(failure).__name__}")
    if queue is not None:
        check_queue_name(queue)


@dataclass(slots=True, eq=False)
class Delivery:
    """One message handed out by ``QueueClient.receive``, to be settled once by ``ack`` or ``reject``.

    Attributes:
        body: the producer's bytes.
        queue: the queue it was received from.
        headers: the producer's own headers.
        message_id: the publisher's unique id, when there is one.
        attempts: how many runs of it have failed before.
        crashes: how many processes died while they held it, as far as the broker shows. It may have run beside the
            task that killed them, so this is a suspicion; a backend reports only what is no mere loss of a connection.
        suspected: True when a process may have died with it, which ``crashes`` does not count because the broker does
            not tell. It is run apart then; a death of that run is counted, and this one with it.
        first_failed_at: when it first failed (Unix time, seconds), if it did.
        redelivered: True when the broker has handed it out before.
        meta: QBridge's own headers on it (names start with ``x-qbridge-``).
        tag: the backend's private handle.
        noted: a failure that the broker refused to have written beside it when it was here before, if a backend
            recognizes it. ``attempts``, ``crashes``, ``first_failed_at`` and ``history`` include it.
        sent: when it was sent (Unix time in milliseconds, 0 for unknown), where ``meta`` does not tell; or what finds
            that out, called with the delivery when somebody asks.
        kind: its media type, where a property of the message tells it; or what finds that out, as with ``sent``.
    """

    body: bytes = field(repr=False)  # a payload must not reach a log through a repr
    queue: str
    headers: Mapping[str, Any] = field(default_factory=_no_headers)
    message_id: str | None = None
    attempts: int = 0
    crashes: int = 0
    first_failed_at: float | None = None
    redelivered: bool = False
    meta: Mapping[str, Any] = field(default_factory=_no_headers)
    tag: Any = field(default=None, repr=False)  # a driver's may hold the payload
    suspected: bool = False
    noted: Noted | None = None
    sent: int | Callable[[Delivery], int] = 0
    kind: str | Callable[[Delivery], str] = ""

    @classmethod
    def from_headers(
        cls,
        body: bytes,
        queue: str,
        headers: Mapping[str, Any],
        meta: Mapping[str, Any],
        *,
        message_id: str | None = None,
        tag: Any = None,
        redelivered: bool = False,
        suspected: bool = False,
        sent: int | Callable[[Delivery], int] = 0,
        kind: str | Callable[[Delivery], str] = "",
    ) -> Delivery:
        """Build a delivery from the producer's headers and QBridge's own on it (values: str, bytes or int)."""
        if not meta:  # most messages: they have not failed yet
            return cls(
                body, queue, headers, message_id, 0, 0, None, redelivered, meta, tag, suspected, None, sent, kind
            )
        attempts, crashes = meta_int(meta, ATTEMPTS), meta_int(meta, CRASHES)
        first = meta_time(meta, FIRST_FAILED_AT)
        return cls(
            body,
            queue,
            headers,
            message_id,
            attempts,
            crashes,
            first,
            redelivered,
            meta,
            tag,
            suspected,
            None,
            sent,
            kind,
        )

    @property
    def sent_at(self) -> datetime | None:
        """When its producer sent it (UTC), whatever became of it since; ``None`` when nobody knows."""
        return instant(self.sent_at_ms)

    @property
    def sent_at_ms(self) -> int:
        """The same as Unix time in milliseconds; 0 when nobody knows. Copies carry it on in ``SENT_AT``."""
        told = meta_int(self.meta, SENT_AT)
        if told:
            return told
        return self.sent(self) if callable(self.sent) else self.sent

    @property
    def content_type(self) -> str:
        """The media type of the body, as its header ``content-type`` or a property of the message tells; "" otherwise.

        What is found out is kept: a child process gets what its worker has asked for.
        """
        told = meta_text(self.headers, CONTENT_TYPE_HEADER)
        if told:
            return told
        if callable(self.kind):
            self.kind = self.kind(self)
        return self.kind

    @property
    def due_at(self) -> datetime | None:
        """From when on it may run (UTC): the end of its delay, or when it was put back to be run again.

        Put back for another attempt or by a replay, that is; ``None`` for what was sent without a delay and has not
        failed: that may run from ``sent_at`` on.
        """
        return meta_instant(self.meta, DUE_AT)

    @property
    def history(self) -> tuple[Attempt, ...]:
        """What became of its last runs, ten at most, the oldest first; read anew each time."""
        from qbridge_core.contract.history import read_history

        return read_history(self.meta.get(HISTORY))

    def record(self, attempt: Attempt) -> None:
        """Add an attempt to the history: copies that count nothing carry it on, too."""
        from qbridge_core.contract.history import with_attempts, write_history

        self.meta = {**self.meta, HISTORY: write_history(with_attempts(self.history, attempt))}

    def note(self, noted: Noted) -> None:
        """Count a failure that is not written beside the message."""
        from qbridge_core.contract.history import write_history

        failure = noted.failure
        self.attempts, self.crashes, self.first_failed_at = failure.attempts, failure.crashes, failure.first_failed_at
        if failure.history:
            self.meta = {**self.meta, HISTORY: write_history(failure.history)}
        self.noted = noted

    def begin_anew(self) -> None:
        """Forget what made a dead letter of it: in a dead-letter queue that a worker consumes it is a new task."""
        self.attempts = 0
        self.crashes = max(0, self.crashes - meta_int(self.meta, CRASHES))  # those since then count
        self.first_failed_at = None
        self.meta = {name: self.meta[name] for name in _KEPT if name in self.meta} or NO_HEADERS


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages a queue holds, and what else its broker can tell.

    ``stats`` tells the counts, ``paused``, and of ``dead``, ``consumers`` and ``oldest_age`` those that
    ``capabilities.details`` names; ``describe`` tells all that it names, and others where the broker happens to know.
    What nobody can tell is ``None``. ``==`` compares the three counts alone.

    Attributes:
        ready: waiting to be delivered.
        in_flight: delivered and not settled yet (RabbitMQ: only those of the asking client).
        delayed: held back until their delay is over.
        dead: ready letters in its dead-letter queue: the one that was declared with it through the asking client, or
            else ``<queue>.dead``; ``None`` while that does not exist and the queue was not declared through the client.
        consumers: clients that read it for a worker. One that was killed may be counted for a while: see the backend.
        oldest_age: seconds for which the oldest ready message has been there, since it was published, retried or came
            due; 0.0 when none is ready.
        in_rate: messages that came into the queue in a second, those that come again included: on the average since the
            asking client described it last, or of the broker's own. ``None`` the first time.
        out_rate: messages that left it in a second; measured as ``in_rate`` is.
        unsettled: what all clients together have in flight.
        paused: whether workers rest; ``None`` where nobody can pause them, or nobody can tell.
    """

    ready: int
    in_flight: int
    delayed: int
    dead: int | None = field(default=None, compare=False)
    consumers: int | None = field(default=None, compare=False)
    oldest_age: float | None = field(default=None, compare=False)
    in_rate: float | None = field(default=None, compare=False)
    out_rate: float | None = field(default=None, compare=False)
    unsettled: int | None = field(default=None, compare=False)
    paused: bool | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        told = ((each.name, getattr(self, each.name)) for each in fields(self))
        return f"QueueStats({', '.join(f'{name}={_shown(value)}' for name, value in told if value is not None)})"


def _shown(value: float) -> str:
    """An age to the millisecond, a rate likewise."""
    return repr(round(value, 3) if isinstance(value, float) else value)


def rejection(delivery: Delivery, clock: Clock = SYSTEM_CLOCK) -> Failure:
    """The failure to write for a plain ``reject(requeue=False)``."""
    from qbridge_core.contract.dead_letter import Failure, Reason

    now = clock.wall()
    return Failure(
        reason=Reason.REJECTED,
        attempts=delivery.attempts,
        crashes=delivery.crashes,
        first_failed_at=delivery.first_failed_at or now,
        last_failed_at=now,
        source_queue=delivery.queue,
        task_id=delivery.message_id or "",
        worker=worker_identity(),
        replays=meta_int(delivery.meta, REPLAYS),
        history=delivery.history,
    )
