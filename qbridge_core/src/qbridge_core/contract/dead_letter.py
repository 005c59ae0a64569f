"""Why a message failed, as it is written beside it, and as a dead letter shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from qbridge_core.contract.checks import MAX_ID_CHARS
from qbridge_core.contract.envelope import task_of
from qbridge_core.contract.headers import (
    ATTEMPTS,
    BESIDE,
    CRASHES,
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    FIRST_FAILED_AT,
    HISTORY,
    LAST_FAILED_AT,
    MAX_EXCEPTION_MESSAGE_CHARS,
    MAX_TRACEBACK_CHARS,
    REASON,
    REPLAYS,
    SENT_AT,
    SOURCE_QUEUE,
    SUSPICIONS,
    TASK_ID,
    TRACEBACK,
    WORKER,
    clean_text,
    instant,
    meta_int,
    meta_text,
    meta_time,
)
from qbridge_core.contract.history import Attempt, History, read_history, write_history


class Reason(StrEnum):
    """Why a message is in a dead-letter queue."""

    FAILED = "failed"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    MALFORMED = "malformed"
    REJECTED = "rejected"
    UNKNOWN_TASK = "unknown task"
    UNSUPPORTED = "unsupported"
    EXPIRED = "expired"


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
        replays: how often it was sent back from a dead-letter queue before; written when it was.
        history: the last attempts, this one among them; written when there are some.
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
    replays: int = 0
    history: History = ()

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "exception_type", clean_text(self.exception_type)[:MAX_ID_CHARS])
        set_field(self, "exception_message", clean_text(self.exception_message)[:MAX_EXCEPTION_MESSAGE_CHARS])
        set_field(self, "traceback", clean_text(self.traceback)[-MAX_TRACEBACK_CHARS:])
        set_field(self, "task_id", clean_text(self.task_id)[:MAX_ID_CHARS])

    def retry_headers(self) -> dict[str, str | int]:
        """The headers that a copy for another attempt must carry so that any worker can go on counting."""
        headers: dict[str, str | int] = {
            ATTEMPTS: self.attempts,
            FIRST_FAILED_AT: round(self.first_failed_at * 1000),
            TASK_ID: self.task_id,
        }
        if self.crashes:
            headers[CRASHES] = self.crashes
        return headers | self._before()

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
            **self._before(),
        }

    def _before(self) -> dict[str, str | int]:
        headers: dict[str, str | int] = {REPLAYS: self.replays} if self.replays else {}
        if self.history:
            headers[HISTORY] = write_history(self.history)
        return headers


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
        id: names the letter in ``replay``, ``delete_letters`` and ``after=``, in any process, for as long as it stays
            in its queue. Letters of other programs that are equal may share one. "" from a backend without the
            capability ``letters``.
        history: the last ten attempts of the message at most, the oldest first. A backend without the capability
            ``history`` may not know them; where there is no room for them they are left out.
        sent_at: when its producer sent it (UTC); ``None`` when unknown, as from a backend without the capability
            ``sent_at``.
        message_id: the publisher's id of the message, when there is one.
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
    replays: int = 0
    id: str = ""
    history: tuple[Attempt, ...] = ()
    sent_at: datetime | None = None
    message_id: str | None = None

    @property
    def payload(self) -> Any:
        """What the handler got, read from the body anew each time; ``None`` too when the body is no task."""
        task = task_of(self.body)
        return None if task is None else task.payload

    @classmethod
    def from_headers(
        cls,
        body: bytes,
        headers: Mapping[str, Any],
        meta: Mapping[str, Any],
        *,
        letter_id: str = "",
        sent_ms: int = 0,
        message_id: str | None = None,
    ) -> DeadLetter:
        """Read a dead letter from its body, the producer's headers and QBridge's own (values: str, bytes or int).

        Args:
            body: the producer's bytes.
            headers: the producer's own headers.
            meta: QBridge's.
            letter_id: see ``id``.
            sent_ms: when it was sent (Unix time in milliseconds), where QBridge's headers do not tell; 0 for unknown.
        """
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
            replays=meta_int(meta, REPLAYS),
            id=letter_id,
            history=read_history(meta.get(HISTORY)),
            sent_at=instant(meta_int(meta, SENT_AT) or sent_ms),
            message_id=message_id,
        )


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


def _reason(meta: Mapping[str, Any]) -> Reason:
    try:
        return Reason(meta_text(meta, REASON))
    except ValueError:
        return Reason.REJECTED
