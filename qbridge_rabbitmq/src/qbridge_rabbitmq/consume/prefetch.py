"""How many unsettled deliveries a consumer should hold: enough to keep quick tasks coming, and few of slow ones.

A fixed prefetch is wrong for one of them. One message for each worker thread makes a thread that takes a millisecond
for a task wait for the broker most of the time; some hundred of them keep an hour of slow tasks from other workers
that are idle. So the prefetch follows the speed: what is held is a quarter of a second of work. It follows the size of
the messages too: beyond one for each worker no more is held than fits into some megabytes.
"""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import PREFETCH_BYTES, monotonic
from qbridge_rabbitmq.consume.consumer_tags import ConsumerTags
from qbridge_rabbitmq.recovery.poison import PoisonRule
from qbridge_rabbitmq.state.in_flight import DeliveryChannel

TICK: Final = 0.5
_SECONDS_HELD: Final = 0.25
_SOON: Final = 0.02
_SURE: Final = 3
# More brings nothing (rabbitmq.com/docs/consumer-prefetch), and after a crash all of it is delivered again.
MOST: Final = 300


class AdaptivePrefetch:
    """Follows the speed of one consumer.

    Args:
        wanted: how many messages the workers want at once; never less is held.
        most: never more is held, unless more are wanted.
    """

    def __init__(self, wanted: int, most: int = MOST) -> None:
        self._wanted = wanted
        self._most = most
        self.prefetch = wanted
        self._size = 0
        self._settled = 0
        self._at = 0.0

    def look(self, settled: int, now: float, size: int = 0) -> None:
        """Take note of how many were settled until now, and how large they are; change ``prefetch`` if it should."""
        self._size = size
        before, self._settled = self._settled, settled
        since, self._at = self._at, now
        if since > 0:
            self._follow(max(0, settled - before) / max(now - since, 0.01))

    def hurry(self, settled: int, now: float, size: int = 0) -> None:
        """Between two looks: raise ``prefetch`` as soon as it is plain that tasks are quick."""
        self._size = size
        if not self._at:
            self._settled, self._at = settled, now
        done, elapsed = settled - self._settled, now - self._at
        # Some long tasks that end together are no sign of speed.
        if done >= _SURE * self._wanted and elapsed >= _SOON:
            target = min(self._bound, round(done / elapsed * _SECONDS_HELD))
            if target >= self.prefetch * 2:
                self.prefetch = target

    @property
    def _bound(self) -> int:
        return min(self._most, PREFETCH_BYTES // max(1, self._size))

    def _follow(self, rate: float) -> None:
        bound = self._bound
        target = max(self._wanted, min(bound, round(rate * _SECONDS_HELD)))
        # A new prefetch needs a new consumer, so small differences are left alone.
        if self.prefetch > max(bound, self._wanted) or not self.prefetch / 4 < target < self.prefetch * 2:
            self.prefetch = target


class PrefetchControl:
    """Has a consumer hold what its prefetch says by now. For the I/O thread.

    What is on its way to a consumer that is retired comes back to the queue as delivered. So holding less waits until
    all that may be held is here, or the queue has nothing to send. (When a broker that is too busy sends nothing, the
    tasks only seem to be slow.)

    Args:
        rule: spares what comes back for it.
    """

    def __init__(self, rule: PoisonRule) -> None:
        self._rule = rule
        self._adaptive: AdaptivePrefetch | None = None

    def follow(self, wanted: int | None, most: int = MOST) -> None:
        """Follow the speed from now on; ``None`` to leave the prefetch as it is."""
        self._adaptive = None if wanted is None else AdaptivePrefetch(wanted, most)

    def adapt(self, channel: DeliveryChannel, tags: ConsumerTags, size: int) -> bool:
        """Now and then: hold more or less. True to have ``drained`` called if the queue is empty."""
        adaptive = self._adaptive
        if adaptive is None:
            return False
        adaptive.look(channel.settled, monotonic(), size)
        if adaptive.prefetch > tags.held:
            tags.hold(adaptive.prefetch)
        elif adaptive.prefetch < tags.held:
            if len(channel.unsettled) < tags.held:
                return True
            self._hold_less(adaptive, tags)
        return False

    def hurry(self, channel: DeliveryChannel, tags: ConsumerTags, size: int) -> None:
        """After each flush: hold more as soon as it is plain that tasks are quick."""
        adaptive = self._adaptive
        if adaptive is None:
            return
        adaptive.hurry(channel.settled, monotonic(), size)
        if adaptive.prefetch > tags.held:
            tags.hold(adaptive.prefetch)

    def drained(self, tags: ConsumerTags) -> None:
        """The queue has nothing to send."""
        adaptive = self._adaptive
        if adaptive is not None and adaptive.prefetch < tags.held:
            self._hold_less(adaptive, tags)

    def _hold_less(self, adaptive: AdaptivePrefetch, tags: ConsumerTags) -> None:
        self._rule.spare(monotonic())
        tags.hold(adaptive.prefetch)
