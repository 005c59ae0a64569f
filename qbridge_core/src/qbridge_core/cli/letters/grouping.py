"""Letters by what went wrong: the type of the exception, and where in somebody's own code it was raised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qbridge_core.cli.letters.place import place_of_letter
from qbridge_core.cli.letters.times import iso
from qbridge_core.contract.dead_letter import DeadLetter


@dataclass(slots=True)
class Group:
    """Letters that say the same of what went wrong.

    Attributes:
        what: the exception's type, or the reason where there was none.
        place: the innermost frame of somebody's own code, or "".
        count: how many.
        first_seen: when the first of them failed for the first time (Unix time in seconds), if any says so.
        last_seen: when the last of them failed for the last time.
        example: the id of the newest.
        message: what that one says.
        replayed: how many were sent back before and failed again.
    """

    what: str
    place: str
    count: int = 0
    first_seen: float | None = None
    last_seen: float | None = None
    example: str = ""
    message: str = ""
    replayed: int = 0

    def add(self, letter: DeadLetter) -> None:
        """Count one."""
        self.count += 1
        self.replayed += letter.replays > 0
        self.example, self.message = letter.id, letter.exception_message
        times = [at for at in (letter.first_failed_at, letter.last_failed_at) if at is not None]
        self.first_seen = min([*times, *_known(self.first_seen)], default=None)
        self.last_seen = max([*times, *_known(self.last_seen)], default=None)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "exception_type": self.what,
            "place": self.place,
            "count": self.count,
            "replayed": self.replayed,
            "first_seen": iso(self.first_seen),
            "last_seen": iso(self.last_seen),
            "example": self.example,
            "example_message": self.message,
        }


def groups_of(letters: Iterable[DeadLetter]) -> list[Group]:
    """The groups of letters, the largest first. No letter is kept."""
    groups: dict[tuple[str, str], Group] = {}
    for letter in letters:
        key = letter.exception_type or letter.reason.value, place_of_letter(letter)
        if key not in groups:
            groups[key] = Group(*key)
        groups[key].add(letter)
    return sorted(groups.values(), key=lambda group: -group.count)


def _known(value: float | None) -> list[float]:
    return [] if value is None else [value]
