"""What travels between a broker and a worker: messages, deliveries, failures, dead letters.

Everything QBridge itself has to say about a message travels beside the body in headers (fields on Redis)
that start with :data:`HEADER_PREFIX`; the body and the producer's own headers are never changed.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, NamedTuple

from qbridge_core.contract.checks import HEADER_PREFIX as HEADER_PREFIX  # noqa: PLC0414 - for backends
from qbridge_core.contract.checks import MAX_ID_CHARS as MAX_ID_CHARS  # noqa: PLC0414 - for backends
from qbridge_core.contract.checks import NO_HEADERS as NO_HEADERS  # noqa: PLC0414 - for backends
from qbridge_core.contract.checks import check_headers, check_queue_name
from qbridge_core.errors import ConfigurationError, PayloadError

ATTEMPTS: Final = HEADER_PREFIX + "attempts"
CRASHES: Final = HEADER_PREFIX + "crashes"
FIRST_FAILED_AT: Final = HEADER_PREFIX + "first-failed-at-ms"
LAST_FAILED_AT: Final = HEADER_PREFIX + "last-failed-at-ms"
REASON: Final = HEADER_PREFIX + "reason"
EXCEPTION_TYPE: Final = HEADER_PREFIX + "exception-type"
EXCEPTION_MESSAGE: Final = HEADER_PREFIX + "exception-message"
TRACEBACK: Final = HEADER_PREFIX + "traceback"
SOURCE_QUEUE: Final = HEADER_PREFIX + "source-queue"
TASK_ID: Final = HEADER_PREFIX + "task-id"
WORKER: Final = HEADER_PREFIX + "worker"
SUSPICIONS: Final = HEADER_PREFIX + "suspicions"
"""On what may have killed a worker: how many have died with it since then for which it is not charged."""
BESIDE: Final = HEADER_PREFIX + "beside"
"""On a suspect that may run beside others: when its holder dies, ``SUSPICIONS`` goes up and not ``CRASHES``."""

# Bounds of what a failure may add to a message: AMQP 0-9-1 puts all headers into one frame (131,072 bytes by
# default in RabbitMQ), and a dead letter that the broker refuses for its headers would be stuck for ever.
MAX_EXCEPTION_MESSAGE_CHARS: Final = 1_000
MAX_TRACEBACK_CHARS: Final = 8_000
# A count that anybody may have written must still fit into a signed 64-bit header when one is added to it.
_MAX_COUNT: Final = 2**62
_END_OF_TIME: Final = 253_402_300_800_000  # year 10,000 in milliseconds: no real clock wrote more

_RANDOM_BITS: Final = ~(0xF << 76 | 0b11 << 62)
_VERSION_4: Final = 4 << 76 | 0b10 << 62

# Half of what a Python 3.11 can read by default. Python 3.13 writes ten times as much.
MAX_DEPTH: Final = 500
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
# The encoder turns keys that are numbers, booleans or None into strings, and says nothing. In its text they look like
# this. A string may look so too: then the keys themselves are looked at.
_suspicious_key = re.compile(r"""":(?<=[0-9el]":)(?:(?<=[0-9]":)|(?<="true":)|(?<="false":)|(?<="null":))""").search

_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _no_headers() -> Mapping[str, Any]:
    return NO_HEADERS


def new_id() -> str:
    """A random UUID (RFC 9562, version 4) as text, in a third of the time that ``uuid.uuid4`` takes."""
    digits = f"{int.from_bytes(os.urandom(16), 'big') & _RANDOM_BITS | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Reason(StrEnum):
    """Why a message is in a dead-letter queue."""

    FAILED = "failed"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    MALFORMED = "malformed"
    REJECTED = "rejected"


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
        cls, payload: object, *, task_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Message, str]:
        """Build the JSON envelope of a task; return the message and its task id.

        The message id is fresh for each call even when a task id is used twice, so that two messages are
        never taken for one.

        Raises:
            PayloadError: the payload cannot be written as JSON, or the task id is not a usable string.
        """
        message_id = new_id()
        if task_id is None:
            task_id = message_id
        elif not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_ID_CHARS:
            raise PayloadError(f"task_id must be a string of 1 to {MAX_ID_CHARS} characters")
        try:
            text = _encode_json({"payload": payload, "task_id": task_id, "retry": 0})
            body = text.encode("utf-8")
        except (TypeError, ValueError, RecursionError) as exc:
            raise PayloadError(f"the payload of task {task_id!r} {_why_not_json(payload, exc)}") from exc
        problem = _wrong_key(payload) if _suspicious_key(text) else None
        if text.count("[") + text.count("{") > MAX_DEPTH:
            problem = problem or _too_deep(payload)
        if problem:
            raise PayloadError(f"the payload of task {task_id!r} {problem}")
        return cls(body, check_headers(headers), message_id), task_id


