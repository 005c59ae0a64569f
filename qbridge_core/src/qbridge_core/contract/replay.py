"""Replays dead letters with what each client can do: take one, publish it, acknowledge it."""

from __future__ import annotations

from typing import Protocol

from qbridge_core.contract.message import Delivery, QueueStats
from qbridge_core.errors import QBridgeError


class Client(Protocol):
    """What a replay needs of a ``QueueClient``."""

    def count(self, queue: str) -> QueueStats:
        """Count."""

    def reject(self, delivery: Delivery, requeue: bool = True) -> None:
        """Hand back."""

    def flush(self) -> bool:
        """Send what was put off."""

    def _take_letters(self, queue: str, count: int) -> list[Delivery]:
        """Up to so many letters."""

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        """Publish the copy, and acknowledge the letter."""


def replay_letters(client: Client, queue: str, target: str | None, limit: int | None) -> int:
    """Send dead letters back, each removed only when its copy is confirmed; return how many.

    Raises:
        The errors of ``replay``.
    """
    waiting = client.count(queue).ready
    remaining = waiting if limit is None else min(limit, waiting)
    replayed = 0
    while replayed < remaining and (batch := client._take_letters(queue, 1)):
        for delivery in batch:  # one: what is not taken keeps its place
            try:
                client._replay_one(delivery, target)
            except BaseException as exc:
                _put_back(client, delivery, waiting - replayed - 1, exc)
                raise
            replayed += 1
    client.flush()
    return replayed


def _put_back(client: Client, letter: Delivery, others: int, reason: BaseException) -> None:
    """Return a letter to its place before the others; what prevents that does not hide why it could not go."""
    try:
        client.reject(letter, requeue=True)
        _bring_to_front(client, letter, others)
    except QBridgeError as exc:
        reason.add_note(f"and it could not be put back into its place: {exc}")


def _bring_to_front(client: Client, letter: Delivery, others: int) -> None:
    """Where hand-backs go to the end, hand back what is before the letter, too."""
    for _ in range(others):
        for first in client._take_letters(letter.queue, 1):
            client.reject(first, requeue=True)
            if _is_same(first, letter):
                return


def _is_same(one: Delivery, other: Delivery) -> bool:
    """Whether two deliveries are of one message, or of two that nobody can tell apart."""
    return (one.body, one.message_id, dict(one.headers), dict(one.meta)) == (
        other.body,
        other.message_id,
        dict(other.headers),
        dict(other.meta),
    )
