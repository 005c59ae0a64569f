"""streaQ, without results."""

from __future__ import annotations

from typing import Any

from streaq import StreaqRetry, Worker

from benchmarks.meter import PlannedError
from benchmarks.order import Order
from benchmarks.peers.driver import Peer, main

AT_ONCE = 100


class Streaq(Peer):
    """One form: a coroutine."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        at_once = order.at_once(AT_ONCE)
        uvloop = {"use_uvloop": True}
        self.worker: Any = Worker(
            order.url, concurrency=at_once, prefetch=at_once, queue_name=order.queue, anyio_kwargs=uvloop
        )
        handle = self.meter.handle_async

        async def task(payload: dict[str, Any]) -> None:
            try:
                await handle(payload)
            except PlannedError as exc:
                raise StreaqRetry("again", delay=0) from exc  # no other exception is retried

        self.task = self.worker.task(task, name="task", max_tries=4, silent=True, ttl=0)

    async def open(self) -> None:
        """Connect."""
        await self.worker.__aenter__()

    async def close(self) -> None:
        """Disconnect."""
        await self.worker.__aexit__(None, None, None)

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        await self.task.enqueue(payload)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish in pipelines of a hundred."""
        for start in range(0, len(tasks), 100):
            await self.worker.enqueue_many([self.task.enqueue(payload) for payload in tasks[start : start + 100]])

    def work(self) -> None:
        """Run the worker."""
        self.worker.run_sync()


if __name__ == "__main__":
    main(Streaq)
