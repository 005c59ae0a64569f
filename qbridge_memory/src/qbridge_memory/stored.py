"""What a broker in memory keeps, and what it tells of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from qbridge_core.backend import QueueStats


@dataclass(slots=True)
class StoredMessage:
    """A message as the broker keeps it; a new state is a new object.

    Attributes:
        number: given when it is first listed, a higher one to what comes later; 0 before.
        since: when it was put into its queue or came due there (monotonic time).
        sent: when its producer sent it (Unix time in milliseconds).
    """

    body: bytes
    headers: Mapping[str, Any]
    message_id: str | None
    meta: Mapping[str, Any]
    redelivered: bool = False
    number: int = 0
    since: float = 0.0
    sent: int = 0


@dataclass(slots=True)
class InFlight:
    """A message that a client has."""

    message: StoredMessage
    owner: object


@dataclass(slots=True)
class Queue:
    """One queue; what it has is guarded by the lock of its broker."""

    changed: threading.Condition
    ready: deque[StoredMessage] = field(default_factory=deque)
    delayed: list[tuple[float, int, StoredMessage]] = field(default_factory=list)
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    others: set[threading.Condition] = field(default_factory=set)
    """Of those who wait for this queue and others at once."""
    added: int = 0
    """How many messages have ever come, copies included."""

    def notify_all(self) -> None:
        """Let everybody look again who waits for this queue; expects the lock to be held."""
        self.changed.notify_all()
        for other in self.others:
            other.notify_all()


class Look(NamedTuple):
    """What there is to tell of a queue, but of its letters.

    Attributes:
        stats: its counts, how many clients consume it, and for how long its first message has been ready.
        added: how many messages have ever come.
        held: how many of them are there.
    """

    stats: QueueStats
    added: int
    held: int


Place = tuple[int, int]
"""Where a message stands among those that are held back: due when (monotonic time, microseconds), and a number."""


def place_of(held: tuple[float, int, StoredMessage]) -> Place:
    """The place of a message that is held back."""
    return round(held[0] * 1_000_000), held[1]


class Outlook(NamedTuple):
    """What there is to do in some queues.

    Attributes:
        ready: messages that wait for a worker.
        in_flight: messages that one has.
        next_due: when the first of those that are held back is due (the clock's monotonic time); ``None`` for none.
    """

    ready: int
    in_flight: int
    next_due: float | None


class Event(NamedTuple):
    """Something that has happened to a message, for a test that wants to know.

    Attributes:
        what: ``put``: somebody has published it, or sent it back from a dead-letter queue; ``taken``: a client has
            received it; ``removed``: it was acknowledged; ``given back``: as it was; ``moved``: its next state is in
            the queue ``target``, another attempt or a dead letter.
        queue: where it was, or came.
        message: the message; of one that was moved its next state.
        at: when (Unix time in seconds, by the clock of the broker).
        delay: seconds for which it is held back.
        target: where it was moved.
    """

    what: Literal["put", "taken", "removed", "given back", "moved"]
    queue: str
    message: StoredMessage
    at: float
    delay: float = 0.0
    target: str = ""
