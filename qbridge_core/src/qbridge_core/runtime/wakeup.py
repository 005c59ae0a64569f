"""Wakes one waiting thread, from any thread and from signal handlers.

A lock-based event will not do: a signal that arrives just before the wait begins would not be noticed until it ends. A
byte in a socket is, and the interpreter can write it itself (``signal.set_wakeup_fd``).
"""

from __future__ import annotations

import contextlib
import socket

_CHUNK = 4096


class Wakeup:
    """A doorbell. ``notify`` from anywhere, ``wait`` in one thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor for ``signal.set_wakeup_fd``."""
        return self._writer.fileno()

    def notify(self) -> None:
        """End the current wait, or the next one."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody waits any more
            self._writer.send(b"\0")

    def wait(self, seconds: float) -> None:
        """Wait for a notification, at most so long."""
        self._reader.settimeout(max(0.0, seconds))
        with contextlib.suppress(BlockingIOError, TimeoutError):
            self._reader.recv(_CHUNK)

    def close(self) -> None:
        """Release the sockets."""
        self._reader.close()
        self._writer.close()
