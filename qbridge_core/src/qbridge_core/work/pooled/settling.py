"""Settles the messages of a pool: each by what its queue has for it, its dead letters, its figures and its name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import TypeAlias

from qbridge_core.contract.dead_letter import Noted
from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.message import Delivery
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Verdict
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.settler import Settler


class Settlers:
    """What a :class:`~qbridge_core.work.settle.settler.Settler` is for one queue. Thread-safe.

    Args:
        settlers: by the names of the queues and of their side queues.
    """

    def __init__(self, settlers: Mapping[str, Settler]) -> None:
        self._settlers = settlers
        self._each = tuple(dict.fromkeys(settlers.values()))
        self.acks_at_once = all(each.acks_at_once for each in self._each)

    @property
    def settled(self) -> int:
        """How many deliveries have been settled so far."""
        return sum(each.settled for each in self._each)

    def acknowledge(self, run: Run, duration: float, *, at_once: bool = False) -> bool:
        """Acknowledge a message whose handler returned; False when that was not done."""
        return self._settlers[run.delivery.queue].acknowledge(run, duration, at_once=at_once)

    def hand_back(self, delivery: Delivery) -> None:
        """Return a message to its queue, nothing counted."""
        self._settlers[delivery.queue].hand_back(delivery)

    def hand_back_all(self, deliveries: Iterable[Delivery]) -> None:
        """Return messages to their queues, nothing counted; ``deliveries`` are gone through once.

        Those of one queue that follow one another go together.
        """
        for queue, together in itertools.groupby(deliveries, key=lambda delivery: delivery.queue):
            self._settlers[queue].hand_back_all(together)

    def begin_accounts(self, running: Callable[[str], int]) -> None:
        """Tell plugins of settlements from now on; ``running`` counts the handlers that run for a queue."""
        for each in self._each:
            each.begin_accounts(running)

    def end_accounts(self) -> None:
        """Tell plugins of the last settlements."""
        for each in self._each:
            each.end_accounts()


class ConsequencesOfMany:
    """What :class:`~qbridge_core.work.settle.consequences.Consequences` is for one queue. Thread-safe.

    Args:
        consequences: by the names of the queues and of their side queues.
    """

    def __init__(self, consequences: Mapping[str, Consequences]) -> None:
        self._consequences = consequences

    def read(self, run: Run, exc: BaseException) -> Verdict:
        """What a handler's exception asks for. It runs the exception's own code, which may hang."""
        return self._consequences[run.delivery.queue].read(run, exc)

    def failed(self, run: Run, exc: BaseException, verdict: Verdict) -> None:
        """Do what the handler's exception asks for, or retry or dead-letter the message."""
        self._consequences[run.delivery.queue].failed(run, exc, verdict)

    def timed_out(self, run: Run, stack: FrameType | None) -> None:
        """Retry or dead-letter a message whose handler ran too long."""
        self._consequences[run.delivery.queue].timed_out(run, stack)

    def unreadable(self, run: Run, exception_type: str) -> None:
        """Retry or dead-letter a message whose handler raised what cannot be read in time."""
        self._consequences[run.delivery.queue].unreadable(run, exception_type)

    def unfit(self, delivery: Delivery, exc: UnfitError) -> None:
        """Dead-letter a message that can never run; put off one that another worker may be able to run."""
        self._consequences[delivery.queue].unfit(delivery, exc)

    def settle_noted(self, delivery: Delivery, noted: Noted) -> bool:
        """Dead-letter a message if that was decided when it was here before; False when it may run."""
        return self._consequences[delivery.queue].settle_noted(delivery, noted)


AnySettler: TypeAlias = Settler | Settlers
AnyConsequences: TypeAlias = Consequences | ConsequencesOfMany
