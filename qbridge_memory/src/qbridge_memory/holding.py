"""What ``MemoryClient`` does with messages and queues that are held back."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from qbridge_core.backend import (
    DelayedMessage,
    LettersGoneError,
    QueueClient,
    check_count,
    check_delayed,
    check_delayed_id,
    check_queue_names,
)
from qbridge_memory.broker import MemoryBroker
from qbridge_memory.stored import Place

_PLACE: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class Holding(QueueClient):
    """Deletes what waits, takes delayed messages in hand, and pauses queues."""

    _broker: MemoryBroker

    @abstractmethod
    def _require_connection(self, queue: str) -> None:
        """Refuse calls without a connection, or with a bad name."""

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        """Delete the ready messages, or the delayed ones."""
        self._require_connection(queue)
        if delayed:
            return self._broker.pick_delayed(queue, lambda _: True, release=False)
        return self._broker.purge(queue)

    def pause(self, queue: str) -> None:
        """Leave the mark."""
        self._require_connection(queue)
        self._broker.paused.add(queue)

    def resume(self, queue: str) -> None:
        """Take it away."""
        self._require_connection(queue)
        self._broker.paused.discard(queue)

    def paused(self, queues: Iterable[str]) -> set[str]:
        """Look for the marks."""
        names = check_queue_names(queues)
        for queue in names or ["any"]:
            self._require_connection(queue)
        return self._broker.paused.intersection(names)

    def delayed(
        self, queue: str, limit: int = 100, *, after: DelayedMessage | str | None = None
    ) -> list[DelayedMessage]:
        """List what is held back, the next one first; what is gone has its place still."""
        self._require_connection(queue)
        found = self._broker.delayed(queue, check_count("limit", limit), None if after is None else _place(after))
        began = self.clock.wall() - self.clock.monotonic()
        return [
            DelayedMessage.from_headers(
                message.body,
                message.headers,
                message.meta,
                delayed_id=_delayed_id(place),
                due_ms=round(began * 1_000) + place[0] // 1_000,
                message_id=message.message_id,
                sent_ms=message.sent,
            )
            for place, message in found
        ]

    def release_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str] | None = None) -> int:
        """Deliver them now, all in one atomic step."""
        self._require_connection(queue)
        if messages is None:
            return self._broker.pick_delayed(queue, lambda _: True, release=True)
        return self._pick_delayed(queue, messages, release=True)

    def delete_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str]) -> int:
        """Delete them, all in one atomic step."""
        self._require_connection(queue)
        return self._pick_delayed(queue, messages, release=False)

    def _pick_delayed(self, queue: str, messages: Iterable[DelayedMessage | str], *, release: bool) -> int:
        chosen = check_delayed(messages)

        def is_wanted(place: Place) -> bool:
            return chosen.take(_delayed_id(place))

        return chosen.finish(self._broker.pick_delayed(queue, is_wanted, release=release))


def _delayed_id(place: Place) -> str:
    return f"{place[0]}-{place[1]}"


def _place(message: DelayedMessage | str) -> Place:
    found = _PLACE.fullmatch(delayed_id := check_delayed_id(message))
    if found is None:
        raise LettersGoneError([delayed_id])
    return int(found[1]), int(found[2])
