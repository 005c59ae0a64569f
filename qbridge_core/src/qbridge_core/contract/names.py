"""What QBridge calls things that it makes beside a queue, and this process."""

from __future__ import annotations

import os


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
