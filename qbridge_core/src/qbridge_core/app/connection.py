"""The client of an app: one for the whole process, made when it is needed, and anew in a forked child."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.app.framework import framework_here
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.registry import connect
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from qbridge_core.aio.sends import Sends

URL_VARIABLE: Final = "QBRIDGE_URL"
_DISCONNECT_TIME: Final = 2.0


class Connection:
    """Thread-safe.

    Attributes:
        usual_url: says where to connect to when nobody has; may be replaced before it is used.
    """

    def __init__(self) -> None:
        self.usual_url: Callable[[], str] = _usual_url
        self._lock = threading.Lock()
        self._client: QueueClient | None = None
        self._opened: tuple[str, Mapping[str, Any]] | None = None
        self._declared: set[str] = set()
        self._lent: QueueClient | None = None
        self._of_parents: list[QueueClient] = []
        self._sends: Sends | None = None
        _all.add(self)

    def open(self, url: str | None, options: Mapping[str, Any]) -> QueueClient:
        """Connect now, and use this client until ``close``.

        Raises:
            ConfigurationError: there is a client already, or no URL.
            The errors of ``connect``.
        """
        if self._lent is not None:
            return self._lent
        chosen = url or self.usual_url()
        with self._lock:
            if self._client is not None:
                raise ConfigurationError("this app is open already, for the whole process: use it as it is")
            self._client = connect(chosen, **options)
            self._opened = chosen, options
            return self._client

    def client(self, start_timeout: float = 0.0) -> QueueClient:
        """The client, connected now if there is none yet, to where the framework or the variable QBRIDGE_URL says.

        Args:
            start_timeout: seconds to keep trying while the broker is not up yet.

        Raises:
            ConfigurationError: neither does.
            The errors of ``connect``.
        """
        client = self._client
        return self._connected(start_timeout) if client is None else client

    @property
    def clock(self) -> Clock:
        """That of the client, or the system's where there is none yet."""
        client = self._client
        return SYSTEM_CLOCK if client is None else client.clock

    @property
    def sends(self) -> Sends:
        """What coroutines have under way."""
        from qbridge_core.aio.sends import Sends  # here, for most producers do without

        if self._sends is None:
            with self._lock:
                self._sends = self._sends or Sends()
        return self._sends

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    def close(self) -> None:
        """Disconnect. The next use connects anew, to where the environment says."""
        if self._lent is not None:
            return
        with self._lock:
            client, self._client = self._client, None
            self._opened = None
            self._declared = set()
        if client is not None:
            client.disconnect()

    @contextmanager
    def lent(self, client: QueueClient) -> Iterator[None]:
        """Use another's client within this block, whoever opens the app there; then be as before. For tests."""
        with self._lock:
            before = self._client, self._opened, self._declared, self._lent
            self._client = self._lent = client
            self._opened, self._declared = None, set()
        try:
            yield
        finally:
            with self._lock:
                self._client, self._opened, self._declared, self._lent = before

    def has_declared(self, queue: str) -> bool:
        """Whether that was done for this client."""
        return queue in self._declared

    def declare(self, queue: str, dead_letter_queue: str) -> None:
        """Create the queues once for each client."""
        if queue not in self._declared:
            self.client().declare(queue, dead_letter_queue)
            self._declared.add(queue)

    def _connected(self, start_timeout: float) -> QueueClient:
        with self._lock:
            if self._lent is not None:  # in a forked child, which may not use another client either
                return self._lent
            if self._client is None:
                url, options = self._opened or (self.usual_url(), {})
                patience = {"start_timeout": start_timeout} if start_timeout else {}
                self._client = connect(url, **{**patience, **options})
                atexit.register(_disconnect, weakref.ref(self._client))
            return self._client

    def forget_parents(self) -> None:
        """In a forked child: the client is another process's, and a thread that the child has not may hold the lock."""
        self._lock = threading.Lock()
        self._declared = set()
        if self._client is not None:
            self._of_parents.append(self._client)  # what ends with it could end the parent's connection
            self._client = None


def _usual_url() -> str:
    framework = framework_here()
    if framework is not None:
        return framework.url()
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigurationError(
            f"which broker? Use the app within `with app.open(url):`, or set {URL_VARIABLE}, as in redis://localhost:6379/0"
        )
    return url


def _disconnect(reference: weakref.ref[QueueClient]) -> None:
    client = reference()
    if client is not None and client.connected:
        aside("qbridge-disconnect", client.disconnect).join(_DISCONNECT_TIME)


_all: Final[weakref.WeakSet[Connection]] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_all):
        connection.forget_parents()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
