"""Broken clients of the memory backend: what they tell of queues."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qbridge_core.backend import Capabilities, Delivery, QueueStats, suspects_queue
from qbridge_memory import MemoryClient


class TellsUnclaimed(MemoryClient):
    """Tells what it does not claim to know, and lists queues in secret."""

    capabilities = Capabilities(delay=True, browse=True, instant_ack=True, letters=True)


class CountsItsOwn(MemoryClient):
    """Tells of no message that others hold."""

    def describe(self, queue: str) -> QueueStats:
        return replace(super().describe(queue), unsettled=len(self._held))

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        deliveries = super().receive(queue, max_messages, timeout)
        self._held = {*self._held, *deliveries}
        return deliveries

    def ack(self, delivery: Delivery) -> None:
        super().ack(delivery)
        self._held = {*self._held} - {delivery}

    _held: set[Delivery] | frozenset[Delivery] = frozenset()


class ClaimsWhatItDoesNotTell(MemoryClient):
    """Claims to know an age and never does."""

    def describe(self, queue: str) -> QueueStats:
        return replace(super().describe(queue), oldest_age=None)


class TellsTooMuch(MemoryClient):
    """Measures rates whenever somebody asks for a number."""

    def stats(self, queue: str) -> QueueStats:
        return self.describe(queue)


class TellsInDescriptionsAlone(MemoryClient):
    """Counts when it is asked for ``stats``."""

    def stats(self, queue: str) -> QueueStats:
        return self.count(queue)


class TellsUnclaimedInStats(MemoryClient):
    """Claims no age, describes none, and has one in ``stats``."""

    capabilities = replace(MemoryClient.capabilities, details=MemoryClient.capabilities.details - {"oldest_age"})

    def describe(self, queue: str) -> QueueStats:
        return replace(super().describe(queue), oldest_age=None)


class CountsLettersOnce(MemoryClient):
    """Keeps what it has found when ``stats`` asked for letters first."""

    def stats(self, queue: str) -> QueueStats:
        found = super().stats(queue)
        letters: dict[str, int | None] = vars(self).setdefault("_letters", {})
        return replace(found, dead=letters.setdefault(queue, found.dead))


class CountsWhatIsReady(MemoryClient):
    """Leaves out of ``count`` what workers hold."""

    def count(self, queue: str) -> QueueStats:
        return replace(super().count(queue), in_flight=0)


class CreatesToCountAlone(MemoryClient):
    """Creates the queue that it is to ``count``."""

    def count(self, queue: str) -> QueueStats:
        self._require_connection(queue)
        self._broker.declare(queue)
        return super().count(queue)


class CountsWithoutPauses(MemoryClient):
    """Does not say in ``count`` what ``stats`` knows of pauses."""

    def count(self, queue: str) -> QueueStats:
        return replace(super().count(queue), paused=None)


class CreatesToDescribe(MemoryClient):
    """Creates the queue that it is to describe."""

    def describe(self, queue: str) -> QueueStats:
        self._require_connection(queue)
        self._broker.declare(queue)
        return super().describe(queue)


class GuessesTheDeadLetterQueue(MemoryClient):
    """Counts the letters of the usual name, whatever was declared."""

    def describe(self, queue: str) -> QueueStats:
        dead = super().stats(f"{queue}.dead").ready
        return replace(super().describe(queue), dead=dead)


class AgesInMilliseconds(MemoryClient):
    """Tells an age as its broker does."""

    def describe(self, queue: str) -> QueueStats:
        found = super().describe(queue)
        return replace(found, oldest_age=1000 * (found.oldest_age or 0.0))


class CountsFromTheFirst(MemoryClient):
    """Tells the age of what it has seen first, also when that is gone."""

    def describe(self, queue: str) -> QueueStats:
        found = super().describe(queue)
        self._oldest: float = max(vars(self).get("_oldest", 0.0), found.oldest_age or 0.0)
        return replace(found, oldest_age=self._oldest)


class CountsTheDead(MemoryClient):
    """Counts consumers that have ended."""

    def describe(self, queue: str) -> QueueStats:
        found = super().describe(queue)
        self._most: int = max(vars(self).get("_most", 0), found.consumers or 0)
        return replace(found, consumers=self._most)


class CountsWhoLooks(MemoryClient):
    """Takes itself for a consumer."""

    def describe(self, queue: str) -> QueueStats:
        found = super().describe(queue)
        return replace(found, consumers=(found.consumers or 0) + 1)


class RatesInMinutes(MemoryClient):
    """Counts what comes in a minute."""

    def describe(self, queue: str) -> QueueStats:
        found = super().describe(queue)
        return found if found.in_rate is None else replace(found, in_rate=60 * found.in_rate)


class ListsSideQueues(MemoryClient):
    """Lists what it keeps beside a queue."""

    def queues(self) -> dict[str, str | None]:
        listed = super().queues()
        side = {suspects_queue(name) for name in listed}.intersection(self._broker.names())
        return dict(sorted({**listed, **dict.fromkeys(side)}.items()))


class ForgetsPairs(MemoryClient):
    """Lists names only."""

    def queues(self) -> dict[str, str | None]:
        return dict.fromkeys(super().queues())


class DescribesFromMemory(MemoryClient):
    """Tells what it has heard last when it is not connected."""

    def describe(self, queue: str) -> QueueStats:
        last: dict[str, Any] = vars(self).setdefault("_last", {})
        if self.connected:
            last[queue] = super().describe(queue)
        found: QueueStats = last.get(queue, QueueStats(0, 0, 0))
        return found
