"""The limits for Redis Streams, with redis-py.

Consuming: a bare loop, XREADGROUP and then XACK and XDEL in one pipeline. Publishing one by one: XADD. Sixteen at once:
one thread with a pipeline of sixteen.
"""

from __future__ import annotations

import json
from typing import Any

import redis

from benchmarks.peers.driver import main
from benchmarks.peers.qbridge import QBridge

GROUP = "raw"


class RawRedis(QBridge):
    """The variant is the COUNT of a read. The messages are those of QBridge."""

    async def open(self) -> None:
        """QBridge declares the queue."""
        await super().open()
        self._publishing = redis.Redis.from_url(self.order.url)

    async def send(self, payload: dict[str, Any]) -> None:
        """Add one entry."""
        self._publishing.xadd(self.order.queue, {"body": json.dumps({"payload": payload})})

    async def send_at_once(self, tasks: list[dict[str, Any]]) -> None:
        """Have so many under way."""
        for start in range(0, len(tasks), self.order.senders):
            pipeline = self._publishing.pipeline(transaction=False)
            for payload in tasks[start : start + self.order.senders]:
                pipeline.xadd(self.order.queue, {"body": json.dumps({"payload": payload})})
            pipeline.execute()

    def work(self) -> None:
        """Consume until the process is ended."""
        client = redis.Redis.from_url(self.order.url)
        stream, count, handle = self.order.queue, int(self.order.variant), self._handler()
        client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        while True:
            for _, entries in client.xreadgroup(GROUP, "one", {stream: ">"}, count=count, block=1000):
                for _, fields in entries:
                    handle(fields)
                ids = [entry_id for entry_id, _ in entries]
                client.pipeline(transaction=False).xack(stream, GROUP, *ids).xdel(stream, *ids).execute()

    def _handler(self) -> Any:
        """What to call with the fields of an entry, whose body is read where it counts."""
        handle = self.meter.handle
        if self.order.mode == "models":
            from benchmarks.peers.purchase import read

            return lambda fields: handle(read(fields[b"body"]))
        reads = self.order.mode == "bodies"
        return (lambda fields: handle(json.loads(fields[b"body"])["payload"])) if reads else handle


if __name__ == "__main__":
    main(RawRedis)
