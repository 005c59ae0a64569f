"""Broken clients of the memory backend: what they do with delayed messages that are taken in hand."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qbridge_core.backend import NO_HEADERS, DelayedMessage, LettersGoneError
from qbridge_memory import MemoryClient

CLAIMS = MemoryClient.capabilities


class PurgesNothingDelayed(MemoryClient):
    """Says that there was nothing to delete."""

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        return 0 if delayed else super().purge(queue)


class PurgesReadyToo(MemoryClient):
    """Deletes all that there is."""

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        if delayed:
            super().purge(queue)
        return super().purge(queue, delayed=delayed)


class PurgesUnclaimed(MemoryClient):
    """Can delete what is delayed and does not say so."""

    capabilities = replace(CLAIMS, purge_delayed=False)


class PurgesItsOwn(MemoryClient):
    """Forgets what it has delayed itself, and no more."""

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        if not delayed:
            return super().purge(queue)
        broken = [message for message in self.delayed(queue) if message.body != b"later"]
        return self.delete_delayed(queue, messages=broken)


class PurgeCreatesToo(MemoryClient):
    """Refuses to purge what is delayed of a queue that it does not know."""

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        if delayed and not self._broker._named(queue):
            raise LettersGoneError([queue])
        return super().purge(queue, delayed=delayed)


class ListsUnclaimed(MemoryClient):
    """Can list what is delayed and does not say so."""

    capabilities = replace(CLAIMS, browse_delayed=False)


class ListsTheLastFirst(MemoryClient):
    """Lists in the wrong order."""

    def delayed(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DelayedMessage]:
        return super().delayed(queue, limit, after=after)[::-1]


class NamesDelayedAnew(MemoryClient):
    """Gives another id to a message in each process."""

    def delayed(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DelayedMessage]:
        delayed_id = after.id if isinstance(after, DelayedMessage) else after
        found = super().delayed(queue, limit, after=delayed_id and delayed_id.partition("@")[0])
        return [replace(each, id=f"{each.id}@{id(self)}") for each in found]

    def release_delayed(self, queue: str, *, messages: Any = None) -> int:
        return super().release_delayed(queue, messages=_plain(messages))

    def delete_delayed(self, queue: str, *, messages: Any) -> int:
        return super().delete_delayed(queue, messages=_plain(messages))


class ForgetsWhereItWasDue(MemoryClient):
    """Begins at the front behind a message that is gone."""

    def delayed(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DelayedMessage]:
        found = super().delayed(queue, limit, after=after)
        delayed_id = after.id if isinstance(after, DelayedMessage) else after
        known = {message.id for message in super().delayed(queue, 1000)}
        return found if after is None or delayed_id in known else super().delayed(queue, limit)


class ReleasesAnew(MemoryClient):
    """Forgets what was counted when it releases."""

    def release_delayed(self, queue: str, *, messages: Any = None) -> int:
        done = super().release_delayed(queue, messages=messages)
        for message in self._broker.peek(queue, 1000):
            message.meta = NO_HEADERS
        return done


class ReleasesAPage(MemoryClient):
    """Releases a hundred at most."""

    def release_delayed(self, queue: str, *, messages: Any = None) -> int:
        return super().release_delayed(queue, messages=self.delayed(queue) if messages is None else messages)


class SaysNothingOfWhatIsDue(MemoryClient):
    """Does the rest, and returns."""

    def release_delayed(self, queue: str, *, messages: Any = None) -> int:
        try:
            return super().release_delayed(queue, messages=messages)
        except LettersGoneError as exc:
            return exc.done


class TakesOneName(MemoryClient):
    """Takes a name that is no list of names."""

    def release_delayed(self, queue: str, *, messages: Any = None) -> int:
        return super().release_delayed(
            queue, messages=[messages] if isinstance(messages, str) and messages else messages
        )


def _plain(messages: Iterable[Any] | None) -> Any:
    if messages is None or isinstance(messages, str) or not isinstance(messages, Iterable):
        return messages
    names = [each.id if isinstance(each, DelayedMessage) else each for each in messages]
    return [each.partition("@")[0] if isinstance(each, str) else each for each in names]
