"""What the managers of one client share."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from qbridge_core.contract.client import QueueClient

T = TypeVar("T")


class PerClient(Generic[T]):
    """One of a kind for each client, made when somebody first asks for it, and gone with the client. Thread-safe.

    A forked child begins anew: there are no threads, and the lock may be held by one that does not exist there.

    Args:
        make: makes one; it must not hold the client.
    """

    def __init__(self, make: Callable[[QueueClient], T]) -> None:
        self._make = make
        self._begin_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def of(self, client: QueueClient) -> T:
        """That of this client."""
        with self._lock:
            found = self._found.get(client)
            if found is None:
                found = self._found[client] = self._make(client)
            return found

    def known(self, client: QueueClient) -> T | None:
        """The same, if there is one. Waits for nobody."""
        return self._found.get(client)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._found: weakref.WeakKeyDictionary[QueueClient, T] = weakref.WeakKeyDictionary()
