"""Broken clients of the memory backend: what they do with queues that are paused."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qbridge_core.backend import BrokerUnavailableError, Delivery, QueueStats
from qbridge_memory import MemoryClient

CLAIMS = MemoryClient.capabilities


class PausesUnclaimed(MemoryClient):
    """Can pause queues and does not say so."""

    capabilities = replace(CLAIMS, pause=False)


class ClaimsPauses(MemoryClient):
    """Takes the calls, and leaves no mark."""

    def pause(self, queue: str) -> None:
        self.paused([queue])


class KeepsItsMarks(MemoryClient):
    """Has the marks itself, so that other clients do not see them."""

    def pause(self, queue: str) -> None:
        self._require_connection(queue)
        self._marks().add(queue)

    def resume(self, queue: str) -> None:
        self._require_connection(queue)
        self._marks().discard(queue)

    def paused(self, queues: Iterable[str]) -> set[str]:
        super().paused(queues)
        return self._marks().intersection(queues)

    def stats(self, queue: str) -> QueueStats:
        return replace(super().stats(queue), paused=queue in self._marks())

    def _marks(self) -> set[str]:
        marks: set[str] = vars(self).setdefault("_own_marks", set())
        return marks


class ResumesAtTheEnd(MemoryClient):
    """Takes its marks away when it disconnects."""

    def disconnect(self) -> None:
        self._broker.paused.clear()
        super().disconnect()


class CountsPauses(MemoryClient):
    """Wants as many resumes as there were pauses."""

    def pause(self, queue: str) -> None:
        super().pause(f"{queue}+" if self.paused([queue]) else queue)

    def resume(self, queue: str) -> None:
        super().resume(f"{queue}+" if self.paused([f"{queue}+"]) else queue)


class PausesAll(MemoryClient):
    """Has one mark for all queues."""

    def paused(self, queues: Iterable[str]) -> set[str]:
        super().paused(queues)
        return set(queues) if self._broker.paused else set()


class ShowsNoPause(MemoryClient):
    """Does not say in its counts what it knows."""

    def stats(self, queue: str) -> QueueStats:
        return replace(super().stats(queue), paused=None)


class RefusesToPublish(MemoryClient):
    """Takes a pause for the end of a queue."""

    def publish(self, queue: str, *args: object, **options: object) -> None:
        if self.paused([queue]):
            raise BrokerUnavailableError(queue)
        super().publish(queue, *args, **options)  # type: ignore[arg-type]


class LeavesReadersAlone(MemoryClient):
    """Hands out nothing of a paused queue, to whoever asks for it."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return [] if self.connected and self.paused([queue]) else super().receive(queue, max_messages, timeout)


class CountsWhatGoesBack(MemoryClient):
    """Counts an attempt for what was never begun."""

    def receive(self, *args: object, **options: object) -> list[Delivery]:
        received = super().receive(*args, **options)  # type: ignore[arg-type]
        for delivery in received:
            delivery.attempts += delivery.queue in self._broker.paused
        return received


class SaysNeverPaused(MemoryClient):
    """Leaves its mark, and does not tell workers."""

    def paused(self, queues: Iterable[str]) -> set[str]:
        super().paused(queues)
        return set()


class TakesOneNameForMany(MemoryClient):
    """Asks for one queue as if it were a list."""

    def paused(self, queues: Iterable[str]) -> set[str]:
        return super().paused([queues] if isinstance(queues, str) else queues)
