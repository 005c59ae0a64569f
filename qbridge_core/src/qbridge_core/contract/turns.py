"""Receiving from several queues: who waits for some, and how a client does it that can wait for one only, in turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from qbridge_core.contract.message import Delivery
from qbridge_core.errors import NotConnectedError, QBridgeError, TransientError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.pause import GrowingPause

Receive = Callable[[str, int, float], list[Delivery]]
"""``QueueClient.receive``."""
_PAUSES: Final = 0.01, 0.25


class Waits:
    """The waits for several queues that are going on. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._going_on: dict[threading.Event, Callable[[], None]] = {}
        self._was_early = False

    @contextmanager
    def one(self, tell: Callable[[], None]) -> Iterator[threading.Event]:
        """A wait, which should end when the event is set; ``tell`` is called then, too."""
        woken = threading.Event()
        with self._lock:
            self._going_on[woken] = tell
            was_early, self._was_early = self._was_early, False
        if was_early:
            woken.set()
            tell()
        try:
            yield woken
        finally:
            with self._lock:
                del self._going_on[woken]

    def wake(self) -> None:
        """End those that are going on, or the next one when there is none."""
        with self._lock:
            going_on = list(self._going_on.items())
            self._was_early = not going_on
        for woken, tell in going_on:
            woken.set()
            tell()


def receive_in_turn(
    receive: Receive, wanted: Mapping[str, int], timeout: float, woken: threading.Event
) -> list[Delivery]:
    """See ``QueueClient.receive_any``. Ends when ``woken`` is set."""
    deadline = monotonic() + timeout
    pause = GrowingPause(*_PAUSES)
    while True:
        came, error = _ask_each(receive, wanted)
        if came:
            return came
        left = deadline - monotonic()
        if error is not None and (left <= 0 or not isinstance(error, TransientError)):
            raise error
        if left <= 0:
            return []
        if woken.wait(min(pause.next(), left)):
            return []


def _ask_each(receive: Receive, wanted: Mapping[str, int]) -> tuple[list[Delivery], QBridgeError | None]:
    """What is ready, and the first error."""
    came: list[Delivery] = []
    first: QBridgeError | None = None
    for queue, count in wanted.items():
        try:
            came += receive(queue, count, 0.0)
        except QBridgeError as exc:
            first = first or exc
            if isinstance(exc, NotConnectedError):
                break
    return came, first
