"""What becomes of a client's connection, told to whoever listens, in the order in which it happens."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Final, Protocol

from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.mailbox import Mailbox

Lost = Callable[[str, BaseException], None]
Regained = Callable[[str, float], None]


class Hooks(Protocol):
    """What calls the hooks of a client's plugins."""

    def add(self, plugin: object) -> None:
        """Have this one called, too, unless it is already."""
        ...


class ConnectionEvents:
    """The outages of one client. A backend tells of them; nothing is done while nobody listens. Thread-safe.

    Listeners are called in a thread of their own, one call after the other: they may take their time.
    """

    def __init__(self) -> None:
        self._listeners: Final[list[tuple[Lost, Regained]]] = []
        self._telling = threading.Lock()
        self._told: Mailbox[Callable[[], None]] = Mailbox(lambda: aside("qbridge-outage", self._tell))

    def listen(self, lost: Lost, regained: Regained) -> None:
        """Have these called from now on; they must not raise."""
        self._listeners.append((lost, regained))

    def lost(self, address: str, error: BaseException) -> None:
        """An outage begins.

        Args:
            address: of the broker, without a password.
            error: why.
        """
        for listener, _ in self._listeners:
            self._told.post(functools.partial(listener, address, error))

    def regained(self, address: str, duration: float) -> None:
        """The outage is over, after so many seconds."""
        for _, listener in self._listeners:
            self._told.post(functools.partial(listener, address, duration))

    def _tell(self) -> None:
        with self._telling:  # what comes meanwhile has a thread of its own, which waits for its turn
            for call in self._told.take():
                call()
