"""SAQ on Redis, without results."""

from __future__ import annotations

from typing import Any

import uvloop
from saq import Queue, Worker

from benchmarks.order import Order
from benchmarks.peers.driver import Peer, gathered, main

AT_ONCE = 100


class Saq(Peer):
    """One form: a coroutine."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.queue = Queue.from_url(order.url, name=order.queue)

    async def open(self) -> None:
        """Connect."""
        await self.queue.connect()

    async def close(self) -> None:
        """Disconnect."""
        await self.queue.disconnect()

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        await self.queue.enqueue("task", payload=payload, retries=4, ttl=-1)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish a hundred at once."""
        await gathered(self, tasks)

    def work(self) -> None:
        """Run the worker as its command line does."""
        uvloop.run(self._work())

    async def _work(self) -> None:
        handle = self.meter.handle_async

        async def task(context: dict[str, Any], *, payload: dict[str, Any]) -> None:
            del context
            await handle(payload)

        at_once = self.order.at_once(AT_ONCE)
        await Worker(self.queue, functions=[("task", task)], concurrency=at_once).start()


if __name__ == "__main__":
    main(Saq)
