"""Chance, from the system's source: for what no other message may have, and for who shall not come at once with others.

Copies of a process (a fork, a snapshot of a machine) draw their own, and a program with a fixed seed gets what it
expects. The module ``random`` would take a worker a quarter of a MiB.
"""

from __future__ import annotations

import os
from typing import Final

_getrandom: Final = getattr(os, "getrandom", None)  # Linux
_NONBLOCK: Final[int] = getattr(os, "GRND_NONBLOCK", 0)


def random_bytes(count: int) -> bytes:
    """Up to 256 bytes of the system's random source, without giving the interpreter's lock away where that can be.

    ``os.urandom`` gives it away: of many threads that send, another one takes its turn with each message, and the
    change costs more than the message. Thread-safe.
    """
    if _getrandom is not None:
        try:
            return bytes(_getrandom(count, _NONBLOCK))
        except OSError:
            pass  # the machine has just been started, or a sandbox forbids it
    return os.urandom(count)


def random_between(low: float, high: float) -> float:
    """A number between two. Thread-safe."""
    return low + (high - low) * (int.from_bytes(random_bytes(7), "big") / 2**56)
