"""Delays of any length, held by the broker, without one message holding up another.

Level k of a work queue is a topic exchange and a quorum queue in which every message waits 100 ms * 2**k. The routing
key of a delayed message has one word for each bit of its delay in units of 100 ms. The exchange of level k looks at
bit k: 1 sends the message into the queue of the level, from which it goes on, when its time is over, to the exchange
of the level below; 0 sends it there directly. Below level 0 is the exchange that leads to the work queue. All
messages of one queue wait equally long, so the first is always the next (a delay per message would let a long one
block the shorter ones behind it: rabbitmq.com/docs/ttl). The hops are dead-lettering with the at-least-once strategy
of quorum queues (rabbitmq.com/docs/quorum-queues), so that a crash of the broker between two levels loses nothing.
"""

from __future__ import annotations

import math
from typing import Any, Final

from qbridge_core.backend import MAX_ID_CHARS, ConfigurationError, check_delay, suspects_queue

UNIT_MS: Final = 100
NOTES: Final = "qbridge.pauses"
"""The queue of a virtual host that tells of pauses; see :mod:`qbridge_rabbitmq.queues.pauses`."""
_OURS: Final = ".qb."
_INFIX: Final = f"{_OURS}delay."
_ENOUGH: Final = 2
_PAUSE: Final = 60.0
# The broker refuses a TTL over 2**32 - 1 ms, which level 26 would need.
LEVELS: Final = 26
MAX_SECONDS: Final = (2**LEVELS - 1) * UNIT_MS / 1000


class Breaker:
    """Notices queues whose delays the broker does not confirm. Thread-safe.

    A quorum queue that is made just before a crash of RabbitMQ 3.10 may stay dead for ever: it takes messages
    without an answer. Tasks that wait for one would hold up all others, so they are retried without delay instead.
    """

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._try_at: dict[str, float] = {}
        self._refused_at: dict[str, float] = {}

    def allows(self, queue: str, now: float) -> bool:
        """Whether to try a delay; for a queue that fails once a minute."""
        if self._failures.get(queue, 0) < _ENOUGH:
            return True
        if now < self._try_at.get(queue, 0.0):
            return False
        self._try_at[queue] = now + _PAUSE
        return True

    def worked(self, queue: str) -> None:
        """A delay was confirmed."""
        if queue in self._failures:
            self._failures.pop(queue, None)
            self._try_at.pop(queue, None)

    def failed(self, queue: str, now: float) -> bool:
        """A delay was not confirmed in time; whether that is enough not to try for a while."""
        count = self._failures[queue] = self._failures.get(queue, 0) + 1
        self._try_at[queue] = now + _PAUSE
        return count == _ENOUGH

    def refused(self, queue: str, now: float) -> bool:
        """The broker does not let a delay be held; whether that was not known before."""
        self._failures[queue] = _ENOUGH
        self._try_at[queue] = now + _PAUSE
        before, self._refused_at[queue] = self._refused_at.get(queue, -_PAUSE), now
        return now - before > _PAUSE / 2


def units(seconds: float) -> int:
    """A delay in units, rounded up, so that no message is early.

    Raises:
        ConfigurationError: it is negative, not a number, or longer than the levels can hold.
    """
    seconds = check_delay(seconds, MAX_SECONDS)
    # 0.3 / 0.1 is a little more than 3 in floating point: rounding first keeps that from costing a whole unit.
    # What it leaves nothing of is a delay still, and has to have a level.
    return max(1 if seconds else 0, math.ceil(round(seconds * 1000 / UNIT_MS, 6)))


def top_level(delay: int) -> int:
    """The highest level that a delay needs."""
    return delay.bit_length() - 1


def routing_key(delay: int) -> str:
    """One word for each bit, the highest first."""
    return ".".join(f"{delay:0{LEVELS}b}")


def name(queue: str, level: int) -> str:
    """The exchange and the queue of a level."""
    return f"{queue}{_INFIX}{level}"


MAX_QUEUE_BYTES: Final = MAX_ID_CHARS - len(name("", LEVELS))


def fit(queue: str) -> bool:
    """Whether a queue can have delays: AMQP 0-9-1 (short strings) limits the names of its levels too."""
    return len(queue.encode()) <= MAX_QUEUE_BYTES


def check_room(queue: str) -> None:
    """Refuse a name to which those of the levels cannot be added.

    Raises:
        ConfigurationError: it is too long.
    """
    if not fit(queue):
        raise ConfigurationError(
            f"on RabbitMQ the name of a queue must have at most {MAX_QUEUE_BYTES} bytes in UTF-8 (the rest "
            f"of {MAX_ID_CHARS} is for its delays), and that of a TaskManager's input queue at most "
            f"{MAX_QUEUE_BYTES - len(suspects_queue(''))}; this is longer: {queue!r}"
        )


def passed(queue: str, properties: bytes) -> bool:
    """Whether a message has come from a delay of this queue; may be wrong for one whose producer names it."""
    if _INFIX.encode() not in properties:
        return False  # like most messages
    return f"{queue}{_INFIX}".encode() in properties  # in the header x-death of the broker


def is_internal(queue: str) -> bool:
    """Whether it is a queue that QBridge has made beside another one, and no name that somebody has chosen."""
    return _OURS in queue or queue == NOTES


def exit_exchange(queue: str) -> str:
    """The exchange that leads to the work queue."""
    return f"{queue}.qb.due"


def below(queue: str, level: int) -> str:
    """The exchange to which a message goes after a level."""
    return name(queue, level - 1) if level else exit_exchange(queue)


def pattern(level: int, bit: int) -> str:
    """The binding for messages whose delay has this bit at the level."""
    return "*." * (LEVELS - 1 - level) + f"{bit}.#"


def queue_arguments(queue: str, level: int) -> dict[str, Any]:
    """How the queue of a level is declared."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": UNIT_MS << level,
        "x-dead-letter-exchange": below(queue, level),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
