"""Clients that tell less, or something else, of a message's past than they claim; or more."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from qbridge_core import DeadLetter, Delivery, Failure
from qbridge_core.backend import DUE_AT, HISTORY, REPLAYS
from qbridge_memory import MemoryClient


class HidesWhenItWasSent(MemoryClient):
    """Knows and does not say so."""

    capabilities = replace(MemoryClient.capabilities, sent_at=False)


class HidesItsHistory(MemoryClient):
    """Carries attempts on all ways and does not say so."""

    capabilities = replace(MemoryClient.capabilities, history=False)


class Telling(MemoryClient):
    """Changes what deliveries tell."""

    def receive(self, *args: Any, **options: Any) -> list[Delivery]:
        deliveries = super().receive(*args, **options)
        for delivery in deliveries:
            self.change(delivery)
        return deliveries

    def change(self, delivery: Delivery) -> None:
        """Do it."""


class DatesCopiesAnew(Telling):
    """Takes the time of a copy for that of its original."""

    def change(self, delivery: Delivery) -> None:
        if delivery.attempts:
            delivery.sent = round(time.time() * 1000) + 1


class TellsSeconds(Telling):
    """Tells times of 1970."""

    def change(self, delivery: Delivery) -> None:
        delivery.sent = round(time.time())


class ForgetsWhenItIsDue(Telling):
    """Knows no more when a delay ended."""

    def change(self, delivery: Delivery) -> None:
        delivery.meta = {name: value for name, value in delivery.meta.items() if name != DUE_AT}


class ForgetsAttemptsOnReplay(Telling):
    """Begins anew with each replay."""

    def change(self, delivery: Delivery) -> None:
        if REPLAYS in delivery.meta:
            delivery.meta = {name: value for name, value in delivery.meta.items() if name != HISTORY}


class DatesLettersAnew(MemoryClient):
    """Knows when a letter was written only."""

    def dead_letters(self, *args: Any, **options: Any) -> list[DeadLetter]:
        return [replace(letter, sent_at=None) for letter in super().dead_letters(*args, **options)]


class ForgetsPostponements(MemoryClient):
    """Carries on what came with a message, and not what was recorded since."""

    def receive(self, *args: Any, **options: Any) -> list[Delivery]:
        deliveries = super().receive(*args, **options)
        for delivery in deliveries:
            vars(self).setdefault("came", {})[delivery.tag] = delivery.meta
        return deliveries

    def reject(self, delivery: Delivery, requeue: bool = True, *, failure: Failure | None = None, **more: Any) -> None:
        if requeue and failure is None:
            delivery.meta = vars(self).get("came", {}).get(delivery.tag, delivery.meta)
        super().reject(delivery, requeue, failure=failure, **more)
