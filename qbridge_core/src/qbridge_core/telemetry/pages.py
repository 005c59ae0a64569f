"""Pages over HTTP that tell how a process is doing: for probes, and for what collects metrics.

One thread answers all visitors, and waits for none of them. ``http.server`` would start a thread for each request and
hand on the interpreter's lock some ten times for each answer; in a process whose handlers keep Python busy each of
those takes as long as they like. Here it is once, while nobody is there.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Final, NamedTuple, Self

from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.endurance import Endurance
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.telemetry.quicksockets import accept_at_once, receive_at_once, send_at_once
from qbridge_core.telemetry.requests import LONGEST_REQUEST, asked_for, is_complete, response

_log: Final = logger("qbridge.pages")
_PATIENCE: Final = 5.0
_MOST_VISITORS: Final = 64
_PAUSE: Final = 0.2
TEXT: Final = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """What a visitor gets.

    Attributes:
        status: of HTTP, as 200 or 503.
        content_type: as ``TEXT``.
        body: what is shown.
    """

    status: int
    content_type: str
    body: bytes


class Pages:
    """The pages of one process, by their paths. Thread-safe.

    A page is a function that is called for each visit, in the one thread that serves all of them: it must be quick, and
    never wait for a broker or for a lock that somebody holds while waiting for one.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[], Page]] = {}
        self._failures = Outage()

    def add(self, path: str, page: Callable[[], Page]) -> None:
        """Show a page at a path such as ``/livez``, in the place of the one that was there; at any time."""
        self._functions[path] = page

    def visit(self, path: str) -> Page:
        """The page at a path; never raises. A page that raises is a 500, and said in the log once a minute."""
        function = self._functions.get(path)
        if function is None:
            known = "".join(f"{each}\n" for each in sorted(self._functions))
            return Page(HTTPStatus.NOT_FOUND, TEXT, f"There is no such page. There are:\n{known}".encode())
        try:
            return function()
        except Exception as exc:  # noqa: BLE001 - one page must not take the others along
            if self._failures.is_news(path):
                _log.exception("the page %s cannot be shown", path)
            return Page(HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, f"{type(exc).__name__}; the log has more\n".encode())


class PageServer:
    """Shows pages over HTTP in a daemon thread, from ``start`` until ``close`` or the end of its ``with`` block.

    Args:
        pages: what to show.
        host: the address to listen at; ``127.0.0.1`` for this machine alone, ``0.0.0.0`` for all that reach it.
        port: 0 for any that is free.

    Raises:
        ConfigurationError: nobody can listen there; the text says why and what to do.

    Attributes:
        port: where it listens.
    """

    def __init__(self, pages: Pages, host: str, port: int) -> None:
        self._pages = pages
        self._door = _listen(host, port)
        self.port: int = self._door.getsockname()[1]
        self._bell, self._ringer = socket.socketpair()
        self._visitors: dict[socket.socket, _Visitor] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="qbridge-pages", daemon=True)
        _servers.add(self)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; may be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        self._ringer.send(b"!")
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the sockets: at the end, and in a copy of this process, which would keep the port from others."""
        for each in (self._door, self._bell, self._ringer, *self._visitors):
            each.close()
        self._visitors.clear()
        self._selector.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        enduring = Endurance("what shows the pages")
        while not self._is_closed:
            went_well = False
            with enduring:
                self._turn()
                went_well = True
            if not went_well:  # no descriptor is left, for one: the door would be found open again at once
                time.sleep(_PAUSE)

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        ready = self._selector.select(_PATIENCE if self._visitors else None)
        for key, _ in ready:
            if key.fileobj is self._door:
                self._admit()
            elif isinstance(key.fileobj, socket.socket) and (visitor := self._visitors.get(key.fileobj)) is not None:
                self._attend(visitor)
        now = monotonic()
        for visitor in [each for each in self._visitors.values() if each.leaves_at < now]:
            self._dismiss(visitor)

    def _admit(self) -> None:
        try:
            connection = accept_at_once(self._door)
        except (BlockingIOError, ConnectionError):  # gone again
            return
        self._attend(_Visitor(connection))  # most have said all by now, and take the answer at once

    def _attend(self, visitor: _Visitor) -> None:
        """Read what a visitor asks for, or write on; who is not done waits."""
        try:
            if not visitor.answer:
                visitor.read()
                if not is_complete(visitor.request):
                    self._let_wait(visitor)
                    return
                visitor.answer = self._answer(bytes(visitor.request))
            visitor.write()
        except BlockingIOError:
            self._let_wait(visitor)
            return
        except OSError:  # gone
            visitor.answer = b""
        if visitor.answer:
            self._let_wait(visitor)
        else:
            self._dismiss(visitor)

    def _let_wait(self, visitor: _Visitor) -> None:
        """Attend to it again when it has said more, or has read what it got."""
        event = selectors.EVENT_WRITE if visitor.answer else selectors.EVENT_READ
        if visitor.connection in self._visitors:
            self._selector.modify(visitor.connection, event)
            return
        if len(self._visitors) >= _MOST_VISITORS:
            self._dismiss(min(self._visitors.values(), key=lambda each: each.leaves_at))
        self._visitors[visitor.connection] = visitor
        self._selector.register(visitor.connection, event)

    def _answer(self, request: bytes) -> bytes:
        asked = asked_for(request)
        if isinstance(asked, HTTPStatus):
            return response(asked, TEXT, f"{asked.phrase}\n".encode())
        status, content_type, body = self._pages.visit(asked.path)
        return response(HTTPStatus(status), content_type, body, head_only=asked.head_only)

    def _dismiss(self, visitor: _Visitor) -> None:
        if self._visitors.pop(visitor.connection, None) is not None:
            self._selector.unregister(visitor.connection)
        visitor.connection.close()


class _Visitor:
    """One connection.

    Attributes:
        request: what came so far.
        answer: what has yet to be written; empty before the request is complete, and at the end.
        leaves_at: when it is shown out, whatever it waits for.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = bytearray()
        self.answer = b""
        self.leaves_at = monotonic() + _PATIENCE

    def read(self) -> None:
        """Read what is there; raises BlockingIOError when that is nothing, another OSError when it is gone."""
        part = receive_at_once(self.connection, LONGEST_REQUEST)
        if not part:
            raise ConnectionResetError
        self.request += part

    def write(self) -> None:
        """Write what can be; raises as ``read`` does."""
        self.answer = self.answer[send_at_once(self.connection, self.answer) :]


def _listen(host: str, port: int) -> socket.socket:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ConfigurationError(f"a port is a number from 0 to 65535, not {port!r}")
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        door = socket.create_server((host, port), family=family)
    except OSError as exc:
        why = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc  # without what create_server adds
        raise ConfigurationError(
            f"pages cannot be shown at {host}:{port}: {why}; choose another port, or an address of this machine"
        ) from exc
    door.setblocking(False)
    return door


_servers: Final[weakref.WeakSet[PageServer]] = weakref.WeakSet()


def _abandon_all() -> None:
    for server in list(_servers):
        server.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