def _why_not_json(payload: object, exc: Exception) -> str:
    return _wrong_key(payload) or (
        f"cannot be written as JSON ({exc}); send plain dicts, lists, strings, finite numbers, booleans and None"
    )


def _wrong_key(payload: object) -> str | None:
    """Say which key of a payload is no string, if one is."""
    seen: set[int] = set()  # a payload that holds itself is refused, but this must end all the same
    waiting: list[tuple[str, object]] = [("payload", payload)]
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                return (
                    f"has the key {reprlib.repr(key)} ({type(key).__name__}) in {path}, which cannot be written as "
                    "JSON: keys are strings there, so it would arrive as another one, or replace another one"
                )
            if isinstance(item, dict | list | tuple):
                waiting.append((f"{path}[{reprlib.repr(key)}]", item))
    return None


def _too_deep(payload: object) -> str | None:
    """Say that a payload is nested too deep, if it is: another Python may be able to read less than this one writes."""
    level = [payload]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for value in level
            if isinstance(value, dict | list | tuple)
            for item in (value.values() if isinstance(value, dict) else value)
            if item.__class__ not in _SCALARS
        ]
        if not level:
            return None
    return f"is nested deeper than {MAX_DEPTH} levels, which not every worker could read"


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
            recognizes it. ``attempts``, ``crashes`` and ``first_failed_at`` include it.
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
    ) -> Delivery:
        """Build a delivery from the producer's headers and QBridge's own on it (values: str, bytes or int)."""
        if not meta:  # most messages: they have not failed yet
            return cls(body, queue, headers, message_id, 0, 0, None, redelivered, meta, tag, suspected)
        attempts, crashes = meta_int(meta, ATTEMPTS), meta_int(meta, CRASHES)
        first = meta_time(meta, FIRST_FAILED_AT)
        return cls(body, queue, headers, message_id, attempts, crashes, first, redelivered, meta, tag, suspected)

    def note(self, noted: Noted) -> None:
        """Count a failure that is not written beside the message."""
        self.attempts, self.crashes = noted.failure.attempts, noted.failure.crashes
        self.first_failed_at = noted.failure.first_failed_at
        self.noted = noted

    def begin_anew(self) -> None:
        """Forget what made a dead letter of it: in a dead-letter queue that a worker consumes it is a new task."""
        self.attempts = 0
        self.crashes = max(0, self.crashes - meta_int(self.meta, CRASHES))  # those since then count
        self.first_failed_at = None
        self.meta = {TASK_ID: self.meta[TASK_ID]} if TASK_ID in self.meta else NO_HEADERS


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run of a message failed, as it is written beside the message.

    Texts are bounded and made safe for any broker on construction: the exception message keeps its beginning,
    the traceback its end.

    Attributes:
        reason: what kind of failure.
        attempts: failed runs including this one.
        crashes: runs that ended with their process, including this one.
        exception_type: the class of the exception as ``module.Class``, without the module for a built-in one;
            "TimeoutError" for a run that took too long, "MalformedTaskError" for what is no task, else "".
        exception_message: its text, or "".
        traceback: the tail of the formatted traceback, or "".
        first_failed_at: Unix time in seconds of the first failure.
        last_failed_at: Unix time in seconds of this failure.
        source_queue: the queue that the message was received from.
        task_id: the task's id, or "" for a message without a readable one.
        worker: ``host:pid`` of the process.
    """

    reason: Reason
    attempts: int = 0
    crashes: int = 0
    exception_type: str = ""
    exception_message: str = ""
    traceback: str = ""
    first_failed_at: float = 0.0
    last_failed_at: float = 0.0
    source_queue: str = ""
    task_id: str = ""
    worker: str = ""

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "exception_type", _clean(self.exception_type)[:MAX_ID_CHARS])
        set_field(self, "exception_message", _clean(self.exception_message)[:MAX_EXCEPTION_MESSAGE_CHARS])
        set_field(self, "traceback", _clean(self.traceback)[-MAX_TRACEBACK_CHARS:])
        set_field(self, "task_id", _clean(self.task_id)[:MAX_ID_CHARS])

    def retry_headers(self) -> dict[str, str | int]:
        """The headers that a copy for another attempt must carry so that any worker can go on counting."""
        headers: dict[str, str | int] = {
            ATTEMPTS: self.attempts,
            FIRST_FAILED_AT: round(self.first_failed_at * 1000),
            TASK_ID: self.task_id,
        }
        if self.crashes:
            headers[CRASHES] = self.crashes
        return headers

    def dead_letter_headers(self) -> dict[str, str | int]:
        """All headers of a dead letter; :meth:`DeadLetter.from_headers` reads them back."""
        return {
            REASON: self.reason.value,
            ATTEMPTS: self.attempts,
            CRASHES: self.crashes,
            EXCEPTION_TYPE: self.exception_type,
            EXCEPTION_MESSAGE: self.exception_message,
            TRACEBACK: self.traceback,
            FIRST_FAILED_AT: round(self.first_failed_at * 1000),
            LAST_FAILED_AT: round(self.last_failed_at * 1000),
            SOURCE_QUEUE: self.source_queue,
            TASK_ID: self.task_id,
            WORKER: self.worker,
        }


class Noted(NamedTuple):
    """A failure that the broker refused to have written beside its message.

    Attributes:
        failure: what the copy would have carried.
        is_final: the message is to be dead-lettered without another run.
    """

    failure: Failure
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class SuspectFailure(Failure):
    """What is known of a message that may have killed a worker, for a copy that will show whether it has.

    Attributes:
        suspicions: processes that died while they held it and for which it is not charged.
        beside: the copy may run beside other tasks, so a death of its holder is a suspicion and no crash.
    """

    suspicions: int = 0
    beside: bool = False

    @classmethod
    def of(cls, failure: Failure, suspicions: int, *, beside: bool = False) -> SuspectFailure:
        """The same with what is suspected."""
        known = {each.name: getattr(failure, each.name) for each in fields(Failure)}
        return cls(**known, suspicions=suspicions, beside=beside)

    def retry_headers(self) -> dict[str, str | int]:
        """The headers of the copy."""
        # Not super(): with slots it would be another class than the one that the call is in.
        headers = {**Failure.retry_headers(self), SUSPICIONS: self.suspicions}
        return {**headers, BESIDE: 1} if self.beside else headers


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages a queue holds.

    Attributes:
        ready: waiting to be delivered.
        in_flight: delivered and not settled yet (RabbitMQ: only those of the asking client).
        delayed: held back until their delay is over.
    """

    ready: int
    in_flight: int
    delayed: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue with its explanation; see :class:`Failure` for the fields.

    Attributes:
        body: the producer's bytes.
        headers: the producer's own headers.
        reason: why it is here. A message that the broker or another program put here has what could be
            learned from the broker, else ``Reason.REJECTED``.
        first_failed_at: Unix time in seconds, ``None`` when unknown.
        last_failed_at: Unix time in seconds, ``None`` when unknown.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    reason: Reason
    exception_type: str
    exception_message: str
    traceback: str
    attempts: int
    crashes: int
    first_failed_at: float | None
    last_failed_at: float | None
    source_queue: str
    task_id: str
    worker: str

    @classmethod
    def from_headers(cls, body: bytes, headers: Mapping[str, Any], meta: Mapping[str, Any]) -> DeadLetter:
        """Read a dead letter from its body, the producer's headers and QBridge's own (values: str, bytes or int)."""
        return cls(
            body=body,
            headers=dict(headers),
            reason=_reason(meta),
            exception_type=meta_text(meta, EXCEPTION_TYPE),
            exception_message=meta_text(meta, EXCEPTION_MESSAGE),
            traceback=meta_text(meta, TRACEBACK),
            attempts=meta_int(meta, ATTEMPTS),
            crashes=meta_int(meta, CRASHES),
            first_failed_at=meta_time(meta, FIRST_FAILED_AT),
            last_failed_at=meta_time(meta, LAST_FAILED_AT),
            source_queue=meta_text(meta, SOURCE_QUEUE),
            task_id=meta_text(meta, TASK_ID),
            worker=meta_text(meta, WORKER),
        )


def meta_text(meta: Mapping[str, Any], name: str) -> str:
    """A QBridge header as text; "" when it is missing. Foreign bytes never raise."""
    value = meta.get(name)
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def meta_int(meta: Mapping[str, Any], name: str) -> int:
    """A QBridge header as a count; 0 when it is missing, negative or no number (anybody can write headers)."""
    try:
        return min(max(0, int(meta.get(name, 0))), _MAX_COUNT)
    except (TypeError, ValueError, OverflowError):
        return 0


def meta_time(meta: Mapping[str, Any], name: str) -> float | None:
    """A QBridge time header (milliseconds) as Unix time in seconds; None when it is missing or no number."""
    milliseconds = meta_int(meta, name)
    return milliseconds / 1000 if 0 < milliseconds < _END_OF_TIME else None


def _reason(meta: Mapping[str, Any]) -> Reason:
    try:
        return Reason(meta_text(meta, REASON))
    except ValueError:
        return Reason.REJECTED


def _clean(text: str) -> str:
    """Text that every broker can store: no lone surrogates, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
