"""Random bytes, for what no other message may have."""

from __future__ import annotations

import os
from typing import Final

_getrandom: Final = getattr(os, "getrandom", None)  # Linux
_NONBLOCK: Final[int] = getattr(os, "GRND_NONBLOCK", 0)


def random_bytes(count: int) -> bytes:
    """Up to 256 bytes of the system's random source, without giving the interpreter's lock away where that can be.

    ``os.urandom`` gives it away: of many threads that send, another one takes its turn with each message, and the
    change costs more than the message. Random numbers of the process's own would do without the system, but copies of a
    process (a fork, a snapshot of a machine) have the same. Thread-safe.
    """
    if _getrandom is not None:
        try:
            return bytes(_getrandom(count, _NONBLOCK))
        except OSError:
            pass  # the machine has just been started, or a sandbox forbids it
    return os.urandom(count)
