"""A value that is not of the type that it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qbridge_core.contract.envelope import json_type

Step = str | int
_MOST: Final = 5
_JSON: Final = (bool, int, float, str, list, dict, type(None))


class MisfitError(Exception):
    """A value does not fit.

    Args:
        text: what was expected and what is there; never the value itself, which would reach a log.
        path: the keys and positions that lead to it, from the payload on.
    """

    def __init__(self, text: str, path: Sequence[Step] = ()) -> None:
        super().__init__(text)
        self.text = text
        self.path = tuple(path)

    def within(self, step: Step) -> MisfitError:
        """The same, seen from what the value is in."""
        return MisfitError(self.text, (step, *self.path))

    def __str__(self) -> str:
        return f"{path_of(('payload', *self.path))}: {self.text}"


def path_of(steps: Sequence[Step]) -> str:
    """``payload.mail.items[2]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def kind_of(value: object) -> str:
    """What a value is, for people."""
    if type(value) not in _JSON:
        return f"a {type(value).__name__}"
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    name = json_type(value)
    return f"{'an' if name[0] in 'ao' else 'a'} {name}"


def listed(names: Sequence[str]) -> str:
    """Some names in a sentence."""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
