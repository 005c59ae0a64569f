"""Which letters are meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

from qbridge_core.cli.letters.place import place_of_letter
from qbridge_core.contract.dead_letter import DeadLetter

_NOTHING: Final = object()


class Match(NamedTuple):
    """A part of the payload, and what it has to be."""

    path: str
    value: Any

    @classmethod
    def of(cls, text: str) -> Match:
        """Read ``dotted.path=JSON``; what is no JSON is taken as a text.

        Raises:
            ValueError: there is no ``=``, or no path.
        """
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ValueError(f'{text!r} is not of the form dotted.path=JSON, as in user.id=7 or state="new"')
        try:
            return cls(path, json.loads(value))
        except ValueError:
            return cls(path, value)

    def accepts(self, payload: object) -> bool:
        """Whether the payload has that there."""
        return any(same(found, self.value) for found in found_at(payload, self.path))


def found_at(value: Any, path: str) -> list[Any]:
    """What is at a dotted path; several where keys have dots themselves, none where there is nothing."""
    if not path:
        return [value]
    parts = path.split(".")
    found: list[Any] = []
    for count in range(1, len(parts) + 1):
        inner = _item(value, ".".join(parts[:count]))
        if inner is not _NOTHING:
            found += found_at(inner, ".".join(parts[count:]))
    return found


def _item(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, _NOTHING)
    if isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return _NOTHING


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1 is 1.0, and not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a letter has to be; of values for one thing any, of different things all.

    Attributes:
        reason: why it is dead.
        exception: the exception's type, with or without its module.
        place: where it was raised, or a part of that.
        match: what its payload has.
        since: not dead before (Unix time in seconds); letters that do not say when are left out.
        until: not dead after.
        task_id: the task's.
        source: the queue it came from.
        max_replays: not sent back more often before, so that what fails each time does not go round.
    """

    reason: tuple[str, ...] = ()
    exception: tuple[str, ...] = ()
    place: tuple[str, ...] = ()
    match: tuple[Match, ...] = ()
    since: float | None = None
    until: float | None = None
    task_id: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    max_replays: int | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) not in ((), None) for each in fields(self))

    def accept(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        return all(check(letter) for check in self._checks())

    def _checks(self) -> list[Callable[[DeadLetter], bool]]:
        """One for each thing that is asked for; the payload, which has to be read, comes last."""
        checks: list[Callable[[DeadLetter], bool]] = []
        if self.reason:
            checks.append(lambda letter: letter.reason.value in self.reason)
        if self.exception:
            checks.append(lambda letter: {letter.exception_type, _class(letter)} & {*self.exception} != set())
        if self.task_id:
            checks.append(lambda letter: letter.task_id in self.task_id)
        if self.source:
            checks.append(lambda letter: letter.source_queue in self.source)
        if self.since is not None or self.until is not None:
            checks.append(self._is_in_time)
        most = self.max_replays
        if most is not None:
            checks.append(lambda letter: letter.replays <= most)
        if self.place:
            checks.append(lambda letter: any(place in place_of_letter(letter) for place in self.place))
        if self.match:
            checks.append(self._has_payload)
        return checks

    def _is_in_time(self, letter: DeadLetter) -> bool:
        at = letter.last_failed_at
        if at is None:
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)

    def _has_payload(self, letter: DeadLetter) -> bool:
        payload = letter.payload
        return all(each.accepts(payload) for each in self.match)


def _class(letter: DeadLetter) -> str:
    return letter.exception_type.rpartition(".")[2]
