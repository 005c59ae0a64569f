"""The limits for RabbitMQ.

Consuming: a bare loop on pika's SelectConnection that acknowledges and does nothing else. Publishing one by one:
pika's BlockingConnection, which waits for each confirmation. Sixteen at once: one thread with a SelectConnection, which
publishes the next message for each that is confirmed.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

from benchmarks.peers.driver import main
from benchmarks.peers.qbridge import QBridge

PREFETCH = 1000
ACK_EVERY = 100


class RawPika(QBridge):
    """Variants: "multiple" acknowledges each hundred messages, all others each. The messages are those of QBridge."""

    async def open(self) -> None:
        """QBridge declares the queue."""
        await super().open()
        self._publishing = pika.BlockingConnection(pika.URLParameters(self.order.url)).channel()
        self._publishing.confirm_delivery()

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one persistent message."""
        self._publish(self._publishing, payload)

    def _publish(self, channel: Any, payload: dict[str, Any]) -> None:
        body = json.dumps({"payload": payload})
        channel.basic_publish("", self.order.queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)

    async def send_at_once(self, tasks: list[dict[str, Any]]) -> None:
        """Keep so many unconfirmed."""
        if not tasks:
            return
        left, confirmed = iter(tasks), 0

        def begin(channel: Any) -> None:
            channel.confirm_delivery(lambda frame: confirm(channel, frame.method))
            for payload in itertools.islice(left, self.order.senders):
                self._publish(channel, payload)

        def confirm(channel: Any, method: Any) -> None:
            nonlocal confirmed
            if method.NAME != "Basic.Ack":
                raise RuntimeError(f"the broker has refused a message: {method}")
            # A broker confirms in order here: there is one queue.
            more, confirmed = method.delivery_tag - confirmed, method.delivery_tag
            for payload in itertools.islice(left, more):
                self._publish(channel, payload)
            if confirmed == len(tasks):
                connection.ioloop.stop()

        connection = SelectConnection(
            pika.URLParameters(self.order.url), on_open_callback=lambda c: c.channel(on_open_callback=begin)
        )
        connection.ioloop.start()

    async def close(self) -> None:
        """Disconnect both."""
        self._publishing.connection.close()
        await super().close()

    def work(self) -> None:
        """Consume until the process is ended."""
        connection = SelectConnection(
            pika.URLParameters(self.order.url), on_open_callback=lambda c: c.channel(on_open_callback=self._consume)
        )
        connection.ioloop.start()

    def _consume(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        handle, last, every = self._handler(), self.order.count, ACK_EVERY

        def single(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            del properties
            handle(body)
            channel.basic_ack(method.delivery_tag)

        def multiple(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            del properties
            handle(body)
            tag = method.delivery_tag
            if tag % every == 0 or tag == last:
                channel.basic_ack(tag, multiple=True)

        channel.basic_consume(self.order.queue, multiple if self.order.variant == "multiple" else single)

    def _handler(self) -> Any:
        """What to call with a body, which is read where it counts."""
        handle = self.meter.handle
        if self.order.mode == "models":
            from benchmarks.peers.purchase import read

            return lambda body: handle(read(body))
        reads = self.order.mode in ("latency", "bodies")
        return (lambda body: handle(json.loads(body)["payload"])) if reads else handle


if __name__ == "__main__":
    main(RawPika)
