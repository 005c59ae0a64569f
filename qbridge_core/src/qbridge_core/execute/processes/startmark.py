"""The number of the task that a child process has begun, in memory that its worker sees too.

A message would say the same, but wake the worker for each task. The worker looks only when the process has died: a task
that was not begun is not charged with that.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from typing import Final

_NUMBER: Final = struct.Struct("=Q")


class StartMark:
    """One end of it.

    Args:
        descriptor: of the shared file, which need not stay open.

    Raises:
        OSError: there is no memory or descriptor left for it.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _NUMBER.size)

    def set(self, number: int) -> None:
        """In the process: this task begins."""
        _NUMBER.pack_into(self._memory, 0, number)

    def get(self) -> int:
        """The task that began last; 0 before the first one."""
        return int(_NUMBER.unpack_from(self._memory)[0])

    def close(self) -> None:
        """Release what belongs to this end."""
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
        os.ftruncate(descriptor, _NUMBER.size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
