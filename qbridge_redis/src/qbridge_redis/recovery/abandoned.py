"""Remembers entries that were not renewed, so that only those are taken over whose worker is really gone.

The server measures by its wall clock how long ago an entry was renewed, and that clock can be set: a step of a minute
makes every lease look run out. Therefore an entry is noticed when it missed a renewal, and taken over when it still has
not been renewed a good deal longer than a renewal takes, by this process's own monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from qbridge_redis.protocol.scripts import Argument
from qbridge_redis.recovery.leases import RENEWALS
from qbridge_redis.state.handbacks import HANDBACK

_NOTICED: Final = 0.5  # of a lease; one that was renewed in time is never so old
_WATCHED: Final = 0.4  # of a lease; more than a third, after which a living worker renews
_STEP: Final = 1.0  # smaller steps of the server's clock do not matter
_MARGIN: Final = 0.005
_IN_FUTURE: Final = -1


@dataclass(slots=True)
class _Sighting:
    consumer: bytes
    deliveries: int
    renewed: int
    ready_at: float
    least_idle: int


class AbandonedEntries:
    """The entries of one queue that look abandoned. For one thread at a time.

    Args:
        lease: seconds.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self.tolerance: Final = round(min(1.0, lease / (2 * RENEWALS)) * 1000)
        """By so many milliseconds two readings of one renewal's time may differ."""
        self._seen: dict[bytes, _Sighting] = {}
        self._clock: float | None = None
        self._all_until = -math.inf

    def least_idle(self, now: float) -> int:
        """From which age on (milliseconds) to look at entries: at all of them while the server's clock is behind."""
        return 0 if now < self._all_until else round(self._lease * _NOTICED * 1000)

    def clear(self) -> None:
        """Begin anew: after an outage everything looks abandoned."""
        self._seen.clear()

    def look(self, rows: Iterable[Sequence[Any]], server_ms: int, now: float) -> None:
        """Note what a look has found: rows of id, consumer, idle milliseconds and deliveries."""
        self._follow_clock(server_ms, now)
        before, self._seen = self._seen, {}
        for entry_id, consumer, idle, deliveries in rows:
            renewed = _IN_FUTURE if idle == 0 and now < self._all_until else server_ms - idle
            known = before.get(entry_id)
            if known is None or not self._is_same(known, consumer, deliveries, renewed):
                known = self._first_sighting(consumer, idle, deliveries, renewed, now)
            self._seen[entry_id] = known

    def ready_at(self) -> float:
        """When the next one may be taken over (monotonic time)."""
        return min((sighting.ready_at for sighting in self._seen.values()), default=math.inf)

    def ripe(self, count: int, now: float, pause: float) -> list[Argument]:
        """Up to ``count`` entries to take over, as the script wants them; in ``pause`` seconds they are named again."""
        ripe: list[Argument] = []
        for entry_id, sighting in self._seen.items():
            if sighting.ready_at <= now and len(ripe) < 5 * count:
                sighting.ready_at = now + pause
                ripe += (entry_id, sighting.consumer, sighting.deliveries, sighting.renewed, sighting.least_idle)
        return ripe

    def taken(self, entry_ids: Iterable[bytes]) -> None:
        """These are this client's now."""
        for entry_id in entry_ids:
            self._seen.pop(entry_id, None)

    def _first_sighting(self, consumer: bytes, idle: int, deliveries: int, renewed: int, now: float) -> _Sighting:
        if consumer.startswith(HANDBACK.encode()):
            return _Sighting(consumer, deliveries, renewed, now, 0)
        if renewed == _IN_FUTURE:
            return _Sighting(consumer, deliveries, renewed, now + self._lease, 0)
        watched = max(self._lease * _WATCHED, self._lease - idle / 1000 + _MARGIN)
        return _Sighting(consumer, deliveries, renewed, now + watched, round(self._lease * 1000))

    def _is_same(self, known: _Sighting, consumer: bytes, deliveries: int, renewed: int) -> bool:
        if (known.consumer, known.deliveries) != (consumer, deliveries):
            return False
        if _IN_FUTURE in (known.renewed, renewed):
            return known.renewed == renewed
        return abs(known.renewed - renewed) <= self.tolerance

    def _follow_clock(self, server_ms: int, now: float) -> None:
        clock = server_ms / 1000 - now
        if self._clock is not None and self._clock - clock > _STEP:
            # What was renewed before the step seems to be renewed in the future, and so to have no age.
            self._all_until = now + (self._clock - clock) + 2 * self._lease
        self._clock = clock
