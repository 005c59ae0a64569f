"""Tells plugins how deliveries have ended: of each one at once, and of many together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from qbridge_core.contract.dead_letter import Failure, Reason
from qbridge_core.contract.headers import DUE_AT, meta_int
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.settlement import Settlement
from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import Outcome
from qbridge_core.task.run import Run

DEAD_LETTERED: Final = "dead-lettered"
EVERY: Final = 0.25
"""Seconds between two calls of the hook that is told of many settlements."""
_LAST_CALL: Final = 0.4
_AT_ONCE: Final = 10_000
_MOST_UNTOLD: Final = 200_000
"""The oldest are forgotten then: the hook hangs, and nothing may grow without end."""


class Accounts:
    """What was settled in one queue, for the plugins that listen. Thread-safe.

    Args:
        lifecycle: the hooks.
        queue: the input queue.
        system: of the client.
    """

    def __init__(self, lifecycle: Lifecycle, queue: str, system: str) -> None:
        self._lifecycle = lifecycle
        self._queue = queue
        self._system = system
        self._tells_each = lifecycle.hears_each_settlement
        self._tells_many = lifecycle.hears_settlements
        self._untold: deque[Settlement] = deque(maxlen=_MOST_UNTOLD)
        self._running = 0
        self._over = threading.Event()
        self._teller: threading.Thread | None = None

    @classmethod
    def of(cls, lifecycle: Lifecycle, queue: str, system: str) -> Self | None:
        """None when nobody listens."""
        listens = lifecycle.hears_each_settlement or lifecycle.hears_settlements
        return cls(lifecycle, queue, system) if listens else None

    def succeeded(self, run: Run, duration: float, began: float) -> None:
        """A run was acknowledged; the settlement began at this ``monotonic()``."""
        now = monotonic()
        self._tell(
            run.delivery,
            Settlement(
                run.task_id, run.attempt, Outcome.SUCCEEDED.value, None, waited(run, now), duration, now - began
            ),
        )

    def put_back(self, run: Run, outcome: Outcome, reason: Reason | None, began: float) -> None:
        """A run was put back to be run again."""
        now = monotonic()
        lasted = max(0.0, began - run.started_at)
        self._tell(
            run.delivery,
            Settlement(run.task_id, run.attempt, outcome.value, reason, waited(run, now), lasted, now - began),
        )

    def dead_lettered(self, delivery: Delivery, run: Run | None, failure: Failure, began: float) -> None:
        """A message was dead-lettered, after a run of it or without one."""
        now = monotonic()
        if run is None:
            ended = Settlement(
                failure.task_id, failure.attempts, DEAD_LETTERED, failure.reason, None, None, now - began
            )
        else:
            lasted = max(0.0, began - run.started_at)
            ended = Settlement(
                run.task_id, run.attempt, DEAD_LETTERED, failure.reason, waited(run, now), lasted, now - began
            )
        self._tell(delivery, ended)

    def _tell(self, delivery: Delivery, settlement: Settlement) -> None:
        if self._tells_many:
            self._untold.append(settlement)
        if self._tells_each:
            self._lifecycle.task_settled(
                queue=self._queue, message_id=delivery.message_id, headers=delivery.headers, system=self._system,
                **settlement._asdict(),
            )  # fmt: skip

    # ------------------------------------------------------------------ many together

    def begin(self, running: Callable[[], int]) -> None:
        """Tell of many together from now on, in a thread; ``running`` counts the handlers that run."""
        if self._tells_many:
            self._over.clear()
            self._teller = aside("qbridge-settlements", lambda: self._tell_many(running))

    def end(self) -> None:
        """Tell of the last ones, and wait for that, but not for a hook that hangs."""
        self._over.set()
        if self._teller is not None:
            self._teller.join(_LAST_CALL)
            self._teller = None

    def _tell_many(self, running: Callable[[], int]) -> None:
        while not self._over.wait(EVERY):
            self._tell_untold(running())
        self._tell_untold(0)

    def _tell_untold(self, running: int) -> None:
        untold = self._untold
        while untold or running != self._running:
            self._running = running
            settlements = [untold.popleft() for _ in range(min(len(untold), _AT_ONCE))]
            self._lifecycle.settlements(queue=self._queue, settlements=settlements, running=running)


def waited(run: Run, now: float) -> float | None:
    """Seconds from when a message was sent, came due or was put back, to the start of its run; None if unknown.

    Args:
        run: the run.
        now: ``monotonic()``.
    """
    delivery: Delivery = run.delivery
    since = (delivery.meta and meta_int(delivery.meta, DUE_AT)) or delivery.sent_at_ms
    if not since:
        return None
    return max(0.0, time.time() - (now - run.started_at) - since / 1000)
