"""The side queues of a pool, one for each of its queues, and what runs their messages in child processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from qbridge_core.contract.message import Delivery
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.task.foreign import Watched
from qbridge_core.task.run import Run
from qbridge_core.work.poison.isolation import Isolation
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import SideQueue


class SideQueues:
    """What a :class:`~qbridge_core.work.poison.side_queue.SideQueue` is for one queue. Thread-safe as that is.

    Only one suspect runs alone at a time: whoever reads keeps the right to read until then.

    Args:
        side_queues: at least one.
    """

    def __init__(self, side_queues: Sequence[SideQueue]) -> None:
        self._each = tuple(side_queues)
        self._by_queue = {each.queue: each for each in side_queues}
        self._begin = 0

    def take(self, is_quiet: Callable[[], bool], closed: threading.Event) -> Delivery | None:
        """The next suspect; the search begins with another side queue each time, so that none waits for ever."""
        count = len(self._each)
        self._begin = (self._begin + 1) % count
        for number in range(count):
            if (suspect := self._each[(self._begin + number) % count].take(is_quiet, closed)) is not None:
                return suspect
        return None

    @property
    def scouting(self) -> tuple[Pulse, ...]:
        """Of the threads that count suspects."""
        return tuple(pulse for each in self._each for pulse in each.scouting)

    @property
    def patience(self) -> float:
        """For how many seconds to wait for other messages before ``take`` is called again."""
        return min(each.patience for each in self._each)

    def due_in(self) -> float:
        """Seconds until ``take`` may find something that was not moved here."""
        return min(each.due_in() for each in self._each)

    def nothing_else(self) -> None:
        """For so long no other message has come."""
        for each in self._each:
            each.nothing_else()

    def is_alone(self, delivery: Delivery) -> bool:
        """Whether a suspect that ``take`` returned runs with nothing beside it."""
        return self._by_queue[delivery.queue].is_alone(delivery)

    def is_over(self) -> bool:
        """Whether others have waited long enough for a suspect that runs alone."""
        return any(each.is_over() for each in self._each)

    def go_on(self) -> None:
        """Others read again, though a suspect that began alone has not ended."""
        for each in self._each:
            if each.is_over():
                each.go_on()

    def ended(self, delivery: Delivery) -> None:
        """The suspect has been dealt with, and this process lives."""
        self._by_queue[delivery.queue].ended(delivery)


class PoisonRules:
    """What a :class:`~qbridge_core.work.poison.rule.PoisonRule` is for one queue.

    Args:
        rules: by the names of the queues and of their side queues.
    """

    def __init__(self, rules: Mapping[str, PoisonRule]) -> None:
        self._rules = rules

    def admit(self, delivery: Delivery, task_id: str) -> bool:
        """Decide about a message whose worker died: True to run it in this worker; False when it has been settled."""
        return self._rules[delivery.queue].admit(delivery, task_id)


class Isolations:
    """What an :class:`~qbridge_core.work.poison.isolation.Isolation` is for one queue, as a session sees it.

    Args:
        isolations: at least one.
    """

    def __init__(self, isolations: Sequence[Isolation]) -> None:
        self.each = tuple(isolations)

    def start(self) -> None:
        """Begin to look for suspects."""
        for each in self.each:
            each.start()

    def stop(self) -> None:
        """Take no more suspects; what runs goes on. May be called again."""
        for each in self.each:
            each.stop()

    @property
    def busy(self) -> bool:
        """True while a suspect runs or is being settled."""
        return any(each.busy for each in self.each)

    @property
    def has_runners(self) -> bool:
        """True while a thread looks for suspects, or deals with one."""
        return any(each.has_runners for each in self.each)

    @property
    def hanging(self) -> int:
        """How many threads were given up, since a hook or the like hangs in them, and have not ended."""
        return sum(each.hanging for each in self.each)

    def watched(self) -> Iterator[Watched]:
        """The threads that deal with suspects, and are in no hook or the like."""
        return (watched for each in self.each for watched in each.watched())

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        return [run for each in self.each for run in each.claim_running()]

    def expire(self) -> None:
        """Give up the threads in which a hook, ``redact`` or a backoff hangs. Call it again, from one thread."""
        for each in self.each:
            each.expire()

    def close(self) -> None:
        """Kill the child processes, but for those that leave their lifespan."""
        for each in self.each:
            each.close()

    @property
    def has_left(self) -> bool:
        """True when no child process leaves a lifespan any more."""
        return all(each.has_left for each in self.each)

    def abandon(self) -> None:
        """Kill the child processes that still leave their lifespan."""
        for each in self.each:
            each.abandon()


AnyIsolation: TypeAlias = Isolation | Isolations
AnyPoisonRule: TypeAlias = PoisonRule | PoisonRules
AnySideQueue: TypeAlias = SideQueue | SideQueues
