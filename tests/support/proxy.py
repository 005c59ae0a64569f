"""A TCP proxy that breaks connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_NORMAL_CLOSE = struct.pack("ii", 0, 0)


class TCPProxy:
    """Forwards connections from `host:port` to a target, until it is told not to.

    It works from its creation until `close()`, on an event loop in a thread of its own; every method may be
    called from any thread and takes effect before it returns.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._ever: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._latency = 0.0
        self._pause_per_byte = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self.pass_through()

    def __enter__(self) -> TCPProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @classmethod
    def to(cls, url: str) -> TCPProxy:
        """Return a proxy to the server of a URL that names its port."""
        parts = urlsplit(url)
        assert parts.hostname, f"no host in {url}"
        assert parts.port, f"no port in {url}"
        return cls(parts.hostname, parts.port)

    def through(self, url: str) -> str:
        """Return the URL with the proxy in the place of its host and port."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}{self.host}:{self.port}"))

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return len(self._tasks)

    def pass_through(self) -> None:
        """Accept and forward; what was held by `blackhole` is delivered."""
        self._run(self._pass_through())

    def blackhole(self) -> None:
        """Keep connections open, accept more, and forward nothing in either direction, not even a close."""
        self._run(self._blackhole())

    def slow_down(self, latency: float) -> None:
        """From now on hold all data back for so many seconds in each direction, as a long way would."""
        self._latency = latency

    def throttle(self, bytes_per_second: float) -> None:
        """From now on let no more than that through to each client, as a thin line would."""
        self._pause_per_byte = 1 / bytes_per_second

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on (see `reset`)."""
        self._run(self._refuse())

    def reset(self) -> None:
        """End the open connections, on both sides, with a TCP reset; new ones are treated as before."""
        self._run(self._reset())

    def close(self) -> None:
        """Reset everything and end the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _pass_through(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        self._flowing.set()

    async def _blackhole(self) -> None:
        await self._pass_through()
        self._flowing.clear()

    async def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            for listener in server.sockets:
                self._loop.remove_reader(listener.fileno())
            # asyncio forgets, and does not close, what it has accepted for a server that ends before the next turn.
            await asyncio.sleep(0)
            server.close()
        self._flowing.set()

    async def _reset(self) -> None:
        for writer in self._writers:
            _abort(writer)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _shut_down(self) -> None:
        await self._refuse()
        while len(asyncio.all_tasks()) > 1:  # what was accepted just now takes a few turns to be served
            await self._reset()
            await asyncio.sleep(0)
        for writer in list(self._ever):
            _abort(writer)  # one that was closed may still wait for its peer to read
        await asyncio.sleep(0)  # and now they end

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self._ever.add(writer)
        try:
            await self._forward(reader, writer)
        except* (OSError, asyncio.CancelledError):
            # The server that started this task would report a cancellation as an error, so it ends here.
            _abort(writer)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        far_reader, far_writer = await self._connect()
        self._writers.add(far_writer)
        self._ever.add(far_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far_writer))
                both.create_task(self._pump(far_reader, writer, thin=True))
        except BaseException:
            _abort(far_writer)
            raise
        finally:
            self._writers.discard(far_writer)
        far_writer.close()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        raw = socket.socket(family, socket.SOCK_STREAM)
        raw.setblocking(False)
        # A reset that comes while this connects is a reset for the target as well.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        try:
            await self._loop.sock_connect(raw, self._target)
            streams = await asyncio.open_connection(sock=raw)
        except BaseException:
            raw.close()
            raise
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NORMAL_CLOSE)
        return streams

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, thin: bool = False) -> None:
        while data := await source.read(65536):
            await asyncio.sleep(self._latency + (self._pause_per_byte * len(data) if thin else 0.0))
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()
        await self._flowing.wait()
        with suppress(OSError):
            sink.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of an orderly end."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    writer.transport.abort()
