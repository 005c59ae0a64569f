"""The queues and exchanges that QBridge declares, as steps for :class:`qbridge_rabbitmq.queues.requests.Requests`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from pika import exceptions

from qbridge_core.backend import (
    QBridgeError,
    QueueMismatchError,
    default_dead_letter_queue,
    logger,
    monotonic,
    suspects_queue,
)
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.queues import delays, foreign
from qbridge_rabbitmq.queues.comparison import declare_queue, differences, passive_queue
from qbridge_rabbitmq.queues.requests import Step, Steps

_log: Final = logger("qbridge.rabbitmq")
TO_DECLARE: Final = "configure (and, for its dead letters, read on it and write on amq.default)"
_LEVELS_VALID: Final = 2.0
CONSUMER_TIMEOUT: Final = "x-consumer-timeout"
# A worker ends its tasks itself when their time is over, and a dead one loses its connection.
_LONGEST_HOLD_MS: Final = 365 * 24 * 3600 * 1000
# Each worker counts its side queue all the time, and hardly ever is anything delayed there.
_SIDE_LEVELS_VALID: Final = 60.0


class Declarations:
    """What this client has declared, kept over reconnects. The generators run in the I/O thread.

    Args:
        queue_type: type of the work queues to create.
    """

    def __init__(self, queue_type: str) -> None:
        self.server_version: tuple[int, ...] = ()
        self._queue_type = queue_type
        self._dead_letter_queues: dict[str, str | None] = {}
        self._lifted: set[str] = set()
        self._routed: set[str] = set()
        self._side_queues: set[str] = set()
        self._levels: dict[str, int] = {}  # how many levels of a queue exist for certain
        self._probed: dict[str, float] = {}  # when a level was last found missing
        self._unlimited: set[str] = set()
        self._classic: set[str] = set()
        self._reported: set[str] = set()

    # ------------------------------------------------------------------ knowledge

    def remember(self, queue: str, dead_letter_queue: str | None) -> None:
        """Note a declared queue; ``None`` does not forget an earlier dead-letter queue."""
        self._dead_letter_queues[queue] = dead_letter_queue or self._dead_letter_queues.get(queue)
        self._side_queues.add(suspects_queue(queue))

    def is_side_queue(self, queue: str) -> bool:
        """Whether it is the queue for the suspects of a queue that was declared through this client."""
        return queue in self._side_queues

    def knows(self, queue: str) -> bool:
        """Whether the queue was declared through this client, or is the dead-letter queue of one that was."""
        return queue in self._dead_letter_queues or queue in self._dead_letter_queues.values()

    def has_route(self, queue: str) -> bool:
        """Whether the broker itself moves what it must not keep in the queue to the dead-letter queue."""
        return queue in self._routed

    def lets_hold(self, queue: str) -> bool:
        """Whether the broker lets a worker hold a message of the queue for as long as it likes."""
        return queue in self._lifted

    def is_classic(self, queue: str) -> bool:
        """Whether it is a classic queue, as far as this client knows."""
        return queue in self._classic

    def dead_letter_queue(self, queue: str) -> str:
        """Where rejected messages of the queue go."""
        return self._dead_letter_queues.get(queue) or default_dead_letter_queue(queue)

    def declared(self) -> dict[str, str | None]:
        """The queues that were declared, each with the dead-letter queue that was named with it."""
        return dict(self._dead_letter_queues)

    def has_levels(self, queue: str, top: int) -> bool:
        """Whether the delay levels up to ``top`` exist, as far as this client knows."""
        return self._levels.get(queue, 0) > top

    def forget_levels(self, queue: str) -> None:
        """The delay levels of a queue are to be declared again before their next use."""
        self._levels.pop(queue, None)
        self._probed.pop(queue, None)

    def connected(self, server_version: tuple[int, ...]) -> None:
        """A connection is there; the broker may not be the one it was."""
        self.server_version = server_version
        self._levels.clear()
        self._probed.clear()

    # ------------------------------------------------------------------ requests

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> Steps[None]:
        """Create a queue and its dead-letter queue where missing, and the way from its delays to it."""
        named = dead_letter_queue or self._dead_letter_queues.get(queue)
        if named in self._dead_letter_queues:  # where this program takes its tasks from, too
            yield from self._declare_queue(named, *self.work_arguments(named, self._dead_letter_queues[named]))
        elif named:
            yield from self.declare_dead_letter_queue(named)
        arguments = yield from self._declare_queue(queue, *self.work_arguments(queue, named))
        (self._routed.discard if arguments is None else self._routed.add)(queue)
        (self._lifted.add if CONSUMER_TIMEOUT in (arguments or ()) else self._lifted.discard)(queue)
        is_classic = arguments is not None and arguments["x-queue-type"] == "classic"
        (self._classic.add if is_classic else self._classic.discard)(queue)
        if (yield from _exists(_passive_exchange(delays.exit_exchange(queue)))):
            yield _bind_queue(queue, delays.exit_exchange(queue))

    def declare_dead_letter_queue(self, queue: str) -> Steps[None]:
        """Create a dead-letter queue where missing: a quorum queue without any limit."""
        yield from self._declare_queue(queue, *self.dead_letter_arguments())

    def is_unlimited(self, queue: str) -> bool:
        """Whether the broker never drops a message of this queue, as far as this client knows."""
        return queue in self._unlimited

    def check_unlimited(self, queue: str) -> Steps[bool]:
        """Whether the broker never drops a message of this existing queue, however often it comes back."""
        # Nothing tells the arguments of a queue, but the broker compares them with those of a second declaration.
        if queue not in self._unlimited:
            try:
                yield from self.declare_dead_letter_queue(queue)
            except exceptions.ChannelClosedByBroker as exc:
                if exc.reply_code != errors.ACCESS_REFUSED:  # may look, may not configure
                    raise
        return queue in self._unlimited

    def refuse_stream(self, queue: str) -> Steps[None]:
        """Fail when a queue that exists is a stream; a missing one is left alone."""
        # Nothing tells the type of a queue, but the broker compares it with that of a second declaration.
        if (yield from _exists(passive_queue(queue))):
            yield from self._declare_queue(queue, *self.work_arguments(queue, None))

    def restore(self, queue: str) -> Steps[None]:
        """Create a known queue again; fail if another one is missing."""
        if queue in self._dead_letter_queues:
            yield from self.declare(queue)
        elif self.knows(queue):
            yield from self.declare_dead_letter_queue(queue)
        else:
            yield passive_queue(queue)

    def restore_all(self) -> Steps[None]:
        """Create all known queues where they are missing; one that fails does not keep the others from it."""
        for queue in list(self._dead_letter_queues):
            try:
                yield from self.declare(queue)
            except (exceptions.AMQPChannelError, QBridgeError) as exc:
                _log.error("cannot declare %r again: %s", queue, errors.reply_text(exc))

    def declare_levels(self, queue: str, top: int) -> Steps[None]:
        """Create the delay levels of a queue up to ``top`` where they are missing."""
        if self._levels.get(queue, 0) > top:
            return
        due = delays.exit_exchange(queue)
        yield passive_queue(queue)
        yield lambda ch, done: ch.exchange_declare(due, "fanout", durable=True, callback=done)
        yield _bind_queue(queue, due)
        for level in range(top + 1):
            yield from _declare_level(queue, level)
        self._levels[queue] = max(top + 1, self._levels.get(queue, 0))

    def count(self, queue: str) -> Steps[int]:
        """Ready messages of a queue; 0 when it is missing."""
        ready, _ = yield from self.look_at(queue)
        return ready

    def consumers(self, queue: str) -> Steps[int]:
        """How many consumers a queue has; it fails when the queue is missing."""
        answer = yield passive_queue(queue)
        return int(answer.method.consumer_count)

    def look_at(self, queue: str) -> Steps[tuple[int, int]]:
        """Ready messages and consumers of a queue; none when it is missing."""
        try:
            answer = yield passive_queue(queue)
        except exceptions.ChannelClosedByBroker as exc:
            if errors.is_missing(exc):
                return 0, 0
            raise
        return int(answer.method.message_count), int(answer.method.consumer_count)

    def occupied(self, queues: Iterable[str]) -> Steps[set[str]]:
        """Those of these queues that have something ready."""
        found: set[str] = set()
        for queue in queues:
            ready, _ = yield from self.look_at(queue)
            if ready:
                found.add(queue)
        return found

    def count_all(self, queue: str, pending: Callable[[str], int]) -> Steps[tuple[int, int, int]]:
        """Ready messages of a queue, delayed ones, and consumers.

        In the order in which messages move, so that one that moves meanwhile is counted twice and never missed.

        Args:
            queue: its name.
            pending: how many are known to be delayed, whatever the broker says.
        """
        counted = yield from self.count_delayed(queue)
        delayed = max(counted, pending(queue))
        ready, consumers = yield from self.look_at(queue)
        return ready, delayed, consumers

    def count_delayed(self, queue: str) -> Steps[int]:
        """Messages in the delay levels of a queue, those that other clients created included."""
        if not delays.fit(queue):
            return 0
        total = level = 0
        # Asking for a missing queue closes the channel and is an error line in the broker's log: not each time.
        valid = _SIDE_LEVELS_VALID if queue in self._side_queues else _LEVELS_VALID
        probe = monotonic() > self._probed.get(queue, -valid) + valid
        while level < (delays.LEVELS if probe else self._levels.get(queue, 0)):
            try:
                answer = yield passive_queue(delays.name(queue, level))
            except exceptions.ChannelClosedByBroker as exc:
                if not errors.is_missing(exc):
                    raise
                self._probed[queue] = monotonic()
                self._levels[queue] = level
                break
            total += answer.method.message_count
            level += 1
        self._levels[queue] = max(level, self._levels.get(queue, 0)) if probe and level else self._levels.get(queue, 0)
        return total

    def purge(self, queue: str) -> Steps[int | None]:
        """Delete the ready messages of a queue; ``None`` when it is missing."""
        try:
            answer = yield lambda ch, done: ch.queue_purge(queue, callback=done)
        except exceptions.ChannelClosedByBroker as exc:
            if errors.is_missing(exc):
                return None
            raise
        return int(answer.method.message_count)

    # ------------------------------------------------------------------ details

    def _declare_queue(self, queue: str, *alternatives: dict[str, Any]) -> Steps[dict[str, Any] | None]:
        """Create a queue with the first arguments, or take it as it is; those of the alternatives that it has."""
        refusal = ""
        for arguments in alternatives:
            try:
                yield declare_queue(queue, arguments)
            except exceptions.ChannelClosedByBroker as exc:
                if exc.reply_code != errors.PRECONDITION_FAILED or errors.is_at_limit(exc):
                    raise
                if errors.is_stream(exc):
                    raise errors.stream(queue) from exc
                refusal = refusal or exc.reply_text
            else:
                unlimited = self._no_limit().items() <= arguments.items()
                (self._unlimited.add if unlimited else self._unlimited.discard)(queue)
                return arguments
        self._unlimited.discard(queue)
        if not (yield from _exists(passive_queue(queue))):
            raise QueueMismatchError(f"the broker creates no queue {queue!r} such as QBridge needs: {refusal}")
        if queue not in self._reported:
            self._reported.add(queue)
            found = yield from differences(queue, alternatives[0])
            _log.warning(
                "queue %r was declared by somebody else, or with other settings, and is used as it is: %s. To have it "
                "as this program wants it, delete it when it is empty, and declare it again",
                queue, foreign.describe(found) if found else refusal,
            )  # fmt: skip
        return None

    def work_arguments(self, queue: str, dead_letter_queue: str | None) -> list[dict[str, Any]]:
        """How a work queue is declared, and then how it was before its broker was upgraded to RabbitMQ 4."""
        # A classic queue does not tell reliably what was delivered before, which decides about suspects.
        side = queue in self._side_queues
        queue_type = "quorum" if side else self._queue_type
        arguments: dict[str, Any] = {
            "x-queue-type": queue_type,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_letter_queue or default_dead_letter_queue(queue),
        }
        if queue_type == "quorum":
            # At least once works only together with this overflow setting (rabbitmq.com/docs/quorum-queues).
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        if self._can_lift:
            arguments[CONSUMER_TIMEOUT] = _LONGEST_HOLD_MS
        if queue_type == "classic" and self._can_lift:
            # RabbitMQ 4.3 refuses the argument for a classic queue.
            return [arguments, {name: value for name, value in arguments.items() if name != CONSUMER_TIMEOUT}]
        if queue_type == "quorum" and self._no_limit():
            # A message also comes back when only a connection was lost, maybe often during one long task.
            return [arguments | self._no_limit(), arguments]
        return [arguments]

    @property
    def _can_lift(self) -> bool:
        """Whether the server has a delivery acknowledgement timeout for each queue (rabbitmq.com/docs/consumers)."""
        return self.server_version >= (3, 12)

    def dead_letter_arguments(self) -> list[dict[str, Any]]:
        """How a dead-letter queue is declared, and then how it was before it refused what is over a length limit.

        A limit that somebody sets by a policy would else drop the oldest letters (rabbitmq.com/docs/maxlength).
        """
        arguments = {"x-queue-type": "quorum", **self._no_limit()}
        return [arguments | {"x-overflow": "reject-publish"}, arguments]

    def _no_limit(self) -> dict[str, Any]:
        # Since 4.0 a quorum queue drops a message after 20 returns; -1 lifts that, but 3.x takes it for 0.
        return {"x-delivery-limit": -1} if self.server_version >= (4,) else {}


def _passive_exchange(exchange: str) -> Step:
    return lambda ch, done: ch.exchange_declare(exchange, passive=True, callback=done)


def _bind_queue(queue: str, exchange: str, routing_key: str = "") -> Step:
    return lambda ch, done: ch.queue_bind(queue, exchange, routing_key, callback=done)


def _exists(passive_declare: Step) -> Steps[bool]:
    try:
        yield passive_declare
    except exceptions.ChannelClosedByBroker as exc:
        if errors.is_missing(exc):
            return False
        raise
    return True


def _declare_level(queue: str, level: int) -> Steps[None]:
    here, below = delays.name(queue, level), delays.below(queue, level)
    arguments = delays.queue_arguments(queue, level)
    yield lambda ch, done: ch.exchange_declare(here, "topic", durable=True, callback=done)
    yield lambda ch, done: ch.queue_declare(here, durable=True, arguments=arguments, callback=done)
    yield _bind_queue(here, here, delays.pattern(level, 1))
    yield lambda ch, done: ch.exchange_bind(below, here, delays.pattern(level, 0), callback=done)
