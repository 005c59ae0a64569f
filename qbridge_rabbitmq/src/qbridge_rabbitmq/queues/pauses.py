"""Queues that are paused: where the marks are, and how a client sees them without asking for each again and again.

The mark of a queue is a durable exchange, ``<queue>.qb.paused``. Nothing is cheaper for the broker, each node of a
cluster has it, and no policy deletes it. But to ask for one that does not exist costs a channel, and a line in the
broker's log. So each pause and each end of one also leaves a note in the queue ``qbridge.pauses`` of the virtual host:
as long as the number of notes is the same nothing has changed, and to count them is one question, however many queues a
client serves. What they say is for people. (Why it is so: docs/decisions/0018-pauses-are-exchanges.md.)
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from pika import exceptions

from qbridge_core.backend import (
    AuthenticationError,
    PublishUnconfirmedError,
    QueueFullError,
    logger,
    monotonic,
    worker_identity,
)
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.comparison import passive_queue
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.requests import Requests, Steps

_log: Final = logger("qbridge.rabbitmq")
NOTES: Final = delays.NOTES
_MOST_NOTES: Final = 100
_REMEMBERED: Final = 10_000
_LOOK_EVERY: Final = 1.0
_LOOKED_AT: Final = 40
"""So many of the paused queues are looked at then, whatever the number of notes says."""
_REFUSED_PAUSE: Final = 60.0
_ALWAYS_THE_SAME: Final = -1
_YOUNG: Final = 5.0
_AGAIN: Final = 0.1


def mark(queue: str) -> str:
    """The exchange that exists while a queue is paused."""
    return f"{queue}.qb.paused"


class Pauses:
    """The marks of one virtual host. For any thread but the I/O thread.

    Args:
        requests: asks the broker.
        declarations: empties the queue of notes.
        publish: publishes a body to a queue, and returns when that is confirmed.
    """

    def __init__(self, requests: Requests, declarations: Declarations, publish: Callable[[str, bytes], None]) -> None:
        self._requests = requests
        self._declarations = declarations
        self._publish = publish
        self._lock = threading.Lock()
        self._known: dict[str, bool] = {}
        self._notes: int | None = None
        self._ask_at = self._look_at = 0.0
        self._said = False

    def pause(self, queue: str) -> None:
        """Leave the mark, and tell the others."""
        delays.check_room(queue)
        self._requests.call(f"the mark of {queue!r}", _declare(mark(queue)), "configure")
        self._tell(queue, paused=True)

    def resume(self, queue: str) -> None:
        """Take the mark away, and tell the others."""
        delays.check_room(queue)
        self._requests.call(f"the mark of {queue!r}", _delete(mark(queue)), "configure")
        self._tell(queue, paused=False)

    def paused(self, queues: Sequence[str]) -> set[str]:
        """Which of these queues are paused."""
        notes = self._count()
        with self._lock:
            if notes != self._notes or len(self._known) > _REMEMBERED:
                self._known.clear()
                self._notes = notes
            elif monotonic() >= self._look_at:
                self._look_at = monotonic() + _LOOK_EVERY
                self._forget_some()
            known = dict(self._known)
        found = {queue: self._has_mark(queue) for queue in queues if queue not in known and delays.fit(queue)}
        with self._lock:
            if self._notes == notes:
                self._known |= found
        return {queue for queue in queues if known.get(queue) or found.get(queue)}

    def connected(self) -> None:
        """In the I/O thread: what was known may have changed, or this is another broker."""
        self._notes = None
        self._ask_at = 0.0

    def _forget_some(self) -> None:
        """Have some of the marks looked at that are known, in turn: to find one that is there costs little."""
        marked = (queue for queue, paused in self._known.items() if paused)
        for queue in list(itertools.islice(marked, _LOOKED_AT)):
            del self._known[queue]

    def _has_mark(self, queue: str) -> bool:
        return self._requests.call(f"the mark of {queue!r}", _exists(mark(queue)))

    def _count(self) -> int:
        """How many notes there are. Where they may not be, nobody can tell what has changed: that is looked at anew."""
        if monotonic() < self._ask_at:
            return _ALWAYS_THE_SAME
        notes = self._requests.call(f"queue {NOTES!r}", _count_notes())
        if notes is not None:
            return notes
        self._ask_at = monotonic() + _REFUSED_PAUSE
        with self._lock:
            self._notes = None
        if not self._said:
            self._said = True
            _log.info(
                "the user may not declare the queue %r, which tells that a queue was paused or resumed: until somebody "
                "else has declared it, this is seen after up to %g s", NOTES, _REFUSED_PAUSE,
            )  # fmt: skip
        return _ALWAYS_THE_SAME

    def _tell(self, queue: str, *, paused: bool) -> None:
        """Leave a note, so that the number of notes is another one than before."""
        what = f"queue {NOTES!r}"
        before = self._requests.call(what, _count_notes())
        if before is None:
            raise AuthenticationError(f"the user may not declare the queue {NOTES!r}, so workers would not notice")
        if before >= _MOST_NOTES:
            self._requests.call(what, self._declarations.purge(NOTES), "read")
        note = {"queue": queue, "paused": paused, "at": round(time.time(), 3), "by": worker_identity()}
        self._leave(json.dumps(note).encode())
        if self._requests.call(what, _count_notes()) == before:  # a policy keeps it at its length
            self._requests.call(what, self._declarations.purge(NOTES), "read")

    def _leave(self, note: bytes) -> None:
        until = monotonic() + _YOUNG
        while True:
            try:
                return self._publish(NOTES, note)
            except QueueFullError:  # a quorum queue has no leader in its first moments
                if monotonic() > until:
                    raise
                time.sleep(_AGAIN)
            except PublishUnconfirmedError as exc:
                raise PublishUnconfirmedError(
                    f"workers may not notice, for {NOTES!r} confirms nothing: try again, or delete it first ({exc})"
                ) from exc


def _declare(exchange: str) -> Steps[None]:
    yield lambda ch, done: ch.exchange_declare(exchange, "fanout", durable=True, callback=done)


def _delete(exchange: str) -> Steps[None]:
    yield lambda ch, done: ch.exchange_delete(exchange, callback=done)


def _exists(exchange: str) -> Steps[bool]:
    try:
        yield lambda ch, done: ch.exchange_declare(exchange, passive=True, callback=done)
    except exceptions.ChannelClosedByBroker as exc:
        if errors.is_missing(exc):
            return False
        raise
    return True


def _declare_notes() -> Steps[int]:
    arguments = {"x-queue-type": "quorum"}
    answer = yield lambda ch, done: ch.queue_declare(NOTES, durable=True, arguments=arguments, callback=done)
    return int(answer.method.message_count)


def _count_notes() -> Steps[int | None]:
    """How many notes there are; ``None`` when there is no queue for them, and none may be made."""
    try:
        answer = yield passive_queue(NOTES)
    except exceptions.ChannelClosedByBroker as exc:
        if not errors.is_missing(exc):
            raise
    else:
        return int(answer.method.message_count)
    try:
        return (yield from _declare_notes())
    except exceptions.ChannelClosedByBroker:
        return None
