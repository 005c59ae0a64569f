"""QBridge's app with its defaults, and a task whose only parameter is a pydantic model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.meter import payloads
from benchmarks.order import Order
from benchmarks.peers.driver import Peer, main
from benchmarks.peers.purchase import Purchase, purchase
from qbridge_core import App


class QBridgeApp(Peer):
    """Variants: "sync" and "async" functions."""

    blocking = True

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.app = App()
        self.app.queue(order.queue, max_workers=order.threads if order.variant == "sync" else None)
        handle: Callable[[Any], None] = self.meter.handle
        handle_async: Callable[[Any], Awaitable[None]] = self.meter.handle_async

        def task(order: Purchase) -> None:
            handle(order)

        async def task_async(order: Purchase) -> None:
            await handle_async(order)

        decorate = self.app.task(name="task", queue=order.queue)
        self.task = decorate(task_async) if order.variant == "async" else decorate(task)

    async def open(self) -> None:
        """Connect."""
        self.app.connect(self.order.url)

    async def close(self) -> None:
        """Disconnect."""
        self.app.close()

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        self.task.send(purchase(payload))

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish in one call for each batch."""
        for start in range(0, len(tasks), self.order.batch):
            self.app.send_many(self.task.message(purchase(each)) for each in tasks[start : start + self.order.batch])

    def work(self) -> None:
        """Run until SIGTERM."""
        with self.app.open(self.order.url):
            self.app.run_worker()

    def work_after_filling(self) -> None:
        """Fill the queue and work in this process, for ``memory://``."""
        with self.app.open(self.order.url):
            self.app.send_many(self.task.message(purchase(payload)) for payload in payloads(self.order))
            self.app.run_worker()


if __name__ == "__main__":
    main(QBridgeApp)
