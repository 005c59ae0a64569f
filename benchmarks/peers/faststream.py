"""FastStream: persistent messages and acknowledgement after the handler."""

from __future__ import annotations

from typing import Any

import uvloop
from faststream import AckPolicy, FastStream

from benchmarks.order import Order
from benchmarks.peers.driver import Peer, gathered, main
from benchmarks.peers.purchase import Purchase, purchase

PREFETCH = 100


class Broker(Peer):
    """One form: a coroutine."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        handle = self.meter.handle_async
        self.at_once = order.at_once(PREFETCH)
        self.broker, subscriber = self._parts()

        async def task(payload: dict[str, Any]) -> None:
            await handle(payload)

        async def task_model(order: Purchase) -> None:
            await handle(order)

        self.models = order.mode == "models"
        subscriber(task_model if self.models else task)

    def _message(self, payload: dict[str, Any]) -> Any:
        return purchase(payload) if self.models else payload

    def _parts(self) -> tuple[Any, Any]:
        raise NotImplementedError

    async def open(self) -> None:
        """Connect."""
        self.client = await self.broker.connect()

    async def close(self) -> None:
        """Disconnect."""
        await self.broker.stop()

    def work(self) -> None:
        """Run the application."""
        uvloop.run(FastStream(self.broker, logger=None).run())


class Rabbit(Broker):
    """On RabbitMQ a failed message is requeued."""

    def _parts(self) -> tuple[Any, Any]:
        from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

        broker = RabbitBroker(self.order.url, default_channel=Channel(prefetch_count=self.at_once), logger=None)
        self.queue = RabbitQueue(self.order.queue, durable=True)
        return broker, broker.subscriber(self.queue, ack_policy=AckPolicy.NACK_ON_ERROR)

    async def open(self) -> None:
        """Connect and declare."""
        await super().open()
        await self.broker.declare_queue(self.queue)

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        await self.broker.publish(self._message(payload), self.queue, persist=True)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish a hundred at once."""
        await gathered(self, tasks)


class Redis(Broker):
    """A consumer group on a stream; a failed message stays pending, so this takes no part in the mixed load."""

    def _parts(self) -> tuple[Any, Any]:
        from faststream.redis import RedisBroker, StreamSub

        broker = RedisBroker(self.order.url, logger=None)
        stream = StreamSub(self.order.queue, group="bench", consumer="one", last_id="0", max_records=self.at_once)
        return broker, broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR)

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        await self.broker.publish(self._message(payload), stream=self.order.queue)

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish in pipelines of a hundred."""
        for start in range(0, len(tasks), 100):
            async with self.client.pipeline(transaction=False) as pipeline:
                for payload in tasks[start : start + 100]:
                    await self.broker.publish(self._message(payload), stream=self.order.queue, pipeline=pipeline)
                await pipeline.execute()


def on_broker(order: Order) -> Broker:
    """The form for the URL."""
    return Rabbit(order) if order.url.startswith("amqp") else Redis(order)


if __name__ == "__main__":
    main(on_broker)
