"""Receiving from several queues with a client that can wait for one only: each is asked in its turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from qbridge_core.contract.message import Delivery
from qbridge_core.errors import NotConnectedError, QBridgeError, TransientError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.pause import GrowingPause

Receive = Callable[[str, int, float], list[Delivery]]
"""``QueueClient.receive``."""
_PAUSES: Final = 0.01, 0.25


def receive_in_turn(
    receive: Receive, wanted: Mapping[str, int], timeout: float, woken: threading.Event
) -> list[Delivery]:
    """See ``QueueClient.receive_any``. Ends when ``woken`` is set, and clears it."""
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
            woken.clear()
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
