"""What the programs of all contestants have in common: roles, payloads, clocks.

A worker imports no event loop for it: the memory counts as the worker's.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.meter import Meter, clock, payloads
from benchmarks.order import Order

TICK = 0.010


class Peer:
    """A contestant. Publishing is written as coroutines for all, which costs a blocking client nearly nothing.

    Attributes:
        blocking: whether ``send`` blocks its thread, so that many at once take threads.
    """

    blocking = False

    def __init__(self, order: Order) -> None:
        self.order = order
        self.meter = Meter(order)
        if order.mode == "processes":
            from benchmarks.tally import Tally

            self.meter.handle = Tally(order.tally)

    async def open(self) -> None:
        """Connect for publishing, and create the queue."""

    async def close(self) -> None:
        """End what `open` began."""

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one task; return when the broker has confirmed it."""
        raise NotImplementedError

    async def send_many(self, tasks: list[dict[str, Any]]) -> None:
        """Publish tasks in the quickest way that confirms them."""
        for payload in tasks:
            await self.send(payload)

    async def send_at_once(self, tasks: list[dict[str, Any]]) -> None:
        """Publish one by one from as many threads or coroutines as wanted, which share the client."""
        import asyncio
        import concurrent.futures

        senders = self.order.senders
        shares = [tasks[number::senders] for number in range(senders)]
        if not self.blocking:
            await asyncio.gather(*(_send_each(self, share) for share in shares))
            return
        with concurrent.futures.ThreadPoolExecutor(senders) as pool:
            list(pool.map(lambda share: _drive(_send_each(self, share)), shares))

    def work(self) -> None:
        """Run a worker until a signal ends it."""
        raise NotImplementedError

    def work_after_filling(self) -> None:
        """Fill the queue and run a worker in this process, for a broker that is in it."""
        raise NotImplementedError


async def gathered(peer: Peer, tasks: list[dict[str, Any]], at_once: int = 100) -> None:
    """Publish with many coroutines at once, so that the confirmations overlap."""
    import asyncio

    for start in range(0, len(tasks), at_once):
        await asyncio.gather(*(peer.send(payload) for payload in tasks[start : start + at_once]))


async def _send_each(peer: Peer, tasks: list[dict[str, Any]]) -> None:
    for payload in tasks:
        await peer.send(payload)


def _drive(call: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise RuntimeError("the client does not block: it belongs on an event loop")


async def _publish(peer: Peer) -> None:
    """Publish a hundred to warm up, then the rest against the clock."""
    order = peer.order
    tasks = payloads(order.but(count=order.count + 100))
    await peer.open()
    await peer.send_many(tasks[:100])
    cpu, first = time.process_time(), clock()
    if order.many or order.role == "fill":
        await peer.send_many(tasks[100:])
    elif order.senders > 1:
        await peer.send_at_once(tasks[100:])
    else:
        await _send_each(peer, tasks[100:])
    last = clock()
    order.write_report({"count": order.count, "first": first, "last": last, "cpu": time.process_time() - cpu})
    await peer.close()


async def _fill(peer: Peer) -> None:
    await peer.open()
    if peer.order.count:
        await peer.send_many(payloads(peer.order))
    peer.order.write_report({})
    await peer.close()


async def _tick(peer: Peer) -> None:
    """Publish one message each 10 ms, with the time in it."""
    import asyncio

    await peer.open()
    due = clock()
    for n in range(peer.order.count):
        due += TICK
        await asyncio.sleep(max(0.0, due - clock()))
        await peer.send({"n": n, "at": clock()})
    peer.order.write_report({})
    await peer.close()


def _run(role: Coroutine[Any, Any, None]) -> None:
    """On the event loop that the asynchronous peers advise, where it is installed."""
    try:
        runner = importlib.import_module("uvloop")
    except ImportError:
        runner = importlib.import_module("asyncio")
    runner.run(role)


def main(make: Callable[[Order], Peer]) -> None:
    """Do what the command line says."""
    order = Order.read(sys.argv[1])
    peer = make(order)
    if order.role == "work":
        peer.work()
    elif order.role == "both":
        peer.work_after_filling()
    else:
        _run({"fill": _fill, "publish": _publish, "tick": _tick}[order.role](peer))
    peer.meter.close()
