"""QBridge with its defaults: timeouts armed, retries on, publishing confirmed."""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.meter import payloads
from benchmarks.peers.driver import Peer, main
from qbridge_core import QueueClient, TaskManager, connect


class QBridge(Peer):
    """Variants: "sync" and "async" handlers, "process" for one in child processes; or options for the URL."""

    blocking = True

    def _connect(self) -> QueueClient:
        variant = self.order.variant
        return connect(f"{self.order.url}?{variant}" if "=" in variant else self.order.url)

    async def open(self) -> None:
        """Connect and declare."""
        self.client = self._connect()
        self.client.declare(self.order.queue, f"{self.order.queue}.dead")

    async def close(self) -> None:
        """Disconnect."""
        self.client.disconnect()

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        self.client.send(self.order.queue, payload)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish in one call for each batch."""
        batch = self.order.batch
        if self.order.mode == "models":  # for the bare clients, which make models of them
            from benchmarks.peers.purchase import purchase

            tasks = [purchase(payload).model_dump(mode="json") for payload in tasks]
        for start in range(0, len(tasks), batch):
            self.client.send_many(self.order.queue, tasks[start : start + batch])

    def work(self) -> None:
        """Run until SIGTERM."""
        with self._connect() as client:
            self._manager(client).start()

    def work_after_filling(self) -> None:
        """Fill the queue and work in this process, for ``memory://``."""
        with self._connect() as client:
            client.declare(self.order.queue, f"{self.order.queue}.dead")
            client.send_many(self.order.queue, payloads(self.order))
            self._manager(client).start()

    def _manager(self, client: QueueClient) -> TaskManager:
        handler = self.meter.handle_async if self.order.variant == "async" else self.meter.handle
        queue, workers = self.order.queue, self.order.threads
        executor: Literal["thread", "process"] = "process" if self.order.variant == "process" else "thread"
        return TaskManager(client, handler, queue, f"{queue}.dead", max_workers=workers, executor=executor)


if __name__ == "__main__":
    main(QBridge)
