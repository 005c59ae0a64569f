"""The lease broker: ``python server.py PORT FILE PASSWORD`` answers requests, one JSON object a line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started in isolated mode
from support.leases.store import LostError, MissingQueueError, Store

LONGEST_LINE: Final = 2**22
_TICK: Final = 0.02
_POLL: Final = 0.005

Request = dict[str, Any]


class Broker:
    """Answers requests."""

    def __init__(self, store: Store, password: str) -> None:
        self._store = store
        self._password = password
        self._gone: set[str] = set()
        self._cancelled: set[tuple[str, int]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        known = False
        with suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                request = json.loads(line)
                if request["op"] == "hello":
                    known = request["password"] == self._password
                    answer: Request = {} if known else {"error": "denied"}
                elif not known:
                    answer = {"error": "denied"}
                else:
                    answer = await self._answer(request, reader)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader) -> Request:
        try:
            if request["op"] == "lend":
                return await self._lend(request, reader)
            return {"value": getattr(self, f"_do_{request['op']}")(**request["arguments"])}
        except MissingQueueError:
            return {"error": "missing"}
        except LostError:
            return {"error": "lost"}

    async def _lend(self, request: Request, reader: asyncio.StreamReader) -> Request:
        arguments = request["arguments"]
        owner, ask = arguments["owner"], arguments["ask"]
        until = time.monotonic() + request["wait"]
        while owner not in self._gone and (owner, ask) not in self._cancelled and not reader.at_eof():
            if lent := self._store.lend(**arguments):
                return {"value": lent}
            if time.monotonic() >= until:
                break
            await asyncio.sleep(_POLL)
        return {"value": []}

    def _do_cancel(self, owner: str, asks: list[int]) -> None:
        for ask in asks:
            self._cancelled.add((owner, ask))
            self._store.give_back(owner, ask)

    def _do_leave(self, owner: str) -> None:
        self._gone.add(owner)
        self._store.give_back(owner)

    def _do_declare(self, names: list[str]) -> None:
        self._store.declare(names)

    def _do_publish(self, **arguments: Any) -> None:
        self._store.publish(**arguments)

    def _do_renew(self, tokens: list[str]) -> None:
        self._store.renew(tokens)

    def _do_remove(self, tokens: list[str]) -> None:
        self._store.remove(tokens)

    def _do_move(self, **arguments: Any) -> None:
        self._store.move(**arguments)

    def _do_peek(self, **arguments: Any) -> list[Request]:
        return self._store.peek(**arguments)

    def _do_purge(self, queue: str) -> int:
        return self._store.purge(queue)

    def _do_stats(self, queue: str) -> list[int]:
        return self._store.stats(queue)


async def end_leases(store: Store) -> None:
    """Look for leases that end; a broker that was stopped for a while has heard no renewal either."""
    seen = time.monotonic()
    while True:
        await asyncio.sleep(_TICK)
        now = time.monotonic()
        stalled = now - seen - _TICK
        seen = now
        store.end_leases(stalled if stalled > 5 * _TICK else 0.0)


async def main(port: int, path: Path, password: str) -> None:
    """Serve until killed."""
    store = Store(path)
    server = await asyncio.start_server(Broker(store, password).serve, "127.0.0.1", port, limit=LONGEST_LINE)
    async with server:
        await end_leases(store)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
