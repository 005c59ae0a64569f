"""arq, without results."""

from __future__ import annotations

from typing import Any

from arq import Retry, create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.meter import PlannedError
from benchmarks.peers.driver import Peer, gathered, main

AT_ONCE = 100
POLL = 0.01  # the default is 0.5 s, for which quick tasks would wait


class Arq(Peer):
    """One form: a coroutine."""

    async def open(self) -> None:
        """Connect."""
        self.pool = await create_pool(RedisSettings.from_dsn(self.order.url), default_queue_name=self.order.queue)

    async def close(self) -> None:
        """Disconnect."""
        await self.pool.aclose()

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        await self.pool.enqueue_job("task", payload)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish a hundred at once."""
        await gathered(self, tasks)

    async def task(self, context: dict[str, Any], payload: dict[str, Any]) -> None:
        """Run one."""
        del context
        try:
            await self.meter.handle_async(payload)
        except PlannedError as exc:
            raise Retry from exc  # no other exception is retried

    def work(self) -> None:
        """Run the worker as its command line does."""
        at_once = self.order.at_once(AT_ONCE)
        Worker(
            [func(self.task, name="task", keep_result=0, max_tries=4)],
            queue_name=self.order.queue,
            redis_settings=RedisSettings.from_dsn(self.order.url),
            max_jobs=at_once,
            poll_delay=POLL,
        ).run()


if __name__ == "__main__":
    main(Arq)
