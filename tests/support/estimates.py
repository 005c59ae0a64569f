"""An honest client without order and without exact counts."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from qbridge_core import Message, QueueStats
from qbridge_core.backend import monotonic
from qbridge_memory import MemoryClient

_AGE: Final = 0.2  # seconds
_NOTHING: Final = QueueStats(0, 0, 0)


class EstimatingClient(MemoryClient):
    """Memory as a distributed service would be: counts are a moment old, and messages come in any order."""

    capabilities = replace(MemoryClient.capabilities, ordered=False, exact_stats=False)

    def __init__(self, url: str, **options: object) -> None:
        super().__init__(url, **options)
        self._seen: dict[str, tuple[float, QueueStats]] = {}

    def stats(self, queue: str) -> QueueStats:
        """The counts of before, and what else there is to tell."""
        counts = self.count(queue)
        told = super().stats(queue)
        return replace(told, ready=counts.ready, in_flight=counts.in_flight, delayed=counts.delayed)

    def count(self, queue: str) -> QueueStats:
        """What was counted the time before, which is renewed each fifth of a second."""
        counted_at, counted = self._seen.get(queue, (0.0, _NOTHING))
        now = super().count(queue)
        if monotonic() - counted_at > _AGE:
            self._seen[queue] = (monotonic(), now)
        return counted

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish in any order."""
        given = list(messages)
        if all(isinstance(message, Message) for message in given):
            random.Random(len(given)).shuffle(given)
        super().publish_many(queue, given, timeout=timeout)
