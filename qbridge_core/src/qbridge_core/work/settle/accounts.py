"""Tells plugins how deliveries have ended: of each one at once, and of many together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import Failure, Reason
from qbridge_core.contract.headers import DUE_AT, meta_int
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.settlement import Settlement
from qbridge_core.runtime.aside import Helper, aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import Outcome, Tally
from qbridge_core.task.run import Run
from qbridge_core.work.settle.rules import Rules

SUCCEEDED: Final = Outcome.SUCCEEDED.value
DEAD_LETTERED: Final = "dead-lettered"
EVERY: Final = 0.25
"""Seconds between two calls of the hook that is told of many settlements."""
_LAST_CALL: Final = 0.4
QUICK: Final = 0.05
"""Seconds. Of runs that took longer a worker does not settle so many that it could not measure each one."""
_MEASURED: Final = 250
"""So many quick runs are measured in the time between two calls; then each task pays next to nothing."""
_MOST_UNTOLD: Final = 200_000
"""The oldest are forgotten then: the hook hangs, and nothing may grow without end."""


class Accounts:
    """What was settled in one queue, for the plugins that listen. Thread-safe.

    Args:
        lifecycle: the hooks.
        rules: of the worker.
        client: whose name of the broker is told.
        tally: counts every success, after it was told here.

    Attributes:
        is_full: enough quick runs were measured for now. Those that follow need not be told: the tally has them.
    """

    def __init__(self, lifecycle: Lifecycle, rules: Rules, client: QueueClient, tally: Tally) -> None:
        self.is_full = False
        self._lifecycle = lifecycle
        self._queue = rules.queue
        self._clock = rules.clock
        self._broker: Final = {"system": client.system, "server": client.server}
        self._tells_each = lifecycle.hears_each_settlement
        self._tells_many = lifecycle.hears_settlements
        self._untold: deque[Settlement] = deque(maxlen=_MOST_UNTOLD)
        self._tally = tally
        self._measured = 0
        self._successes = 0  # that were told of, since the tally stood at:
        self._counted_before = 0
        self._running = 0
        self._over = threading.Event()
        self._teller: Helper | None = None

    @classmethod
    def of(cls, lifecycle: Lifecycle, rules: Rules, client: QueueClient, tally: Tally) -> Self | None:
        """None when nobody listens."""
        listens = lifecycle.hears_each_settlement or lifecycle.hears_settlements
        return cls(lifecycle, rules, client, tally) if listens else None

    def succeeded(self, run: Run, duration: float, began: float) -> None:
        """A run was acknowledged; the settlement began at this ``monotonic()``."""
        now = monotonic()
        self._tell(
            run.delivery,
            Settlement(run.task_id, run.attempt, SUCCEEDED, None, self._waited(run), duration, now - began),
        )
        self._measured += 1  # by several threads at once: the limit is none that must be exact
        if self._measured >= _MEASURED and not self._tells_each:
            self.is_full = True

    def put_back(self, run: Run, outcome: Outcome, reason: Reason | None, began: float) -> None:
        """A run was put back to be run again."""
        now = monotonic()
        lasted = max(0.0, began - run.started_at)
        self._tell(
            run.delivery,
            Settlement(run.task_id, run.attempt, outcome.value, reason, self._waited(run), lasted, now - began),
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
                run.task_id,
                run.attempt,
                DEAD_LETTERED,
                failure.reason,
                self._waited(run),
                lasted,
                now - began,
            )
        self._tell(delivery, ended)

    def _waited(self, run: Run) -> float | None:
        """Seconds from when a message was sent, came due or was put back, to the start of its run; None if unknown."""
        delivery: Delivery = run.delivery
        since = (delivery.meta and meta_int(delivery.meta, DUE_AT)) or delivery.sent_at_ms
        if not since:
            return None
        # In this order: a thread that loses the processor in between says a shorter time, and never a longer one.
        return max(0.0, self._clock.wall() - (monotonic() - run.started_at) - since / 1000)

    def _tell(self, delivery: Delivery, settlement: Settlement) -> None:
        if self._tells_many:
            self._untold.append(settlement)
        if self._tells_each:
            self._lifecycle.task_settled(
                queue=self._queue, message_id=delivery.message_id, headers=delivery.headers, **self._broker,
                **settlement._asdict(),
            )  # fmt: skip

    # ------------------------------------------------------------------ many together

    def begin(self, running: Callable[[], int]) -> None:
        """Tell of many together from now on, in a thread; ``running`` counts the handlers that run."""
        if self._tells_many:
            self._over.clear()
            self._successes, self._counted_before = 0, self._tally.report().succeeded
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
        self._tell_untold(0, is_last=True)

    def _tell_untold(self, running: int, *, is_last: bool = False) -> None:
        settlements = self._take(is_last=is_last)
        if settlements or running != self._running:
            self._running = running
            self._lifecycle.settlements(queue=self._queue, settlements=settlements, running=running)

    def _take(self, *, is_last: bool) -> list[Settlement]:
        """What was settled since the last time; quick successes stand for those that were not measured as well."""
        successes = self._tally.report().succeeded - self._counted_before  # first: a success is told, and then counted
        settlements = [self._untold.popleft() for _ in range(len(self._untold))]
        self._measured, self.is_full = 0, False
        quick = [place for place, each in enumerate(settlements) if is_quick(each)]
        self._successes += sum(each.outcome == SUCCEEDED for each in settlements)
        left_out = max(0, successes - self._successes)
        if left_out and is_last and not quick:
            settlements.append(Settlement("", 1, SUCCEEDED, None, None, None, 0.0, left_out))
        elif left_out and quick:
            share, rest = divmod(left_out, len(quick))
            for number, place in enumerate(quick):
                settlements[place] = settlements[place]._replace(times=1 + share + (number < rest))
        else:
            left_out = 0  # to be told the next time
        self._successes += left_out
        return settlements


def is_quick(settlement: Settlement) -> bool:
    """Whether it is of those that are not all measured."""
    return settlement.outcome == SUCCEEDED and settlement.duration is not None and settlement.duration < QUICK
