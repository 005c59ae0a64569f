"""QBridge's headers on a message: their names, how much may be in them, and what reads them.

Everything that QBridge has to say about a message travels beside the body in these headers (fields on Redis).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

CONTENT_TYPE_HEADER: Final = "content-type"
"""A producer's own, which says what the body is. Brokers that have a property for that get it as one, too."""
HEADER_PREFIX: Final = "x-qbridge-"
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

REPLAYS: Final = HEADER_PREFIX + "replays"
"""How often somebody has sent it back from a dead-letter queue."""
HISTORY: Final = HEADER_PREFIX + "history"
"""What became of its runs; :mod:`qbridge_core.contract.history` writes and reads it."""
SENT_AT: Final = HEADER_PREFIX + "sent-at-ms"
"""When its producer sent it, where nothing else of the message tells."""
DUE_AT: Final = HEADER_PREFIX + "due-at-ms"
"""From when on this copy may run: a delay ends then, or it was written for another attempt or by a replay then."""

# Bounds of what a failure may add to a message: AMQP 0-9-1 puts all headers into one frame (131,072 bytes by
# default in RabbitMQ), and a dead letter that the broker refuses for its headers would be stuck for ever.
MAX_EXCEPTION_MESSAGE_CHARS: Final = 1_000
MAX_TRACEBACK_CHARS: Final = 8_000
# A count that anybody may have written must still fit into a signed 64-bit header when one is added to it.
MAX_COUNT: Final = 2**62
MAX_REPLAYS: Final = 2**31
END_OF_TIME: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: no real clock wrote more."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

NO_HEADERS: Final[Mapping[str, Any]] = MappingProxyType({})
"""One shared empty mapping: a new one per message would cost on the hot path."""


def meta_text(meta: Mapping[str, Any], name: str) -> str:
    """A QBridge header as text; "" when it is missing. Foreign bytes never raise."""
    value = meta.get(name)
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def meta_int(meta: Mapping[str, Any], name: str) -> int:
    """A QBridge header as a count; 0 when it is missing, negative or no number (anybody can write headers)."""
    try:
        return min(max(0, int(meta.get(name, 0))), MAX_COUNT)
    except (TypeError, ValueError, OverflowError):
        return 0


def meta_replays(meta: Mapping[str, Any]) -> int:
    """How often a message was sent back from a dead-letter queue, as far as that makes sense."""
    return min(meta_int(meta, REPLAYS), MAX_REPLAYS)


def meta_time(meta: Mapping[str, Any], name: str) -> float | None:
    """A QBridge time header (milliseconds) as Unix time in seconds; None when it is missing or no number."""
    milliseconds = meta_int(meta, name)
    return milliseconds / 1000 if 0 < milliseconds <= END_OF_TIME else None


def meta_instant(meta: Mapping[str, Any], name: str) -> datetime | None:
    """A QBridge time header (milliseconds) as a time in UTC; None when it is missing or no number."""
    return instant(meta_int(meta, name))


def instant(milliseconds: int) -> datetime | None:
    """Unix time in milliseconds as a time in UTC; None for what no clock has written."""
    return _EPOCH + timedelta(milliseconds=milliseconds) if 0 < milliseconds <= END_OF_TIME else None


def milliseconds(moment: datetime) -> int:
    """The reverse of :func:`instant`."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def clean_text(text: str) -> str:
    """Text that every broker can store: no lone surrogates, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
