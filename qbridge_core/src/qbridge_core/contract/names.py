"""What QBridge calls things that it makes beside a queue, and this process; and names that nothing has."""

from __future__ import annotations

import os
from collections.abc import Collection


def default_dead_letter_queue(queue: str) -> str:
    """The dead-letter queue of a queue that was declared without one."""
    return f"{queue}.dead"


def suspects_queue(queue: str) -> str:
    """The side queue of a queue, for messages that may be killing their workers."""
    return f"{queue}.suspects"


def worker_identity() -> str:
    """``host:pid`` of this process, as dead letters name it (asked anew each time: a fork changes the pid)."""
    from socket import gethostname  # takes milliseconds, which an import need not wait for

    return f"{gethostname()}:{os.getpid()}"


def meant(name: str, known: Collection[str]) -> str:
    """What somebody may have meant who wrote a name that nothing has, as a part of an error."""
    import difflib  # here, for most names are right

    alike = difflib.get_close_matches(name, known, 1)
    return f"did you mean {alike[0]!r}?" if alike else f"there are {', '.join(known)}"
