"""Receiving: asking the broker again and again, or waiting at it, until there is something or the time is over."""

from __future__ import annotations

import threading
from collections import Counter
from types import MappingProxyType
from typing import Final

from qbridge_core.backend import (
    NO_HEADERS,
    BrokerUnavailableError,
    Delivery,
    GrowingPause,
    TransientError,
    UnroutableError,
    monotonic,
)
from qbridge_kombu.connection.thread import UncertainError, closed
from qbridge_kombu.protocol.headers import split
from qbridge_kombu.protocol.messages import CONTENT_TYPE
from qbridge_kombu.queues.delays import Delays
from qbridge_kombu.state.context import Context
from qbridge_kombu.state.in_flight import Tag
from qbridge_kombu.transports.session import KombuSession

_FIRST_PAUSE: Final = 0.005


class Receiving:
    """Hands out messages. Thread-safe; one queue is asked for by one thread at a time."""

    def __init__(self, context: Context, delays: Delays) -> None:
        self._context = context
        self._delays = delays
        self._cancels: Counter[str] = Counter()
        self._lock = threading.Lock()

    def receive(self, queue: str, count: int, timeout: float) -> list[Delivery]:
        """Up to ``count`` messages; wait up to ``timeout`` seconds for the first.

        Raises:
            The errors of ``QueueClient.receive``.
        """
        context, bell = self._context, self._context.bell(queue)
        deadline, before = monotonic() + timeout, self._cancels[queue]
        pause = GrowingPause(min(_FIRST_PAUSE, context.settings.poll_interval), context.settings.poll_interval)
        refusal: TransientError | None = None
        while True:
            if context.closing.is_set():
                raise closed()
            if self._cancels[queue] != before:
                return []
            bell.clear()
            self._delays.look(queue)  # before the answer: a busy queue, or one that is waited at, has no other moment
            left = deadline - monotonic()
            try:
                found = self._ask(queue, count, left)
                refusal = None
            except BrokerUnavailableError as exc:
                found, refusal = [], exc
            if found:
                return [_delivery(tag) for tag in found]
            left = deadline - monotonic()
            if left <= 0:
                if refusal is not None:
                    raise refusal
                return []
            bell.wait(min(pause.next(), left))

    def cancel(self, queue: str) -> list[Tag]:
        """End a ``receive`` that waits; return what nobody has been given."""
        with self._lock:
            self._cancels[queue] += 1
        self._context.bell(queue).set()
        return self._context.in_flight.buffered_tags(queue)

    def _ask(self, queue: str, count: int, left: float) -> list[Tag]:
        in_flight = self._context.in_flight
        if found := in_flight.take(queue, count):
            return found
        try:
            self._fetch(queue, count, left)
        except UnroutableError as exc:
            self._context.made_again(queue, exc)
            self._fetch(queue, count, left)
        return in_flight.take(queue, count)

    def _fetch(self, queue: str, count: int, left: float) -> None:
        """Have messages put into the buffer; there they are safe even if their caller has given up."""
        context, transport = self._context, self._context.transport
        name = transport.name_of(queue)
        wait = max(0.0, min(transport.blocking_receive, left))
        asked = min(count, transport.receive_batch)

        def work(session: KombuSession) -> None:
            if context.closing.is_set():  # what is in flight is being given back
                return
            with context.in_flight.arriving(queue):
                received = transport.receive(session, name, asked, wait)
                done = context.in_flight.add(queue, name, received, session) if received else None
            if done:
                transport.acknowledge(session, name, done)

        doing = f"receive from {queue!r}"
        try:
            context.receiver(queue).call(work, doing, context.settings.request_timeout + wait)
        except UncertainError as exc:
            raise BrokerUnavailableError(str(exc)) from exc.__cause__


def _delivery(tag: Tag) -> Delivery:
    received = tag.received
    headers, meta = split(received.headers)  # read-only: a copy of the message must have what it came with
    return Delivery.from_headers(
        received.body,
        tag.queue,
        MappingProxyType(headers) if headers else NO_HEADERS,
        meta,
        message_id=received.properties.get("message_id"),
        tag=tag,
        redelivered=received.redelivered,
        suspected=received.suspected,
        sent=received.sent,
        kind=_kind(received.properties.get("content_type")),
    )


def _kind(content_type: object) -> str:
    """The media type of a body, unless it is what stands there when nobody has said any."""
    return content_type if isinstance(content_type, str) and content_type != CONTENT_TYPE else ""
