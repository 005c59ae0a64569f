"""Huey on Redis, without results. It takes a message off its list before it runs it: at most once."""

from __future__ import annotations

import logging
from typing import Any

from huey import RedisHuey

from benchmarks.order import Order
from benchmarks.peers.driver import Peer, main


class Huey(Peer):
    """One form: threads."""

    blocking = True

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        logging.getLogger("huey").setLevel(logging.WARNING)
        self.huey = RedisHuey(order.queue, url=order.url, results=False)
        handle = self.meter.handle
        self.task = self.huey.task(name="task", retries=3)(lambda payload: handle(payload))  # noqa: PLW0108 - needs a name

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        self.task(payload)

    def work(self) -> None:
        """Run the consumer as its command line does."""
        self.huey.create_consumer(workers=self.order.threads, worker_type="thread", periodic=False).run()


if __name__ == "__main__":
    main(Huey)
