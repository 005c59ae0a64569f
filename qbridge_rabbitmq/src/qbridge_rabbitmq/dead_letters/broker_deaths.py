"""What the broker says about a message that it dead-lettered itself (rabbitmq.com/docs/dlx, the header ``x-death``)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from qbridge_core.backend import (
    EXCEPTION_MESSAGE,
    FIRST_FAILED_AT,
    LAST_FAILED_AT,
    REASON,
    SOURCE_QUEUE,
    DeadLetter,
    Reason,
    meta_text,
)
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.state.in_flight import Arrival

_IN_WORDS: Final = {
    "rejected": "a consumer rejected it without requeue",
    "expired": "it was not consumed before its time to live (TTL) was over",
    "maxlen": "the queue was over its length limit (max-length, max-length-bytes) and dropped its oldest messages",
    "delivery_limit": (
        "it came back to the queue more often than the queue's delivery-limit allows: its consumers died, lost their "
        "connections or requeued it"
    ),
}


def explain(raw: bytes) -> dict[str, Any]:
    """The headers that we would have written, of a message that the broker dead-lettered; empty for any other."""
    deaths = headers.find(raw, "x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return {}
    last = deaths[0]  # the newest
    when = last.get("time")
    at = {}
    if isinstance(when, datetime):
        at = {FIRST_FAILED_AT: int(when.timestamp() * 1000), LAST_FAILED_AT: int(when.timestamp() * 1000)}
    return {
        REASON: Reason.REJECTED.value,
        SOURCE_QUEUE: last.get("queue", ""),
        EXCEPTION_MESSAGE: _in_words(last),
        **at,
    }


def source_of(arrival: Arrival, meta: Mapping[str, Any]) -> str:
    """Where a letter with these headers of ours came from; "" when nobody knows."""
    return meta_text(meta, SOURCE_QUEUE) or meta_text(explain(arrival.properties), SOURCE_QUEUE)


def letter_id(arrival: Arrival) -> str:
    """What names a letter: its mark, or what its producer wrote, with its body; never what a look at it changes."""
    from hashlib import blake2b  # a worker does without the module

    content = headers.read(arrival.properties)
    said: tuple[object, ...] = (content.mark,)
    if not content.mark:
        said = ("", content.message_id, source_of(arrival, content.meta), sorted(content.headers.items()))
    digest = blake2b(repr(said).encode("utf-8", "backslashreplace"), digest_size=16)
    digest.update(arrival.body)
    return digest.hexdigest()


def dead_letter(arrival: Arrival) -> DeadLetter:
    """What an arrival from a dead-letter queue says; of one that the broker put there, its own words."""
    content = headers.read(arrival.properties)
    meta = content.meta
    if SOURCE_QUEUE not in meta:
        meta = {**meta, **explain(arrival.properties)}
    return DeadLetter.from_headers(
        arrival.body,
        content.headers,
        meta,
        letter_id=letter_id(arrival),
        message_id=content.message_id,
        sent_ms=headers.sent_ms(arrival.properties),
    )


def _in_words(death: Mapping[str, Any]) -> str:
    reason, queue, count = death.get("reason"), death.get("queue", ""), death.get("count")
    why = _IN_WORDS.get(str(reason), f"reason {reason!r}")
    times = f", {count} times in all" if isinstance(count, int) and count > 1 else ""
    return f"the broker dead-lettered it from queue {queue!r}{times}: {why}"
