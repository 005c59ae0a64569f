"""Remembers what was in flight when a connection was lost, so that nothing runs twice for it.

The broker delivers again what was unsettled on a lost channel. The loss is no reason to run a task a second time: its
handler may still be running here, or may have ended with the acknowledgement on its way. So a message that comes back
to the client that held it is recognized by its queue, message id, copy and body. Then

* a delivery that the application still holds is bound to the new channel, and nothing is handed out;
* one that was settled meanwhile is settled on the new channel as the application wanted;
* one whose acknowledgement may not have reached the broker is acknowledged again;
* one that was only read ahead is handed out, and known not to have killed anybody.

So is one that this client has given back because the broker refused to have it elsewhere, with what was decided.

What does not come back here went to another consumer, or was acknowledged; it is forgotten after a while.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from qbridge_core.backend import Delivery, GrowingPause, logger, monotonic
from qbridge_rabbitmq.recovery.duplicates import Duplicates
from qbridge_rabbitmq.state.identity import Key, exact, key_of
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel, Handback

_log: Final = logger("qbridge.rabbitmq")
MAX_ENTRIES: Final = 10_000
MAX_AGE: Final = 600.0
# Each may hold a traceback. They come back one after the other, so these are those of the last minutes.
MAX_HANDBACKS: Final = 1_000
MAX_HANDBACK_AGE: Final = 3_600.0
_PAUSES: Final = 0.1, 5.0
Settlement = Callable[[], bool]
"""Settles a delivery that has been bound again, in a thread that may wait; False to be called again later."""


class _Entry:
    """A delivery that was lost while the application held it, or settled it after that."""

    __slots__ = ("delivery", "key", "lost_at", "settlement", "settling")

    def __init__(self, key: Key, delivery: Delivery, settling: bool, lost_at: float) -> None:
        self.key = key
        self.delivery = delivery
        self.settling = settling  # somebody is at it
        self.settlement: Settlement | None = None
        self.lost_at = lost_at


class LostDeliveries:
    """The lost deliveries of one client. Thread-safe; takes its own lock before that of a :class:`DeliveryChannel`.

    Args:
        max_entries: how many are remembered, of those that are open and of those that are done.
        max_age: for how many seconds.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_age: float = MAX_AGE) -> None:
        self._max_entries = max_entries
        self._max_age = max_age
        self._lock = threading.Lock()
        self._entries: dict[_Entry, None] = {}  # the oldest first, as in the next two
        self._waiting: dict[Key, deque[_Entry]] = {}
        self._done: dict[Key, tuple[int, float]] = {}  # how many with this key, and since when
        self._unstarted: dict[Key, tuple[int, float]] = {}  # likewise
        self._handbacks: dict[Key, tuple[Handback, float]] = {}  # and since when
        self._open: dict[int, _Entry] = {}  # by the identity of the delivery: not settled by the application yet
        self._chores = _Chores()
        self.duplicates: Final = Duplicates()

    def __len__(self) -> int:
        return len(self._entries) + len(self._done)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to recognize; cheap."""
        return not self._waiting and not self._done and not self._unstarted and not self._handbacks

    def held(self, queue: str) -> int:
        """How many deliveries of a queue the application still holds, though the broker has taken them back."""
        with self._lock:
            return sum(entry.key[0] == queue for entry in self._open.values())

    # ------------------------------------------------------------------ I/O thread

    def adopt(self, channel: DeliveryChannel) -> None:
        """A channel has ended: take over what was in flight on it."""
        now = monotonic()
        with self._lock:  # whoever finds the channel ended then waits here until its delivery is known
            loss = channel.lose()
            for settling, items in ((False, loss.held), (True, loss.settling)):
                for key, delivery in items:
                    entry = _Entry(key, delivery, settling, now)
                    self._entries[entry] = None
                    self._waiting.setdefault(key, deque()).append(entry)
                    self._open[id(delivery)] = entry
            for key in loss.acknowledged:
                _add_one(self._done, key, now)
        self.expire()

    def recognize(self, key: Key, arrival: Arrival) -> bool:
        """Whether a redelivered message was in flight here; then it has been dealt with."""
        self.expire()
        with self._lock:
            entries = self._waiting.get(key)
            if entries:
                self._bind(entries[0], arrival)
                return True
            if not _take_one(self._done, key):
                return False
            arrival.channel.acknowledge(arrival)
        _log.info("message %s of %r came back after its work was done; it is acknowledged again", key[1], key[0])
        return True

    def note_unstarted(self, keys: Iterable[Key]) -> None:
        """These were lost before anybody could run them (in any thread)."""
        now = monotonic()
        with self._lock:
            for key in keys:
                _add_one(self._unstarted, key, now)
        self.expire()

    def note_suspects(self, queue: str, arrivals: Iterable[Arrival]) -> None:
        """Of those that were lost so, what was known when they came (in any thread)."""
        for arrival in arrivals:
            if arrival.suspected or arrival.handback is not None:
                handback = arrival.handback or Handback(None, arrival.suspected)
                self.note_handback(exact(queue, arrival.properties, arrival.body), handback)

    def replace(self, queue: str, arrival: Arrival) -> None:
        """A copy of it exists: acknowledge it now, or when its channel is lost meanwhile, as soon as it comes back.

        For one that nobody was given (in any thread).
        """
        if not arrival.channel.acknowledge(arrival) and (key := key_of(queue, arrival.trace)) is not None:
            with self._lock:
                _add_one(self._done, key, monotonic())

    def note_handback(self, key: Key, handback: Handback) -> None:
        """A message goes back to its queue (in any thread)."""
        with self._lock:
            self._handbacks.pop(key, None)
            self._handbacks[key] = handback, monotonic()
            if len(self._handbacks) > MAX_HANDBACKS:
                del self._handbacks[next(iter(self._handbacks))]

    def take_handback(self, key: Key) -> Handback | None:
        """What is remembered of a message that may be one of those (in any thread)."""
        with self._lock:
            handback, _ = self._handbacks.pop(key, (None, 0.0))
            return handback

    @property
    def has_handbacks(self) -> bool:
        """Whether there are any; cheap."""
        return bool(self._handbacks)

    def was_unstarted(self, key: Key) -> bool:
        """Whether a redelivered message is one of those."""
        with self._lock:
            return _take_one(self._unstarted, key)

    def expire(self) -> None:
        """Now and then: forget what is too old or too much."""
        self._chores.revive()
        with self._lock:
            oldest = monotonic() - self._max_age
            while self._entries:
                entry = next(iter(self._entries))
                if entry.lost_at > oldest and len(self._entries) <= self._max_entries:
                    break
                self._forget(entry)
            gone = monotonic() - MAX_HANDBACK_AGE
            while self._handbacks and next(iter(self._handbacks.values()))[1] < gone:
                del self._handbacks[next(iter(self._handbacks))]
            for memory in (self._done, self._unstarted):
                while memory:
                    key, (_, since) = next(iter(memory.items()))
                    if since > oldest and len(memory) <= self._max_entries:
                        break
                    del memory[key]

    # ------------------------------------------------------------------ any thread, for deliveries of an ended channel

    def acknowledge(self, delivery: Delivery) -> bool:
        """The work is done. False when the delivery has been bound again: settle it there."""
        with self._lock:
            if not delivery.tag.channel.lost:
                return False
            entry = self._open.get(id(delivery))
            if entry is not None and not entry.settling:
                self._complete(entry)
            return True

    def finish(self, delivery: Delivery) -> bool:
        """A settlement that began before the loss has succeeded. False when the delivery has been bound again."""
        with self._lock:
            if not delivery.tag.channel.lost:
                return False
            entry = self._open.get(id(delivery))
            if entry is not None:
                self._complete(entry)
            return True

    def unclaim(self, delivery: Delivery) -> bool:
        """A settlement that began before the loss has failed. False when the delivery has been bound again."""
        with self._lock:
            if not delivery.tag.channel.lost:
                return False
            entry = self._open.get(id(delivery))
            if entry is not None:
                entry.settling = False
            return True

    def record(self, delivery: Delivery, settlement: Settlement | None) -> bool:
        """Have it settled like this when it comes back; ``None`` to have it handed out again then.

        False when the delivery has been bound again: settle it there.
        """
        with self._lock:
            if not delivery.tag.channel.lost:
                return False
            entry = self._open.get(id(delivery))
            if entry is None or entry.settling:
                return True  # it is settled already, or somebody is at it
            if settlement is None:
                self._remove(entry)
            else:
                del self._open[id(delivery)]
                entry.settlement = settlement
            return True

    def close(self) -> None:
        """The client was disconnected: what is still held is lost."""
        with self._lock:
            for entry in list(self._entries):
                self._forget(entry)
            self._done.clear()
            self._unstarted.clear()
            self._handbacks.clear()
        self._chores.close()

    # ------------------------------------------------------------------ with the lock

    def _bind(self, entry: _Entry, arrival: Arrival) -> None:
        self._remove(entry)
        delivery = entry.delivery
        settlement = entry.settlement
        delivery.tag = arrival
        arrival.channel.resume(arrival.number, delivery, entry.settling or settlement is not None)
        if settlement is not None:
            self._chores.add(settlement)

    def _complete(self, entry: _Entry) -> None:
        _add_one(self._done, entry.key, monotonic())  # before it is removed, for is_empty
        self._remove(entry)

    def _forget(self, entry: _Entry) -> None:
        self._remove(entry)
        self.duplicates.withdraw(entry.key[2])
        if entry.settlement is None and not entry.settling:
            entry.delivery.tag.channel.disown(entry.delivery.tag.number, entry.delivery)

    def _remove(self, entry: _Entry) -> None:
        self._entries.pop(entry, None)
        self._open.pop(id(entry.delivery), None)
        entries = self._waiting[entry.key]
        entries.remove(entry)
        if not entries:
            del self._waiting[entry.key]


def _add_one(memory: dict[Key, tuple[int, float]], key: Key, now: float) -> None:
    count, _ = memory.pop(key, (0, 0.0))
    memory[key] = count + 1, now


def _take_one(memory: dict[Key, tuple[int, float]], key: Key) -> bool:
    if key not in memory:
        return False
    count, since = memory.pop(key)
    if count > 1:
        memory[key] = count - 1, since
    return True


class _Chores:
    """Carries out settlements in a thread that exists only while there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Settlement] = deque()
        self._running = False
        self._closed = threading.Event()

    def add(self, call: Settlement) -> None:
        """Have this called, again and again until it returns True."""
        with self._lock:
            self._calls.append(call)
        self.revive()

    def revive(self) -> None:
        """Start the thread when there is something to do; call it now and then, for the system may have none left."""
        with self._lock:
            if self._running or not self._calls:
                return
            try:
                threading.Thread(target=self._run, name="qbridge-rabbitmq-settle", daemon=True).start()
            except RuntimeError as exc:
                _log.error("settlements wait for a thread: %s", exc)
            else:
                self._running = True

    def close(self) -> None:
        """Call nothing any more."""
        self._closed.set()

    def _run(self) -> None:
        pause = GrowingPause(*_PAUSES)
        while True:
            with self._lock:
                if not self._calls or self._closed.is_set():
                    self._calls.clear()
                    self._running = False
                    return
                call = self._calls.popleft()
            try:
                done = call()
            except Exception:  # noqa: BLE001 - the others must be settled all the same, and this one in the end
                _log.exception("a settlement failed; it is tried again")
                done = False
            if done:
                pause.reset()
                continue
            with self._lock:
                self._calls.append(call)
            self._closed.wait(pause.next())
