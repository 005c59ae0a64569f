"""Reads lines as they come, in little memory, whether the input ends or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

MOST: Final = 500
"""How many lines are handed out together: of so many at most nobody knows what became of them when sending fails."""
_READ: Final = 256 * 1024


class Line(NamedTuple):
    """A line of the input, counted from 1, without its end."""

    number: int
    text: bytes


def read_lines(descriptor: int, longest: int) -> Iterator[list[Line]]:
    """Hand out lines as soon as they are there, those that came together together.

    A read of a pipe returns what is in it: nobody waits for a line that a producer has not written yet.

    Args:
        descriptor: of an open file, pipe or terminal.
        longest: bytes that a line may have; one that is longer is the last one, and need not be whole.

    Raises:
        OSError: the input cannot be read.
    """
    number = 0
    for texts in _texts(descriptor, longest):
        for start in range(0, len(texts), MOST):
            yield [Line(number + place, text) for place, text in enumerate(texts[start : start + MOST], start + 1)]
        number += len(texts)


def _texts(descriptor: int, longest: int) -> Iterator[list[bytes]]:
    parts: list[bytes] = []  # of a line whose end has not come yet
    size = 0
    while size <= longest and (data := os.read(descriptor, _READ)):
        *texts, rest = data.split(b"\n")
        if texts:
            texts[0] = b"".join([*parts, texts[0]])
            parts, size = [], 0
            yield texts
        parts.append(rest)
        size += len(rest)
    if size:
        yield [b"".join(parts)]
