"""The limit for coroutines that wait: asyncio alone, a task for each payload, no broker and no client."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.meter import payloads
from benchmarks.peers.driver import Peer, main


class RawAsyncio(Peer):
    """One form: as many coroutines at once as wanted."""

    def work_after_filling(self) -> None:
        """Run everything, and wait to be ended."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        free = asyncio.Semaphore(self.order.threads)
        tasks: set[asyncio.Task[None]] = set()

        async def task(payload: dict[str, Any]) -> None:
            await self.meter.handle_async(payload)
            free.release()

        for payload in payloads(self.order):
            await free.acquire()
            running = asyncio.create_task(task(payload))
            tasks.add(running)
            running.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    main(RawAsyncio)
