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
from qbridge_redis.state.handbacks import Returned

MAX_ACKS: Final = 500  # ids of one ack script: Lua cannot unpack more than about 7,000
_MAX_REFUSED: Final = 100
_REFUSED_PAUSE: Final = 2.0
_LONGEST_SETTLEMENT: Final = 120.0  # seconds; each of its steps has a shorter limit


class State(Enum):
    """Where a delivery is between its receipt and its end."""

    OPEN = "open"
    ACKED = "acked"
    SETTLING = "settling"
    SETTLED = "settled"
    LOST = "lost"


@dataclass(slots=True)
class Past:
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
class Trouble:
    """What became of attempts to settle a delivery.

    Attributes:
        since: when the settlement that is going on began, or the last one (monotonic time).
        refused_at: when one first failed (monotonic time).
    """

    since: float
    refused_at: float = 0.0


class Ticket:
    """The ``tag`` of a delivery."""

    __slots__ = ("entry_id", "ledger", "past", "state", "trouble", "unsure", "uprooted")

    def __init__(self, ledger: Ledger, entry_id: bytes) -> None:
        self.ledger = ledger
        self.entry_id = entry_id
        self.state = State.OPEN
        self.past: Past | None = None
        self.trouble: Trouble | None = None
        self.unsure = False
        """A settlement was sent and its reply was lost, so an entry that is gone was settled by it."""
        self.uprooted = False
        """The queue was deleted while this was held, so an entry that is gone was settled by nobody."""


class Ledger:
    """The books of one queue for one session, its ``owner``. Thread-safe."""

    def __init__(self, queue: str, owner: object) -> None:
        self.queue = queue
        self.owner = owner
        self._held: dict[bytes, Ticket] = {}
        self._acks: deque[bytes] = deque()
        self._sending = 0
        self.batches = 0
        """How many batches of acknowledgements have been taken."""
        self.returned = Returned()
        """What went back without a copy."""
        self._refused_until = 0.0
        self._refusal: QBridgeError | None = None
        self._lock = threading.Lock()
        self._confirmed = threading.Condition(self._lock)

    def hold(self, entry_ids: Iterable[bytes]) -> list[Ticket | None]:
        """Note entries that were read; None for each one that is held already and must not be handed out again."""
        held = self._held
        tickets: list[Ticket | None] = []
        with self._lock:
            for entry_id in entry_ids:
                if entry_id in held:
                    tickets.append(None)
                else:
                    ticket = held[entry_id] = Ticket(self, entry_id)
                    tickets.append(ticket)
        return tickets

    def is_held(self, entry_id: bytes) -> bool:
        """Whether an entry was handed out and is not confirmed as settled."""
        return entry_id in self._held

    def held(self) -> list[bytes]:
        """The entries to renew.

        Without those whose settlement never ends: whatever has gone wrong with it, others shall have them in the end.
        """
        stuck = monotonic() - _LONGEST_SETTLEMENT
        with self._lock:
            return [entry_id for entry_id, ticket in self._held.items() if not _is_stuck(ticket, stuck)]

    def open_tickets(self) -> list[Ticket]:
        """The deliveries that nobody has begun to settle."""
        with self._lock:
            return [ticket for ticket in self._held.values() if ticket.state is State.OPEN]

    # ------------------------------------------------------------------ acknowledgements

    def ack(self, ticket: Ticket) -> bool:
        """Note an acknowledgement to send; False when the delivery was settled before.

        A lost one is noted too: the work is done, and if nobody else has finished it, nobody has to do it again.
        """
        with self._lock:
            if ticket.state is not State.OPEN and ticket.state is not State.LOST:
                return False
            ticket.state = State.ACKED
            self._acks.append(ticket.entry_id)
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

    def begin(self, ticket: Ticket) -> bool:
        """Begin a settlement; False when there is nothing left to settle.

        Raises:
            DeliveryLostError: another worker holds the entry now.
        """
        with self._lock:
            if ticket.state is State.LOST:
                ticket.state = State.SETTLED
                raise DeliveryLostError(f"the lease of a delivery of {self.queue!r} ran out; it is delivered again")
            if ticket.state is not State.OPEN:
                return False
            ticket.state = State.SETTLING
            now = monotonic()
            if ticket.trouble is None:
                ticket.trouble = Trouble(now)
            ticket.trouble.since = now
            return True

    def finish(self, ticket: Ticket) -> None:
        """The settlement is done, or there is nothing left to do."""
        with self._lock:
            ticket.state = State.SETTLED
            self._forget(ticket)

    def reopen(self, ticket: Ticket) -> None:
        """The settlement failed and may be tried again."""
        with self._lock:
            if ticket.state is State.SETTLING:
                ticket.state = State.OPEN

    def lose(self, entry_ids: Iterable[bytes]) -> int:
        """Note that these are not this client's any more; return how many of them were still open."""
        lost = 0
        with self._lock:
            for entry_id in entry_ids:
                ticket = self._held.get(entry_id)
                if ticket is None or ticket.unsure or ticket.uprooted:
                    continue  # that it is gone does not mean that somebody else has it
                if ticket.state is State.OPEN:
                    ticket.state = State.LOST
                    del self._held[entry_id]
                    lost += 1
        return lost

    def uproot(self, entry_ids: Iterable[bytes] | None = None) -> None:
        """Note that these entries were deleted while they were held; None means all, with the queue or its group."""
        with self._lock:
            for entry_id in list(self._held) if entry_ids is None else entry_ids:
                if (ticket := self._held.get(entry_id)) is not None:
                    ticket.uprooted = True

    def lose_all(self) -> None:
        """The client disconnects: whatever is still open belongs to the broker again."""
        with self._lock:
            for ticket in self._held.values():
                if ticket.state is not State.ACKED:
                    ticket.state = State.LOST
            self._held.clear()

    def _forget(self, ticket: Ticket) -> None:
        if self._held.get(ticket.entry_id) is ticket:
            del self._held[ticket.entry_id]


def _is_stuck(ticket: Ticket, since: float) -> bool:
    return ticket.state is State.SETTLING and ticket.trouble is not None and ticket.trouble.since < since
