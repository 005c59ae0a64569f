"""The queues of a client that are read with others, and what has come for them.

A few queues at a time have connections of their own, where a read takes acknowledgements along. When more are
subscribed, one that finds nothing gives its connection up and waits here, until something has come for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from qbridge_core.backend import Delivery, DeliveryLostError, QBridgeError, monotonic
from qbridge_redis.consume.own_connections import OwnConnections
from qbridge_redis.consume.reading import SLICE
from qbridge_redis.consume.subscription import PATIENCE, Subscription
from qbridge_redis.settle.rejections import Rejections
from qbridge_redis.state.context import NodeContext, log

_SWEEP_EVERY: Final = 0.5


class Reads(Protocol):
    """Whoever reads queues of one server together; for any thread.

    Attributes:
        turns: how often it has read what there is.
    """

    turns: int

    def ensure(self) -> None:
        """Have a thread read, if none does.

        Raises:
            RuntimeError: the system has no thread left.
        """

    def expect(self, new: Sequence[Subscription]) -> None:
        """Read these soon, too."""

    def wake(self) -> None:
        """Look again at what to read. It is known by the end of the call, if the server answers."""

    def care(self) -> None:
        """Something was left that may not be collected."""

    def require_success(self) -> None:
        """Do nothing as long as the queues can be read.

        Raises:
            BrokerUnavailableError: they could not be read the last time.
        """


class SharedQueues:
    """Those queues. Thread-safe.

    Args:
        closing: set when ``disconnect`` begins.
        reader_of: who reads the queues of a node now.

    Attributes:
        own_connections: which queues are not among them.
        turned: notified when a reader has read.
    """

    def __init__(self, closing: threading.Event, reader_of: Callable[[NodeContext], Reads]) -> None:
        self.own_connections: Final = OwnConnections()
        self._closing = closing
        self._reader_of = reader_of
        self._lock = threading.Lock()
        self.turned: Final = threading.Condition(self._lock)
        self._subscriptions: dict[bytes, Subscription] = {}
        self._uncollected: set[Subscription] = set()
        self._sweep_at = 0.0

    def queues(self) -> list[str]:
        """The queues that are read together now."""
        with self._lock:
            return [subscription.queue for subscription in self._subscriptions.values()]

    # ------------------------------------------------------------------ for the threads that receive

    def receive(
        self, subscription: Subscription, count: int, deadline: float, is_cancelled: Callable[[], bool]
    ) -> list[Delivery]:
        """Wait until ``deadline`` (monotonic time) for what comes for a queue.

        May end sooner with nothing.

        Raises:
            BrokerUnavailableError: it could not be read at the end.
            QBridgeError: it cannot be read.
        """
        subscription.count = count
        subscription.until = deadline + PATIENCE
        if batch := subscription.collect(count):
            return batch
        self.add([subscription])
        while not is_cancelled() and self.has(subscription):
            if (left := deadline - monotonic()) <= 0:
                self.require_success([subscription])
                return []
            subscription.wait(left)
        return subscription.collect(count)

    def require_success(self, wanted: Sequence[Subscription]) -> None:
        """Do nothing as long as some of these queues can be read.

        Raises:
            BrokerUnavailableError: none of them could be read the last time.
        """
        failed: QBridgeError | None = None
        for subscription in wanted:
            try:
                self._reader_of(subscription.context).require_success()
                subscription.require_success()
            except QBridgeError as exc:
                failed = failed or exc
            else:
                return
        if failed is not None:
            raise failed

    def remove(self, subscription: Subscription) -> None:
        """Read a queue no more, and give back what has come for it."""
        with self._lock:
            self._subscriptions.pop(subscription.stream, None)
            reader = subscription.reader if subscription.is_read else None
            turns = 0 if reader is None else reader.turns
        if reader is not None:
            reader.wake()
            with self.turned:
                self.turned.wait_for(lambda: reader.turns != turns, SLICE)
        self._give_back(subscription)

    def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Read these queues too, those that are not read already.

        Raises:
            BrokerUnavailableError: nobody knows where any of them is.
            RuntimeError: the system has no thread left for it.
        """
        new: dict[Reads, list[Subscription]] = {}
        failed: QBridgeError | None = None
        for one in subscriptions:
            if one.stream not in self._subscriptions:
                try:
                    new.setdefault(self._reader_of(one.context), []).append(one)
                except QBridgeError as exc:
                    failed = failed or exc
        for reader, theirs in new.items():
            reader.ensure()  # before anything is noted: without a thread all is tried again
            with self._lock:
                for one in theirs:
                    one.home = reader
                    self._subscriptions[one.stream] = one
            reader.expect(theirs)
            self._confirm(theirs)
        for reader in new:
            reader.wake()
        if failed is not None and not any(map(self.has, subscriptions)):
            raise failed

    def keep(self, subscription: Subscription, batch: Sequence[Delivery]) -> None:
        """Leave deliveries to whoever receives next; when nobody does for a while, they go back."""
        if not batch:
            return
        subscription.home = reader = self._reader_of(subscription.context)
        self.deliver(subscription, batch)
        if not self._closing.is_set():  # otherwise all that is held is handed back soon
            reader.ensure()
            reader.care()
        self._confirm([subscription])

    def _confirm(self, subscriptions: Sequence[Subscription]) -> None:
        """Look again where they are: one that moved just now has perhaps not been seen by ``rearrange``."""
        if any(self._reader_of(one.context) is not one.home for one in subscriptions):
            self.rearrange()

    def rearrange(self) -> None:
        """Queues may be at other servers now: have them looked after there."""
        with self._lock:
            subscriptions = [*self._subscriptions.values(), *self._uncollected]
        for one in subscriptions:
            try:
                reader = self._reader_of(one.context)
                if reader is not one.home:
                    reader.ensure()
                    one.home = reader
                    reader.care()
            except (QBridgeError, RuntimeError):  # whoever receives finds out what is wrong
                self.eject(one)
                one.wake()

    # ------------------------------------------------------------------ for the threads that read

    def begin(self, reader: Reads) -> list[Subscription]:
        """What a reader is to read in this turn: what somebody asks for there, and nobody else reads any more."""
        now = monotonic()
        with self._lock:
            if now >= self._sweep_at:
                self._subscriptions = {stream: one for stream, one in self._subscriptions.items() if one.until >= now}
                self._sweep_at = now + _SWEEP_EVERY
            current = [one for one in self._subscriptions.values() if one.home is reader and not one.is_read]
            moved = [one for one in current if one.begin(reader)]
        if moved:
            reader.expect(moved)
        return current

    def end(self, reader: Reads, current: Sequence[Subscription]) -> None:
        """The turn is over."""
        with self.turned:
            for one in current:
                one.is_read = False
            reader.turns += 1
            self.turned.notify_all()

    def has(self, subscription: Subscription) -> bool:
        """Whether it is still read here; if not, it is the business of the thread that receives."""
        return self._subscriptions.get(subscription.stream) is subscription

    def deliver(self, subscription: Subscription, batch: Sequence[Delivery]) -> None:
        """Leave it to whoever receives; the queue is read here again when that asks for more."""
        if batch:
            self.eject(subscription)
            subscription.put(batch)
            with self._lock:
                self._uncollected.add(subscription)

    def eject(self, subscription: Subscription) -> None:
        """Do not read it here any more."""
        with self._lock:
            if self._subscriptions.get(subscription.stream) is subscription:
                del self._subscriptions[subscription.stream]

    def give_back_uncollected(self, reader: Reads) -> bool:
        """Give back what nobody has collected for a while, there; return whether more may have to be."""
        now, left = monotonic(), False
        for subscription in self._uncollected.copy():
            if subscription.home is reader:
                if now > subscription.collect_by:
                    self._give_back(subscription)
                left = left or subscription.has_come
        with self._lock:
            self._uncollected = {subscription for subscription in self._uncollected if subscription.has_come}
        return left

    def _give_back(self, subscription: Subscription) -> None:
        """Give back, uncounted, what nobody has collected."""
        for delivery in subscription.clear():
            try:
                Rejections(subscription.context).hand_back(delivery, 0.0)
            except DeliveryLostError:
                pass  # others have it
            except QBridgeError as exc:
                log.debug("a message of %s is given back later: %s", subscription.queue, exc)
                self.deliver(subscription, [delivery])
