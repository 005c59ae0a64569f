"""A program in a process of its own, begun from scratch, and the lists in JSON that both ends send over a socket."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

from qbridge_core.execute.executor import loading
from qbridge_core.runtime.interpreter import start_interpreter


class JsonLink:
    """One end of the socket between two processes. Any thread may write; one at a time reads.

    Args:
        descriptor: of the socket, which belongs to the link from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._readable = select.poll()  # the connection's own poll() makes and forgets a selector each time
        self._readable.register(descriptor, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._sending = threading.Lock()

    def say(self, *words: object) -> None:
        """Send a list of what JSON knows.

        Raises:
            OSError: the other end is gone.
        """
        self.send_bytes(json.dumps(words).encode())

    def send_bytes(self, message: bytes, patience: float = -1) -> None:
        """Send a message that is no JSON.

        Args:
            message: as the other end gets it.
            patience: seconds to wait for a thread that is in the middle of a long message; -1 for ever.

        Raises:
            OSError: the other end is gone; a TimeoutError when patience is.
        """
        if not self._sending.acquire(timeout=patience):
            raise TimeoutError("another message is being sent")
        try:
            self._connection.send_bytes(message)
        finally:
            self._sending.release()

    def hear(self, longest: int | None = None) -> list[Any]:
        """Wait for the next list.

        Args:
            longest: bytes; what is longer is nonsense, and ends the connection.

        Raises:
            EOFError, OSError: the other end is gone.
            ValueError: it sent something else. What a handler started may have written there.
        """
        words = json.loads(self._connection.recv_bytes(longest))
        if not isinstance(words, list):
            raise ValueError("no list")  # noqa: TRY004 - what JSON cannot read is one too
        return words

    def receive_bytes(self) -> bytes:
        """Wait for a message that is no JSON; raises EOFError or OSError when the other end is gone."""
        return self._connection.recv_bytes()

    def poll(self, seconds: float = 0.0) -> bool:
        """Whether there is something to hear, or the other end is gone."""
        return bool(self._readable.poll(seconds * 1000))

    def has_room(self) -> bool:
        """Whether a message can be sent that need not wait for the other end; not so when that reads nothing."""
        return bool(self._writable.poll(0))

    def fileno(self) -> int:
        """The descriptor, for ``multiprocessing.connection.wait``."""
        return self._connection.fileno()

    def close(self) -> None:
        """Let go of the socket."""
        self._connection.close()


def start_program(module: str, *inherited: int) -> tuple[subprocess.Popen[bytes], JsonLink]:
    """Run ``module.main(descriptor, *inherited)`` in a process of its own, where descriptor is its end of the link.

    Raises:
        OSError: there is no room for another process.
    """
    ours, theirs = socket.socketpair()
    try:
        process = start_interpreter(module, (theirs.fileno(), *inherited))
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, JsonLink(ours.detach())


@contextmanager
def main_program_imported(preparation: Mapping[str, Any]) -> Iterator[None]:
    """In the new process: import the main program as ``multiprocessing`` does, and then what is imported within.

    Args:
        preparation: what ``main_program`` has said in the process that started this one.
    """
    loading.set()
    spawn.prepare(dict(preparation))
    yield
    loading.clear()
