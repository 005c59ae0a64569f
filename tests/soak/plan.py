"""What each task of a soak does, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qbridge_core import Message

MAX_RETRIES: Final = 3
_PERIOD: Final = 1_000
_LETTERS_ONE_IN: Final = 2_500


class Fate(StrEnum):
    """What a task does."""

    SUCCEEDS = "succeeds"
    RECOVERS = "fails once and is retried at once"
    WAITS = "asks for a retry after a delay, once"
    FAILS = "always fails"
    MALFORMED = "is no task"

    @property
    def failed_runs(self) -> int:
        """How many runs of it fail."""
        return {Fate.RECOVERS: 1, Fate.WAITS: 1, Fate.FAILS: MAX_RETRIES + 1}.get(self, 0)

    @property
    def runs(self) -> int:
        """How often its handler runs."""
        return self.failed_runs + (self in (Fate.SUCCEEDS, Fate.RECOVERS, Fate.WAITS))

    @property
    def reason(self) -> str:
        """What its dead letter says; "" when it leaves none."""
        return {Fate.FAILS: "failed", Fate.MALFORMED: "malformed"}.get(self, "")


def fate(number: int) -> Fate:
    """Of 1,000 tasks 10 fail once and 3 ask for a delay; of 2,500 one always fails and one is no task."""
    rare = number % _LETTERS_ONE_IN
    if rare in (7, 11):
        return Fate.FAILS if rare == 7 else Fate.MALFORMED
    place = number % _PERIOD
    if place % 100 == 50:
        return Fate.RECOVERS
    if place in (123, 456, 789):
        return Fate.WAITS
    return Fate.SUCCEEDS


def delay(number: int) -> float:
    """The seconds for which a task that `WAITS` asks."""
    return 0.2 + number % 7 * 0.3


def name(number: int) -> str:
    """The task id, or the message id of what is no task."""
    return f"{number:09d}"


def message(number: int, padding: str) -> Message:
    """What is published."""
    if fate(number) is Fate.MALFORMED:
        return Message(f"no task {number} {padding}".encode(), message_id=name(number))
    return Message.for_task({"number": number, "padding": padding}, task_id=name(number))[0]


@dataclass(frozen=True)
class Plan:
    """How much there is to do.

    Attributes:
        count: how many tasks.
        threads: of the worker.
        backlog: how many published tasks may wait.
        padding: bytes that are added to each payload.
        leak: bytes that the handler keeps of each task, to see that a soak notices.
    """

    count: int
    threads: int = 10
    backlog: int = 5_000
    padding: int = 100
    leak: int = 0

    @property
    def runs(self) -> int:
        """How many runs there must be."""
        return sum(fate(number).runs for number in range(self.count))
