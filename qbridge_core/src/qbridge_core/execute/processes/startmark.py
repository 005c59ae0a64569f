"""The number of the task that a child process has begun, in memory that its worker sees too.

A message would say the same, but wake the worker for each task. The worker looks when the process has died, for a task
that was not begun is not charged with that, and now and then while several tasks are with it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

_SIZE: Final = 8


class StartMark:
    """One end of it.

    Args:
        descriptor: of the shared file, which need not stay open.

    Raises:
        OSError: there is no memory or descriptor left for it.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._number = memoryview(self._memory).cast("Q")  # written in one piece, for the other end may look meanwhile

    def set(self, number: int) -> None:
        """In the process: this task begins."""
        self._number[0] = number

    def get(self) -> int:
        """The task that began last; 0 before the first one, and when this end has been closed."""
        try:
            return int(self._number[0])
        except ValueError:  # whoever asks may be another thread than the one that closes it
            return 0

    def close(self) -> None:
        """Release what belongs to this end."""
        self._number.release()
        self._memory.close()


def shared_file() -> int:
    """The descriptor of a new file for both ends.

    Raises:
        OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("qbridge-start-mark", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, _SIZE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
