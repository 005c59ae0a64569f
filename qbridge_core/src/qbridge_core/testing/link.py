"""A way to the broker that a test can break: a TCP proxy on a port of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_CHUNK: Final = 2**16


class Link:
    """Forwards connections to a broker until told otherwise. Every method may be called from any thread.

    Args:
        host: where the broker is.
        port: its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._is_cut = False
        self._budget: int | None = None
        self._cuts = True
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self.sent = 0
        """Bytes that clients have sent to the broker."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qbridge-testing-link", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def through(self, url: str) -> str:
        """The URL with this link in the place of its host and port."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    def freeze(self) -> None:
        """The broker is silent: connections stay open and are accepted, and nothing arrives any more, nor an end."""
        self._do(self._freeze())

    def cut(self) -> None:
        """The broker is gone: connections end with a reset, new ones too."""
        self._do(self._cut())

    def drop(self) -> None:
        """The connections that are open now end with a reset; new ones work."""
        self._do(self._drop())

    def cut_after(self, count: int) -> None:
        """Let ``count`` more bytes through to the broker, and then be cut: what a client sees of it is its own death.

        The broker gets those bytes and an orderly end, as from a process that was killed.
        """
        self._budget, self._cuts = count, True

    def drop_after(self, count: int) -> None:
        """The same, but new connections work: a client can go on as if nothing had happened."""
        self._budget, self._cuts = count, False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._tasks)

    def restore(self) -> None:
        """Forward again; what a frozen link held arrives now."""
        self._do(self._restore())

    def close(self) -> None:
        """End everything."""
        if self._loop.is_closed():
            return
        self._do(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _freeze(self) -> None:
        self._flowing.clear()

    async def _cut(self) -> None:
        self._is_cut = True
        self._flowing.set()
        await self._drop()

    async def _drop(self) -> None:
        for end in list(self._ends):
            _reset(end)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _restore(self) -> None:
        self._is_cut, self._budget = False, None
        self._flowing.set()

    async def _shut_down(self) -> None:
        self._server.close()
        await self._cut()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._ends.add(writer)
        try:
            await self._forward(reader, writer)
        except* (OSError, asyncio.CancelledError):
            pass  # one side has ended, or the test has ended both
        finally:
            _reset(writer)
            self._ends.discard(writer)
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self._is_cut:
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._ends.add(far_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, far_writer))
                both.create_task(self._return(far_reader, writer))
        finally:
            self._ends.discard(far_writer)
            far_writer.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._flowing.wait()
            rest = self._budget
            if rest is not None:
                data, self._budget = data[:rest], max(0, rest - len(data))
            self.sent += len(data)
            sink.write(data)
            if self._budget == 0:
                self._is_cut = self._cuts
                self._budget = 0 if self._cuts else None
                await self._end_orderly(sink)
                return
            await sink.drain()
        await self._flowing.wait()
        with suppress(OSError):
            sink.write_eof()

    async def _end_orderly(self, sink: asyncio.StreamWriter) -> None:
        """The broker reads what was sent; then all connections of the client end."""
        with suppress(OSError):
            await sink.drain()
            sink.write_eof()
        me = asyncio.current_task()
        self._ends.discard(sink)
        for end in list(self._ends):
            end.close()
        for task in list(self._tasks):
            if task is not me:
                task.cancel()

    async def _return(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._flowing.wait()
            if self._is_cut:
                return
            sink.write(data)
            await sink.drain()
        await self._flowing.wait()
        with suppress(OSError):
            sink.write_eof()


def _reset(end: asyncio.StreamWriter) -> None:
    raw = end.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.transport.abort()
