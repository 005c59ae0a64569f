"""Clients that claim of redelivery, order, counts or outages what does not hold, or hide what does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from qbridge_core import Delivery, Message, QueueStats
from qbridge_core.backend import BrokerUnavailableError
from qbridge_memory import MemoryClient
from support.broken.leases import WithPool
from support.estimates import EstimatingClient
from support.leases.client import LeaseClient
from support.leases.wire import Pool, Wire

CLAIMS = LeaseClient.capabilities
_log = logging.getLogger("qbridge.broken")
_MANY = 50
_A_FEW = 4


class ForgetsAtOnce(LeaseClient):
    """Takes a message from its broker when it is received."""

    capabilities = replace(CLAIMS, crashes=False)

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Receive copies of what is acknowledged already."""
        received = super().receive(queue, max_messages, timeout)
        for delivery in received:
            super().ack(replace(delivery))
        super().flush()
        return received


class HidesRedelivery(LeaseClient):
    """Does not say that what a dead process held is delivered again."""

    capabilities = replace(CLAIMS, crashes=False, redelivers=False)


class ClaimsCrashesWithoutRedelivery(LeaseClient):
    """Claims to see the deaths of those whose messages nobody sees again."""

    capabilities = replace(CLAIMS, redelivers=False)


class PublishesBackwards(MemoryClient):
    """Claims an order, and publishes the last message first."""

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish in another order."""
        given = list(messages)
        super().publish_many(queue, given[::-1], timeout=timeout)


class LosesWithoutOrder(MemoryClient):
    """Claims no order, and loses the last of many messages."""

    capabilities = replace(MemoryClient.capabilities, ordered=False)

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish all but one."""
        given = list(messages)
        super().publish_many(queue, given[:-1] if len(given) >= _MANY else given, timeout=timeout)


class ClaimsExactCounts(EstimatingClient):
    """Claims that counts are exact, and those of longer queues are a moment old."""

    capabilities = replace(EstimatingClient.capabilities, ordered=True, exact_stats=True)
    publish_many = MemoryClient.publish_many

    def count(self, queue: str) -> QueueStats:
        """Count some at once, and more later."""
        counted = MemoryClient.count(self, queue)
        return counted if counted.ready < _A_FEW else super().count(queue)


class NeverCountsRight(MemoryClient):
    """Says that counts are estimates, and never comes to the right ones."""

    capabilities = replace(MemoryClient.capabilities, exact_stats=False)

    def stats(self, queue: str) -> QueueStats:
        """Count a few at most."""
        counted = super().stats(queue)
        return replace(counted, ready=min(counted.ready, _A_FEW))


class LogsNoOutage(LeaseClient):
    """Claims to say when its connection is lost, so that workers do not."""

    logs_outages = True


class TellingPool(Pool):
    """Logs that the broker is away, once in an outage, and that it is back."""

    end: ClassVar[int] = logging.INFO
    is_away = False

    def _borrow(self, patience: float) -> Wire:
        try:
            wire = super()._borrow(patience)
        except BrokerUnavailableError:
            if not self.is_away:
                _log.warning("the broker is away")
            self.is_away = True
            raise
        if self.is_away:
            _log.log(self.end, "the broker is back")
        self.is_away = False
        return wire


class LogsOutagesUnclaimed(WithPool):
    """Logs its outages, and does not say so: workers tell of them once more."""

    pool = TellingPool


class SilentEnd(TellingPool):
    """Has a level for the end of an outage that nobody sees."""

    end = logging.DEBUG


class LogsNoEnd(WithPool):
    """Claims to log outages, and is silent about their end."""

    logs_outages = True
    pool = SilentEnd

    def connect(self) -> None:
        """Tell of a beginning."""
        super().connect()
        _log.info("connected")
