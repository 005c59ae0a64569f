"""The records that the worker appends, one at the end of each run, and what they add up to."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

_RECORD: Final = struct.Struct("<IB")
_KNOWN_ATTEMPTS: Final = 8  # a bit for each in one byte
_CHUNK: Final = 1 << 20


class JournalWriter:
    """Appends to the file; for any thread."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(self, number: int, attempt: int) -> None:
        """A run of a task ends."""
        os.write(self._file, _RECORD.pack(number, min(attempt, 255)))


def ended_runs(path: str | Path) -> int:
    """How many runs have ended."""
    return os.stat(path).st_size // _RECORD.size


class Tally:
    """Which attempts of each task were run, read from a journal that grows.

    Attributes:
        path: the file.
        runs: how many records there were.
        strange: records of an attempt that was run before, or of a number that there is not; the first few.
        strange_count: how many of those.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.runs = 0
        self.strange: list[str] = []
        self.strange_count = 0
        self.path = path
        self._attempts = bytearray(count)
        self._offset = 0

    def read(self) -> None:
        """Take in what is new."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            while data := file.read(_CHUNK * _RECORD.size):
                whole = len(data) - len(data) % _RECORD.size
                self._offset += whole
                for number, attempt in _RECORD.iter_unpack(data[:whole]):
                    self._take(number, attempt)
                if whole < len(data):
                    return

    def _take(self, number: int, attempt: int) -> None:
        self.runs += 1
        bit = 1 << (attempt - 1) if 0 < attempt <= _KNOWN_ATTEMPTS else 0
        if number >= len(self._attempts) or not bit or self._attempts[number] & bit:
            self.strange_count += 1
            if self.strange_count <= 10:
                self.strange.append(f"task {number} was run as attempt {attempt}, again or out of all bounds")
            return
        self._attempts[number] |= bit

    def attempts(self, number: int) -> int:
        """The attempts of a task that were run: bit 0 for the first."""
        return self._attempts[number]
