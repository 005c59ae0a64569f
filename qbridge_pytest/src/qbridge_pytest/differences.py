"""Where something is not what somebody wanted, as far as that was said."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Final, NamedTuple

_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = 200
_repr.maxdict = _repr.maxlist = _repr.maxtuple = 20
_repr.maxlevel = 8


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()


class Difference(NamedTuple):
    """One of them.

    Attributes:
        path: where, as in ``payload['order']['id']``.
        wanted: what was asked for.
        found: what is there.
    """

    path: str
    wanted: object
    found: object

    def __str__(self) -> str:
        if self.found is MISSING:
            return f"{self.path} is missing; wanted {shown(self.wanted)}"
        return f"{self.path} is {shown(self.found)}; wanted {shown(self.wanted)}"


def differences(path: str, wanted: object, found: object) -> list[Difference]:
    """Where ``found`` is not as wanted. A mapping may have more keys than are wanted, at any depth; a list is whole."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return [
            each
            for key, value in wanted.items()
            for each in differences(f"{path}[{key!r}]", value, found.get(key, MISSING))
        ]
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [each for number, pair in pairs for each in differences(f"{path}[{number}]", *pair)]
    if found is not MISSING and _are_equal(wanted, found):
        return []
    return [Difference(path, wanted, found)]


def _are_equal(wanted: object, found: object) -> bool:
    """Whether they are equal in JSON, where 1 is not true; what is wanted may be any object that compares itself."""
    if isinstance(wanted, int | float) and isinstance(wanted, bool) != isinstance(found, bool):
        return False
    return bool(wanted == found)


def shown(value: object) -> str:
    """A value in a line, cut where it is long."""
    return _repr.repr(value)
