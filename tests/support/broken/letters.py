"""Broken clients of the memory backend: what they do with dead letters that are named."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from qbridge_core.backend import (
    NO_HEADERS,
    REPLAYS,
    TASK_ID,
    Capabilities,
    DeadLetter,
    Delivery,
    Failure,
    LettersGoneError,
    UnroutableError,
)
from qbridge_memory import MemoryClient


class NamesNoLetters(MemoryClient):
    """Claims ids and gives none."""

    def dead_letters(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DeadLetter]:
        return [replace(letter, id="") for letter in super().dead_letters(queue, limit, after=after)]


class HidesItsLetters(MemoryClient):
    """Can name letters and does not say so."""

    capabilities = Capabilities(delay=True, browse=True, instant_ack=True)


class NamesLettersAnew(MemoryClient):
    """Gives another id to a letter in each process, as a number in a listing would be."""

    def dead_letters(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DeadLetter]:
        letter = after.id if isinstance(after, DeadLetter) else after
        letters = super().dead_letters(queue, limit, after=letter and letter.partition("@")[0])
        return [replace(each, id=f"{each.id}@{id(self)}") for each in letters]


class ForgetsWhereItWas(MemoryClient):
    """Begins at the front behind a letter that is gone."""

    def dead_letters(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DeadLetter]:
        known = {letter.id for letter in super().dead_letters(queue, 1000)}
        letter = after.id if isinstance(after, DeadLetter) else after
        return super().dead_letters(queue, limit, after=letter if letter in known else None)


class ReplaysTheOldest(MemoryClient):
    """Sends as many back as were named, from the front."""

    def replay(self, queue: str, *, letters: Any = None, **options: Any) -> int:  # type: ignore[override]
        if letters is not None and not isinstance(letters, str) and len(options) < 2 and "body" not in options:
            with suppress(TypeError):
                letters = super().dead_letters(queue, len(letters))[: len(letters)]
        return super().replay(queue, letters=letters, **options)


class TurnsWhatStays(MemoryClient):
    """Puts the letters that it has looked at to the end."""

    def replay(self, queue: str, *, letters: Any = None, **options: Any) -> int:  # type: ignore[override]
        done = super().replay(queue, letters=letters, **options)
        if letters:
            self._turn(queue)
        return done

    def delete_letters(self, queue: str, *, letters: Iterable[Any]) -> int:
        done = super().delete_letters(queue, letters=letters)
        self._turn(queue)
        return done

    def _turn(self, queue: str) -> None:
        broker: Any = self._broker
        broker._queues[queue].ready.rotate(1)


class CountsNoReplays(MemoryClient):
    """Forgets that a message was sent back."""

    def receive(self, *args: Any, **options: Any) -> list[Delivery]:
        deliveries = super().receive(*args, **options)
        for delivery in deliveries:
            delivery.meta = {n: v for n, v in delivery.meta.items() if n != REPLAYS} or NO_HEADERS
        return deliveries


class ForgetsReplaysOnRetry(MemoryClient):
    """Writes what it counts of failures only."""

    def reject(self, delivery: Delivery, requeue: bool = True, *, failure: Failure | None = None, **more: Any) -> None:
        super().reject(delivery, requeue, failure=failure and replace(failure, replays=0), **more)


class KeepsTheIdOfAnEditedLetter(MemoryClient):
    """Takes an edited letter for the same message."""

    def replay(self, queue: str, *, letters: Any = None, **options: Any) -> int:  # type: ignore[override]
        edits = "body" in options or "headers" in options
        ids = [message.message_id for message in self._broker.peek(queue, 1000) if _is_named(message, letters)]
        done = super().replay(queue, letters=letters, **options)
        if edits and ids:
            broker: Any = self._broker
            for waiting in broker._queues.values():
                if waiting.ready and waiting.ready[-1].meta.keys() >= {REPLAYS, TASK_ID}:
                    waiting.ready[-1] = replace(waiting.ready[-1], message_id=ids[0])
        return done


class LosesTheTaskOfAnEditedLetter(MemoryClient):
    """Lets an edited letter be another task."""

    def receive(self, *args: Any, **options: Any) -> list[Delivery]:
        deliveries = super().receive(*args, **options)
        for delivery in deliveries:
            if REPLAYS in delivery.meta:
                delivery.meta = {n: v for n, v in delivery.meta.items() if n != TASK_ID}
        return deliveries


class SaysNothingOfWhatIsGone(MemoryClient):
    """Does the rest, and returns."""

    def replay(self, queue: str, **options: Any) -> int:  # type: ignore[override]
        try:
            return super().replay(queue, **options)
        except LettersGoneError as exc:
            return exc.done

    def delete_letters(self, queue: str, *, letters: Iterable[Any]) -> int:
        try:
            return super().delete_letters(queue, letters=letters)
        except LettersGoneError as exc:
            return exc.done


class StopsAtWhatIsGone(MemoryClient):
    """Looks whether all are there before it does anything."""

    def replay(self, queue: str, *, letters: Any = None, **options: Any) -> int:  # type: ignore[override]
        if isinstance(letters, list) and letters:
            ids = [each.id if isinstance(each, DeadLetter) else each for each in letters]
            known = {letter.id for letter in self.dead_letters(queue, 1000)}
            gone = [each for each in ids if isinstance(each, str) and each and each not in known]
            if gone:
                raise LettersGoneError(gone)
        return super().replay(queue, letters=letters, **options)


class RemovesChosenFirst(MemoryClient):
    """Deletes a letter before it knows where it can go."""

    def replay(self, queue: str, *, letters: Any = None, **options: Any) -> int:  # type: ignore[override]
        try:
            return super().replay(queue, letters=letters, **options)
        except UnroutableError:
            if letters:
                super().delete_letters(queue, letters=letters[:1])
            raise


def _is_named(message: Any, letters: Any) -> bool:
    return isinstance(letters, list) and any(str(message.number) == getattr(each, "id", each) for each in letters)
