"""How long a message is put off: until it is due, or when no worker here can run it, but one deployed later may.

The history beside the message tells since when that is so; where a broker does not carry one, the time at which the
message was sent does. What can be told by neither waits no time.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Final

from qbridge_core.contract.capabilities import Capabilities
from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.headers import REPLAYS, instant, meta_int
from qbridge_core.contract.history import MAX_ATTEMPTS, Attempt, AttemptOutcome
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.names import worker_identity
from qbridge_core.runtime.clock import Clock
from qbridge_core.task.reading import NotDueError
from qbridge_core.task.routing import NotYetError

_FIRST: Final = 1 / 64
_LONGEST: Final = 1 / 6
"""Parts of the whole time: the first pause, and the longest. Then there are ten pauses, as many as a history holds."""


def next_pause(delivery: Delivery, exc: UnfitError, capabilities: Capabilities, clock: Clock) -> float | None:
    """Seconds until it is looked at again; ``None`` when it is not to wait, or has waited for long enough."""
    if not capabilities.delay:
        return None
    if isinstance(exc, NotDueError):
        return min(max(0.0, exc.due_at - clock.wall()), capabilities.max_delay)
    return _next_pause(delivery, exc, capabilities, clock) if isinstance(exc, NotYetError) else None


def _next_pause(delivery: Delivery, exc: NotYetError, capabilities: Capabilities, clock: Clock) -> float | None:
    waits = _waits(delivery)
    if len(waits) == MAX_ATTEMPTS:
        return None
    since = waits[0].began_at if waits else _now(clock) if capabilities.history else delivery.sent_at
    if since is None:
        return None
    waited = max(0.0, (_now(clock) - since).total_seconds())
    left = min(exc.patience - waited, capabilities.max_delay)
    return min(left, max(exc.patience * _FIRST, min(waited, exc.patience * _LONGEST))) if left > 0 else None


def wait_of(delivery: Delivery, clock: Clock) -> Attempt:
    """What the history says of it."""
    return Attempt(
        AttemptOutcome.SNOOZED, _now(clock), 0.0, worker_identity(), NotYetError.__name__,
        replays=meta_int(delivery.meta, REPLAYS),
    )  # fmt: skip


def _waits(delivery: Delivery) -> list[Attempt]:
    """Its last attempts, as far as all of them were no runs but waits of this kind, the oldest first."""
    replays = meta_int(delivery.meta, REPLAYS)
    last = itertools.takewhile(
        lambda attempt: attempt.exception_type == NotYetError.__name__ and attempt.replays == replays,
        reversed(delivery.history),
    )
    return list(last)[::-1]


def _now(clock: Clock) -> datetime:
    now = instant(round(clock.wall() * 1000))
    assert now is not None  # noqa: S101 - it is no time that cannot be told
    return now
