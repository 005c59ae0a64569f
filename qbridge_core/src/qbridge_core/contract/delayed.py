"""Delayed messages taken in hand: what a listing shows of one, and how a caller names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from qbridge_core.contract.envelope import task_of
from qbridge_core.contract.headers import (
    ATTEMPTS,
    FIRST_FAILED_AT,
    SENT_AT,
    TASK_ID,
    instant,
    meta_int,
    meta_text,
    meta_time,
)
from qbridge_core.contract.letters import Chosen
from qbridge_core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message that the broker holds back until it is due: one that was sent with a delay, or waits to be retried.

    Attributes:
        id: names the message in ``release_delayed``, ``delete_delayed`` and ``after=``, in any process, for as long as
            it is held back.
        due_at: when it is delivered (UTC); ``None`` for what no clock has written.
        body: the producer's bytes.
        headers: the producer's own headers.
        message_id: the publisher's unique id, when there is one.
        attempts: how many runs of it have failed before.
        first_failed_at: when it first failed (Unix time, seconds), if it did.
        task_id: the task's id, or "" for a message without a readable one.
        sent_at: when it was published (UTC), where that is known.
    """

    id: str
    due_at: datetime | None
    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    message_id: str | None = None
    attempts: int = 0
    first_failed_at: float | None = None
    task_id: str = ""
    sent_at: datetime | None = None

    @property
    def payload(self) -> Any:
        """What the handler will get, read from the body anew each time; ``None`` too when the body is no task."""
        task = task_of(self.body)
        return None if task is None else task.payload

    @classmethod
    def from_headers(
        cls,
        body: bytes,
        headers: Mapping[str, Any],
        meta: Mapping[str, Any],
        *,
        delayed_id: str,
        due_ms: int,
        message_id: str | None = None,
        sent_ms: int = 0,
    ) -> DelayedMessage:
        """Read one from its body, the producer's headers and QBridge's own (values: str, bytes or int).

        Args:
            body: the producer's bytes.
            headers: the producer's own headers.
            meta: QBridge's.
            delayed_id: its id.
            due_ms: when it is due (Unix time in milliseconds).
            message_id: the publisher's id.
            sent_ms: when it was sent (Unix time in milliseconds), where QBridge's headers do not tell; 0 for unknown.
        """
        task = task_of(body)
        return cls(
            id=delayed_id,
            due_at=instant(due_ms),
            body=body,
            headers=dict(headers),
            message_id=message_id,
            attempts=meta_int(meta, ATTEMPTS),
            first_failed_at=meta_time(meta, FIRST_FAILED_AT),
            sent_at=instant(meta_int(meta, SENT_AT) or sent_ms),
            task_id=meta_text(meta, TASK_ID) or (task.task_id if task is not None else None) or message_id or "",
        )


def check_delayed(messages: object) -> Chosen:
    """Return the delayed messages that a caller named.

    Raises:
        ConfigurationError: they are neither messages nor ids.
    """
    if isinstance(messages, str | bytes | DelayedMessage) or not isinstance(messages, Iterable):
        raise ConfigurationError("messages takes several delayed messages, or their ids; one of them as [message]")
    return Chosen([check_delayed_id(message) for message in messages])


def check_delayed_id(message: object) -> str:
    """Return the id of a delayed message that a caller named.

    Raises:
        ConfigurationError: it is neither a message nor an id.
    """
    found = message.id if isinstance(message, DelayedMessage) else message
    if not isinstance(found, str) or not found:
        raise ConfigurationError(
            f"a delayed message is named by itself or by its id, a string, not by {type(message).__name__}"
        )
    return found
