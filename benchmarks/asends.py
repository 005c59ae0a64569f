"""What coroutines send, one by one and at once: PYTHONPATH=. python -m benchmarks.asends URL [ROUNDS [MESSAGES]].

The rounds go through all ways in turn. Other programs disturb processor time less than they disturb the clock on the
wall, so both are told, in medians for each message. The limit is what the bare client of the broker does with the same
messages, none of which it makes or looks at: redis-py's asyncio client with pipelines of 200 XADD, pika's
AsyncioConnection with all of them published at once and their confirmations counted.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, Final, NamedTuple

from qbridge_core import AsyncQueueClient, aconnect

_BODY: Final = b'{"payload":{"to":"ann@example.org"},"task_id":"5f0c","retry":0}'
_PAYLOAD: Final = {"to": "ann@example.org"}
_ONE_BY_ONE: Final = 200
_PIPELINE: Final = 200

Way = Callable[[str, int], Awaitable[None]]


class Cost(NamedTuple):
    """Of one message, in microseconds: on the wall, and of the processor of this process."""

    wall: float
    processor: float


def ways(client: AsyncQueueClient, bare: Way) -> dict[str, tuple[Way, int]]:
    """How messages are sent, and how many at least; none means all."""

    async def one_by_one(queue: str, count: int) -> None:
        for _ in range(count):
            await client.send(queue, _PAYLOAD)

    async def at_once(queue: str, count: int) -> None:
        await asyncio.gather(*[client.send(queue, _PAYLOAD) for _ in range(count)])

    async def send_many(queue: str, count: int) -> None:
        await client.send_many(queue, [_PAYLOAD] * count)

    return {
        "one after the other": (one_by_one, _ONE_BY_ONE),
        "at once": (at_once, 0),
        "send_many": (send_many, 0),
        "bare client, at once": (bare, 0),
    }


async def bare_redis(url: str) -> Way:
    """Pipelines of XADD."""
    from redis import asyncio as redis

    client = redis.from_url(url)

    async def publish(queue: str, count: int) -> None:
        for start in range(0, count, _PIPELINE):
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(start, min(start + _PIPELINE, count)):
                    pipeline.xadd(queue, {"body": _BODY}, nomkstream=True)
                await pipeline.execute()

    return publish


async def bare_pika(url: str) -> Way:
    """Confirmed publishing."""
    import pika
    from pika.adapters.asyncio_connection import AsyncioConnection

    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    under_way = {"confirmed": 0, "wanted": 0}
    finished = asyncio.Event()

    def confirmed(frame: Any) -> None:
        method = frame.method
        under_way["confirmed"] = max(under_way["confirmed"], method.delivery_tag)
        if under_way["confirmed"] >= under_way["wanted"]:
            finished.set()

    def channel_opened(channel: Any) -> None:
        channel.confirm_delivery(confirmed, callback=lambda _: opened.set_result(channel))

    AsyncioConnection(pika.URLParameters(url), on_open_callback=lambda c: c.channel(on_open_callback=channel_opened))
    channel = await opened

    async def publish(queue: str, count: int) -> None:
        finished.clear()
        under_way["wanted"] += count
        for _ in range(count):
            channel.basic_publish("", queue, _BODY, pika.BasicProperties(delivery_mode=2), mandatory=True)
        await finished.wait()

    return publish


async def measure(way: Way, queue: str, count: int) -> Cost:
    """Send so many messages."""
    began = time.perf_counter(), time.process_time()
    await way(queue, count)
    ended = time.perf_counter(), time.process_time()
    wall, processor = ((end - begin) / count * 1e6 for begin, end in zip(began, ended, strict=True))
    return Cost(wall, processor)


async def main(url: str, rounds: int = 20, messages: int = 1000) -> None:
    """Measure, and print a line for each way."""
    queue = f"bench-asends-{os.getpid()}"
    async with aconnect(url) as client:
        await client.declare(queue, f"{queue}.dead")
        chosen = ways(client, await (bare_pika if url.startswith("amqp") else bare_redis)(url))
        found: dict[str, list[Cost]] = {name: [] for name in chosen}
        for number in range(rounds + 1):
            for name, (way, fewer) in chosen.items():
                cost = await measure(way, queue, fewer or messages)
                if number:  # the first round warms up
                    found[name].append(cost)
            await asyncio.to_thread(client.queue_client.purge, queue)
    first = median(cost.wall for cost in found["one after the other"])
    for name, costs in found.items():
        wall, processor = median(each.wall for each in costs), median(each.processor for each in costs)
        print(f"{name:22} {wall:8.0f} us, {processor:6.0f} us of the processor, {first / wall:5.1f} times as quick")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
