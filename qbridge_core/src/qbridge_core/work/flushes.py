"""One flush of a client for all of its managers that stop together."""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.work.perclient import PerClient


class _Turn:
    """A flush that has not begun, and what it brings about for all who have asked for it by then."""

    def __init__(self) -> None:
        self.is_led = False
        self._over = threading.Event()
        self._is_done = False
        self._error: BaseException | None = None

    def end(self, is_done: bool, error: BaseException | None = None) -> None:
        """It is over."""
        self._is_done, self._error = is_done, error
        self._over.set()

    def wait(self, timeout: float) -> bool:
        """Whether it was done in time.

        Raises:
            BaseException: what kept it from that.
        """
        if self._over.wait(timeout) and self._error is not None:
            raise self._error
        return self._is_done


class Flushes:
    """Flushes a client, one flush after the other; each is for all who ask before it begins. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._next = _Turn()

    def flush(self, client: QueueClient, timeout: float) -> bool:
        """Flush; False when that was not done in time.

        It may take so many seconds, after as many for a flush that is under way: that one knows nothing of what the
        caller has settled since.

        Raises:
            QBridgeError: the client's.
        """
        with self._lock:
            turn, leads = self._next, not self._next.is_led
            turn.is_led = True
        if leads:
            self._lead(turn, client, timeout)
        return turn.wait(2 * timeout)

    def _lead(self, turn: _Turn, client: QueueClient, timeout: float) -> None:
        is_free = self._flushing.acquire(timeout=timeout)
        with self._lock:
            self._next = _Turn()
        try:
            turn.end(is_free and client.flush(timeout))
        except BaseException as exc:  # noqa: BLE001 - it is raised by all who wait
            turn.end(False, exc)
        finally:
            if is_free:
                self._flushing.release()


_flushes: Final = PerClient(lambda _: Flushes())


def flush(client: QueueClient, timeout: float) -> bool:
    """Flush together with the other managers of this client; see :meth:`Flushes.flush`."""
    return _flushes.of(client).flush(client, timeout)
