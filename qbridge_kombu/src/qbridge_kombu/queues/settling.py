"""Settling: the next state of a message is confirmed, then the original is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

from qbridge_core.backend import (
    DUE_AT,
    HISTORY,
    BrokerUnavailableError,
    DeliveryLostError,
    Failure,
    MessageTooLargeError,
    PermanentError,
    QBridgeError,
    QueueFullError,
    monotonic,
)
from qbridge_kombu.connection.broker import log
from qbridge_kombu.connection.thread import UncertainError
from qbridge_kombu.protocol.headers import handed_back, sent, split
from qbridge_kombu.protocol.messages import Outgoing
from qbridge_kombu.queues.acknowledgements import Acknowledgements
from qbridge_kombu.queues.delays import wall_clock
from qbridge_kombu.queues.publisher import Publisher
from qbridge_kombu.state.context import Context
from qbridge_kombu.state.in_flight import State, Tag
from qbridge_kombu.transports.session import KombuSession

_LEAST_FLUSH: Final = 0.05
_REFUSED: Final = (PermanentError, QueueFullError)


class Settling:
    """Settles deliveries. Thread-safe: two that settle one delivery come one after the other, and the first counts."""

    def __init__(self, context: Context, publisher: Publisher) -> None:
        self._context = context
        self._publisher = publisher
        self._acknowledgements = Acknowledgements(context)

    def acknowledge(self, tag: Tag) -> None:
        """The work is done."""
        with tag.lock:
            if is_open(tag):
                self._remove(tag)

    def dead_letter(self, tag: Tag, failure: Failure) -> None:
        """Move it to the dead-letter queue."""
        queue = self._context.declarations.dead_letter_queue(tag.queue)
        self._replace(tag, queue, failure.dead_letter_headers(), failure.task_id, 0.0)

    def retry(self, tag: Tag, failure: Failure, queue: str, delay: float) -> None:
        """Another attempt."""
        self._replace(tag, queue, failure.retry_headers() | _due(delay), failure.task_id, delay)

    def hand_back(self, tag: Tag, delay: float, history: object = None) -> None:
        """Give it back, uncounted; where no copy is taken, the message itself. What waits has this history from now."""
        with tag.lock:
            if not is_open(tag):
                return
            if not delay and self._context.transport.releases_uncounted:
                self._release([tag])
                return
            try:
                self._copy(tag, lambda: self._publish(tag.queue, _back(tag, delay, history), delay))
            except _REFUSED:
                if delay or not self._context.transport.keeps_unacknowledged or not self._release([tag]):
                    raise
                return
            self._remove(tag)

    def flush(self, seconds: float) -> bool:
        """Whether the broker has carried out all that was acknowledged, within so many seconds."""
        return self._acknowledgements.flush(seconds)

    def stop(self, deadline: float) -> None:
        """Send what is acknowledged, and give back the rest."""
        with suppress(QBridgeError):
            self.flush(max(_LEAST_FLUSH, (deadline - monotonic()) / 2))
        self.hand_back_all(self._context.in_flight.open_tags(), deadline)
        with suppress(QBridgeError):
            self.flush(max(_LEAST_FLUSH, deadline - monotonic()))
        self._acknowledgements.stop()

    def hand_back_all(self, tags: Iterable[Tag], deadline: float) -> None:
        """Give back what a client leaves behind, as far as the time allows; what fails is in the log."""
        ordered = sorted(tags, key=lambda tag: tag.queue)
        for queue, group in groupby(ordered, key=lambda tag: tag.queue):
            some = [tag for tag in group if tag.lock.acquire(timeout=max(0.0, deadline - monotonic()))]
            try:
                held = [tag for tag in some if tag.state is State.OPEN and tag.session is not None]
                self._hand_back_some(queue, held, deadline)
            except QBridgeError as exc:
                self._tell(queue, exc)
            finally:
                for tag in some:
                    tag.lock.release()

    def _hand_back_some(self, queue: str, tags: list[Tag], deadline: float) -> None:
        transport = self._context.transport
        size = transport.publish_batch
        for some in (tags[start : start + size] for start in range(0, len(tags), size)):
            if transport.releases_uncounted:
                self._release(some)
                continue
            copies = [_back(tag) for tag in some if not tag.copied]
            if copies:
                self._publisher.send(queue, copies, 0.0, max(0.1, deadline - monotonic()))
            for tag in some:
                tag.copied = True
                self._remove(tag)

    def _tell(self, queue: str, exc: QBridgeError) -> None:
        if self._context.transport.keeps_unacknowledged:
            log.info("what is left of %r goes back when the connection ends: %s", queue, exc)
        else:
            log.error("what was in flight of %r is lost, as its broker does not keep it: %s", queue, exc)

    def _replace(self, tag: Tag, queue: str, meta: Mapping[str, Any], task_id: str, delay: float) -> None:
        with tag.lock:
            if not is_open(tag):
                return
            received = tag.received
            producers, _ = split(received.headers)
            properties = dict(received.properties)
            if task_id and not properties.get("message_id"):
                properties["message_id"] = task_id
            headers = {**producers, **meta, **sent(received.headers, received.sent)}
            copy = Outgoing(received.body, headers, properties)
            self._copy(tag, lambda: self._publish(queue, copy, delay))
            self._remove(tag)

    def _publish(self, queue: str, copy: Outgoing, delay: float) -> None:
        """Publish a copy; one that is too large goes without its history."""
        try:
            self._publisher.copy(queue, copy, delay, create=True)
        except MessageTooLargeError:
            if HISTORY not in copy.headers:
                raise
            headers = {name: value for name, value in copy.headers.items() if name != HISTORY}
            self._publisher.copy(queue, replace(copy, headers=headers), delay, create=True)

    def _copy(self, tag: Tag, publish: Callable[[], None]) -> None:
        """Write the next state once, however often its settlement is tried."""
        if not tag.copied:
            publish()
            tag.copied = True

    def _remove(self, tag: Tag) -> None:
        """Take the original from the broker, soon."""
        tag.state = State.FINISHED
        self._acknowledgements.add(tag)

    def _release(self, tags: list[Tag]) -> bool:
        transport, first = self._context.transport, tags[0]

        def work(session: KombuSession) -> bool:
            mine = [tag.received for tag in tags if not transport.bound_to_session or tag.session is session]
            return transport.release(session, first.name, mine) if mine else True

        doing = f"give back to {first.queue!r}"
        try:
            done = self._context.settler(first.queue).call(work, doing, self._context.settings.request_timeout)
        except UncertainError as exc:
            raise BrokerUnavailableError(str(exc)) from exc.__cause__
        if done:
            self._context.in_flight.released(tags)
            self._context.bell(first.queue).set()
        return done


def is_open(tag: Tag) -> bool:
    """Whether a delivery is to be settled; for whoever holds its lock.

    Raises:
        DeliveryLostError: the broker has taken it back.
    """
    if tag.state is State.LOST:
        raise DeliveryLostError(f"a delivery of {tag.queue!r} went back to the broker, which delivers it again")
    return tag.state is State.OPEN


def _back(tag: Tag, delay: float = 0.0, history: object = None) -> Outgoing:
    received = tag.received
    headers = handed_back(received.headers, suspected=received.suspected) | sent(received.headers, received.sent)
    if delay:
        headers |= _due(delay)
        if history is not None:
            headers[HISTORY] = history
    return Outgoing(received.body, headers, received.properties)


def _due(delay: float) -> dict[str, str | int]:
    return {DUE_AT: round((wall_clock() + delay) * 1000)}
