"""Taskiq with aio-pika on RabbitMQ and with streams on Redis."""

from __future__ import annotations

from typing import Any

import uvloop
from taskiq import AsyncBroker, SimpleRetryMiddleware
from taskiq.api import run_receiver_task
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue
from taskiq_redis import RedisStreamBroker

from benchmarks.order import Order
from benchmarks.peers.driver import Peer, gathered, main
from benchmarks.peers.purchase import Purchase, purchase

PREFETCH = 100


class Taskiq(Peer):
    """Variants: "sync" handlers, in threads, and "async" ones."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.broker = self._broker().with_middlewares(SimpleRetryMiddleware(default_retry_count=3))
        handle, handle_async = self.meter.handle, self.meter.handle_async

        def task(payload: dict[str, Any]) -> None:
            handle(payload)

        async def task_async(payload: dict[str, Any]) -> None:
            await handle_async(payload)

        def task_model(order: Purchase) -> None:
            handle(order)

        async def task_model_async(order: Purchase) -> None:
            await handle_async(order)

        forms = (task_model, task_model_async) if order.mode == "models" else (task, task_async)
        function = forms[order.variant == "async"]
        self.task = self.broker.register_task(function, task_name="task", retry_on_error=True)

    def _broker(self) -> AsyncBroker:
        order = self.order
        if order.url.startswith("amqp"):
            prefetch = order.at_once(PREFETCH)
            exchange = Exchange(name=order.queue)
            return AioPikaBroker(order.url, qos=prefetch, exchange=exchange).with_queue(Queue(name=order.queue))
        return RedisStreamBroker(order.url, queue_name=order.queue, consumer_id="0")

    async def open(self) -> None:
        """Connect."""
        await self.broker.startup()

    async def close(self) -> None:
        """Disconnect."""
        await self.broker.shutdown()

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        await self.task.kiq(purchase(payload) if self.order.mode == "models" else payload)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish a hundred at once."""
        await gathered(self, tasks)

    def work(self) -> None:
        """Run a receiver in this process, as each process of its command line does."""
        at_once = self.order.at_once(PREFETCH)
        uvloop.run(
            run_receiver_task(self.broker, sync_workers=self.order.threads, max_async_tasks=at_once, run_startup=True)
        )


if __name__ == "__main__":
    main(Taskiq)
