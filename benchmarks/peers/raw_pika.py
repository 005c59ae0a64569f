"""The limit for RabbitMQ: a bare loop on pika's SelectConnection that acknowledges and does nothing else."""

from __future__ import annotations

from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

from benchmarks.peers.driver import main
from benchmarks.peers.qbridge import QBridge

PREFETCH = 1000
ACK_EVERY = 100


class RawPika(QBridge):
    """Variants: "single" acknowledges each message, "multiple" each hundred. The messages are those of QBridge."""

    def work(self) -> None:
        """Consume until the process is ended."""
        connection = SelectConnection(
            pika.URLParameters(self.order.url), on_open_callback=lambda c: c.channel(on_open_callback=self._consume)
        )
        connection.ioloop.start()

    def _consume(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        handle, last, every = self.meter.handle, self.order.count, ACK_EVERY

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

        channel.basic_consume(self.order.queue, single if self.order.variant == "single" else multiple)


if __name__ == "__main__":
    main(RawPika)
