"""Connections to the lease broker: one for each call that runs at the same time, made when one is needed."""

from __future__ import annotations

import json
import select
import socket
import threading
from contextlib import suppress
from typing import Any

from qbridge_core.backend import (
    AuthenticationError,
    BrokerUnavailableError,
    BrokerURL,
    DeliveryLostError,
    NotConnectedError,
    UnroutableError,
)


class InterruptedCallError(Exception):
    """The request was sent, and the reply did not come."""


class Wire:
    """One connection."""

    def __init__(self, url: BrokerURL, timeout: float) -> None:
        self._socket = socket.create_connection((url.host, url.port or 0), timeout=timeout)
        self._replies = self._socket.makefile("rb")
        try:
            answer = self.ask({"op": "hello", "password": url.password}, timeout)
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            self.close()
            raise AuthenticationError(f"{url} refused the password")

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self._socket.settimeout(timeout)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        line = self._replies.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the broker closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def is_stale(self) -> bool:
        """True when the other side has closed it."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def end(self) -> None:
        """Wake whoever waits for an answer; that thread closes the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; by the thread that uses it."""
        self.end()
        self._replies.close()
        self._socket.close()


class Pool:
    """The connections of one client. Thread-safe."""

    def __init__(self, url: BrokerURL, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[Wire] = []
        self._busy: set[Wire] = set()
        self.closed = False

    def call(self, op: str, *, wait: float = 0.0, timeout: float | None = None, **arguments: Any) -> Any:
        """Ask the broker.

        Raises:
            BrokerUnavailableError: it cannot be reached: the request was not sent.
            InterruptedCallError: no answer.
        """
        patience = self._timeout if timeout is None else timeout
        wire = self._borrow(patience)
        try:
            answer = wire.ask({"op": op, "arguments": arguments, "wait": wait}, patience + wait)
        except (OSError, ValueError) as exc:
            self._drop(wire)
            raise InterruptedCallError(f"no answer from {self._url}") from exc
        except BaseException:
            self._drop(wire)
            raise
        self._give_back(wire)
        if "error" in answer:
            raise _ERRORS[answer["error"]](_TEXTS[answer["error"]].format(arguments.get("queue")))
        return answer["value"]

    def close(self) -> None:
        """End every call."""
        with self._lock:
            self.closed = True
            for wire in self._busy:
                wire.end()
            idle, self._idle = self._idle, []
        for wire in idle:
            wire.close()

    def _borrow(self, patience: float) -> Wire:
        with self._lock:
            while self._idle and not self.closed:
                wire = self._idle.pop()
                if not wire.is_stale:
                    self._busy.add(wire)
                    return wire
                wire.close()
        if self.closed:
            raise NotConnectedError("the client is not connected; call connect() first")
        try:
            wire = Wire(self._url, min(patience, self._timeout))  # while it is made, `close` cannot end it
        except (OSError, ValueError) as exc:
            raise BrokerUnavailableError(f"{self._url} cannot be reached: {exc}") from exc
        with self._lock:
            if not self.closed:
                self._busy.add(wire)
                return wire
        wire.close()
        raise NotConnectedError("the client was disconnected")

    def _give_back(self, wire: Wire) -> None:
        with self._lock:
            self._busy.discard(wire)
            if not self.closed:
                self._idle.append(wire)
                return
        wire.close()

    def _drop(self, wire: Wire) -> None:
        with self._lock:
            self._busy.discard(wire)
        wire.close()


_ERRORS = {"missing": UnroutableError, "lost": DeliveryLostError, "denied": AuthenticationError}
_TEXTS = {
    "missing": "queue {!r} does not exist; call declare() first",
    "lost": "the lease has ended; the message will be delivered again",
    "denied": "the broker refused the password",
}
