"""What this client holds of one queue: deliveries not settled yet, and acknowledgements not confirmed yet.

An entry stays *held* until the server has confirmed its settlement. So a copy of it that comes back (a read whose reply
was lost, a group that had to be made anew) is recognised and not handed out a second time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from qbridge_core.backend import DeliveryLostError, QBridgeError, monotonic
from qbridge_redis.state.handbacks import Handbacks

MAX_ACKS: Final = 500  # ids of one ack script: Lua cannot unpack more than about 7,000
_MAX_REFUSED: Final = 100
_REFUSED_PAUSE: Final = 2.0
_LONGEST_SETTLEMENT: Final = 120.0  # seconds; each of its steps has a shorter limit


class SettlementState(Enum):
    """Where a delivery is between its receipt and its end."""

    OPEN = "open"
    ACKED = "acked"
    SETTLING = "settling"
    SETTLED = "settled"
    LOST = "lost"


@dataclass(slots=True)
class Counts:
    """What is known of a message beyond what its entry says, so that a copy of it must say so.

    Attributes:
        crashes: all its crashes, when the group's own count knows of some that the entry's field does not.
        suspected: a former holder has died, of this message or of another one.
        attempts: its failed attempts, when some could not be written into a copy.
        suspicions: all its suspicions, when it may run beside others and the entry's field does not know of some.
    """

    crashes: int
    suspected: bool
    attempts: int
    suspicions: int = 0


@dataclass(slots=True)
class Settlement:
    """What became of attempts to settle a delivery.

    Attributes:
        since: when the settlement that is going on began, or the last one (monotonic time).
        refused_at: when one first failed (monotonic time).
    """

    since: float
    refused_at: float = 0.0


class EntryTag:
    """The ``tag`` of a delivery."""

    __slots__ = ("counts", "deleted", "entry_id", "in_flight", "reply_lost", "settlement", "state")

    def __init__(self, in_flight: InFlight, entry_id: bytes) -> None:
        self.in_flight = in_flight
        self.entry_id = entry_id
        self.state = SettlementState.OPEN
        self.counts: Counts | None = None
        self.settlement: Settlement | None = None
        self.reply_lost = False
        """A settlement was sent and its reply was lost, so an entry that is gone was settled by it."""
        self.deleted = False
        """The queue was deleted while this was held, so an entry that is gone was settled by nobody."""


class InFlight:
    """The deliveries in flight of one queue, for one connected client and server, its ``owner``. Thread-safe."""

    def __init__(self, queue: str, owner: object) -> None:
        self.queue = queue
        self.owner = owner
        self._held: dict[bytes, EntryTag] = {}
        self._acks: deque[bytes] = deque()
        self._sending = 0
        self._lost = 0
        self.batches = 0
        """How many batches of acknowledgements have been taken."""
        self.handbacks = Handbacks()
        """What went back without a copy."""
        self._refused_until = 0.0
        self._refusal: QBridgeError | None = None
        self._lock = threading.Lock()
        self._confirmed = threading.Condition(self._lock)

    def hold(self, entry_ids: Iterable[bytes]) -> list[EntryTag | None]:
        """Note entries that were read; None for each one that is held already and must not be handed out again."""
        held = self._held
        tags: list[EntryTag | None] = []
        with self._lock:
            for entry_id in entry_ids:
                if entry_id in held:
                    tags.append(None)
                else:
                    tag = held[entry_id] = EntryTag(self, entry_id)
                    tags.append(tag)
        return tags

    def is_held(self, entry_id: bytes) -> bool:
        """Whether an entry was handed out and is not confirmed as settled."""
        return entry_id in self._held

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to settle or to send, and nothing to remember."""
        with self._lock:
            return not (self._held or self._acks or self._sending or self._lost or self.handbacks.has_any)

    def held(self) -> list[bytes]:
        """The entries to renew.

        Without those whose settlement never ends: whatever has gone wrong with it, others shall have them in the end.
        """
        stuck = monotonic() - _LONGEST_SETTLEMENT
        with self._lock:
            return [entry_id for entry_id, tag in self._held.items() if not _is_stuck(tag, stuck)]

    def unsettled(self) -> list[EntryTag]:
        """The deliveries that nobody has begun to settle."""
        with self._lock:
            return [tag for tag in self._held.values() if tag.state is SettlementState.OPEN]

    # ------------------------------------------------------------------ acknowledgements

    def ack(self, tag: EntryTag) -> bool:
        """Note an acknowledgement to send; False when the delivery was settled before.

        A lost one is noted too: the work is done, and if nobody else has finished it, nobody has to do it again.
        """
        with self._lock:
            if tag.state is not SettlementState.OPEN and tag.state is not SettlementState.LOST:
                return False
            if tag.state is SettlementState.LOST:
                self._lost -= 1
            tag.state = SettlementState.ACKED
            self._acks.append(tag.entry_id)
            return True

    @property
    def has_acks(self) -> bool:
        """Whether acknowledgements can be sent."""
        return bool(self._acks) and monotonic() >= self._refused_until

    def refused_for(self) -> float | None:
        """For how many seconds refused acknowledgements wait for another try; None when there are none."""
        return max(0.0, self._refused_until - monotonic()) if self._refused_until and self._acks else None

    @property
    def is_clogged(self) -> bool:
        """Whether the server refuses acknowledgements, and so many wait that no more should be taken."""
        return bool(self._refused_until) and len(self._acks) >= _MAX_REFUSED

    def take_acks(self) -> list[bytes]:
        """Take acknowledgements to send; then call ``confirm`` or ``give_back_acks``."""
        if not self._acks or (self._refused_until and monotonic() < self._refused_until):
            return []
        with self._lock:
            acks = [self._acks.popleft() for _ in range(min(MAX_ACKS, len(self._acks)))]
            self._sending += len(acks)
            self.batches += 1
        return acks

    def confirm(self, acks: list[bytes]) -> bool:
        """The server has carried them out; return whether it had refused before."""
        pop = self._held.pop
        with self._lock:
            refused, self._refused_until = self._refused_until > 0.0, 0.0
            for entry_id in acks:
                pop(entry_id, None)
            self._sending -= len(acks)
            if not self._sending:
                self._confirmed.notify_all()
        return refused

    def give_back_acks(self, acks: list[bytes]) -> None:
        """Their reply was lost; they may be sent again, which does no harm."""
        with self._lock:
            self._acks.extendleft(reversed(acks))
            self._sending -= len(acks)
            self._confirmed.notify_all()

    def refuse_acks(self, acks: list[bytes], error: QBridgeError) -> None:
        """The server does not carry them out; they are sent again after a while."""
        if not self._refused_until:
            self._refusal = error
        self._refused_until = monotonic() + _REFUSED_PAUSE
        self.give_back_acks(acks)

    def new_refusal(self) -> QBridgeError | None:
        """Why acknowledgements are refused, if nobody has been told yet."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def retry_acks(self) -> None:
        """Send refused acknowledgements again now."""
        if self._refused_until:
            self._refused_until = monotonic()

    def wait_confirmed(self, deadline: float) -> bool:
        """Wait until no acknowledgement is on its way; return whether none is left at all."""
        with self._lock:
            while self._sending and (remaining := deadline - monotonic()) > 0:
                self._confirmed.wait(remaining)
            return not self._sending and not self._acks

    # ------------------------------------------------------------------ other settlements

    def begin(self, tag: EntryTag) -> bool:
        """Begin a settlement; False when there is nothing left to settle.

        Raises:
            DeliveryLostError: another worker holds the entry now.
        """
        with self._lock:
            if tag.state is SettlementState.LOST:
                self._lost -= 1
                tag.state = SettlementState.SETTLED
                raise DeliveryLostError(f"the lease of a delivery of {self.queue!r} ran out; it is delivered again")
            if tag.state is not SettlementState.OPEN:
                return False
            tag.state = SettlementState.SETTLING
            now = monotonic()
            if tag.settlement is None:
                tag.settlement = Settlement(now)
            tag.settlement.since = now
            return True

    def finish(self, tag: EntryTag) -> None:
        """The settlement is done, or there is nothing left to do."""
        with self._lock:
            tag.state = SettlementState.SETTLED
            self._forget(tag)

    def reopen(self, tag: EntryTag) -> None:
        """The settlement failed and may be tried again."""
        with self._lock:
            if tag.state is SettlementState.SETTLING:
                tag.state = SettlementState.OPEN

    def lose(self, entry_ids: Iterable[bytes]) -> int:
        """Note that these are not this client's any more; return how many of them were still open."""
        lost = 0
        with self._lock:
            for entry_id in entry_ids:
                tag = self._held.get(entry_id)
                if tag is None or tag.reply_lost or tag.deleted:
                    continue  # that it is gone does not mean that somebody else has it
                if tag.state is SettlementState.OPEN:
                    tag.state = SettlementState.LOST
                    del self._held[entry_id]
                    lost += 1
            self._lost += lost
        return lost

    def mark_deleted(self, entry_ids: Iterable[bytes] | None = None) -> None:
        """Note that these entries were deleted while they were held; None means all, with the queue or its group."""
        with self._lock:
            for entry_id in list(self._held) if entry_ids is None else entry_ids:
                if (tag := self._held.get(entry_id)) is not None:
                    tag.deleted = True

    def lose_all(self) -> None:
        """The client disconnects: whatever is still open belongs to the broker again."""
        with self._lock:
            for tag in self._held.values():
                if tag.state is not SettlementState.ACKED:
                    tag.state = SettlementState.LOST
            self._held.clear()

    def _forget(self, tag: EntryTag) -> None:
        if self._held.get(tag.entry_id) is tag:
            del self._held[tag.entry_id]


def _is_stuck(tag: EntryTag, since: float) -> bool:
    return tag.state is SettlementState.SETTLING and tag.settlement is not None and tag.settlement.since < since
