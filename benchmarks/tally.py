"""Counts the tasks of several processes of one worker; standard library only, every peer imports it."""

from __future__ import annotations

import mmap
import struct
import time
from os import getpid
from pathlib import Path

_ENTRY = struct.Struct("=qdd")
Counts = tuple[int, float, float]


class Tally:
    """A handler that counts in a file of its own in each process, which another one may read meanwhile.

    It is pickled on its way to a process, or copied by a fork, before it counts.

    Args:
        prefix: what the names of the files begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._file: mmap.mmap | None = None

    def __call__(self, payload: object) -> None:
        """Count one task, as cheaply as possible."""
        del payload
        if self._file is None:
            self._begin()
        self._count += 1
        _ENTRY.pack_into(self._file, 0, self._count, self._first, time.monotonic())  # type: ignore[arg-type]

    def _begin(self) -> None:
        self._count, self._first = 0, time.monotonic()
        with open(f"{self._prefix}{getpid()}", "w+b") as file:
            file.truncate(_ENTRY.size)
            self._file = mmap.mmap(file.fileno(), _ENTRY.size)


def counted(prefix: str) -> list[Counts]:
    """What each process has counted: how many tasks, and when the first began and the last did."""
    draft = Path(prefix)
    entries = (file.read_bytes() for file in draft.parent.glob(f"{draft.name}*"))
    return [_ENTRY.unpack(entry) for entry in entries if len(entry) == _ENTRY.size]
