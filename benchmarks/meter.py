"""The handlers of the worker processes, and what they count; standard library only, every peer imports it.

It imports little, since its memory counts as the worker's.
The clock is CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.order import Order

clock = time.monotonic
MIXED_SECONDS = 0.020
MIXED_FAILURES = 0.1
WAIT = 1.0
LOOKS = 20


class PlannedError(Exception):
    """Raised by a task of the mixed load in its first run."""


def payloads(order: Order) -> list[dict[str, Any]]:
    """The payloads of a queue; the same ones each time."""
    if order.mode == "mixed":
        import random

        chance = random.Random(1)
        return [
            {"n": n, "seconds": chance.random() * MIXED_SECONDS, "fails": chance.random() < MIXED_FAILURES}
            for n in range(order.count)
        ]
    if order.mode == "latency":
        return [{"n": n, "at": 0.0} for n in range(order.count)]
    pad = {"pad": "x" * order.body} if order.body else {}
    return [{"n": n} | pad for n in range(order.count)]


def mixed_ideal(order: Order) -> float:
    """Seconds of work in a mixed load, divided among the threads."""
    work: float = sum(payload["seconds"] * (2 if payload["fails"] else 1) for payload in payloads(order))
    return work / order.threads


def waiting_ideal(order: Order) -> float:
    """Seconds that tasks which only wait take when each place is taken again at once."""
    return order.count * WAIT / order.threads


def resident_bytes() -> int:
    """Memory that this process holds now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Counts tasks, as cheaply as it can, and writes the report when the last one has run."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._count = order.count
        # next() on it is one step that no other thread can interrupt.
        self._tickets = itertools.count(1)
        self._report: dict[str, float] = {}
        self._delays: list[float] = []
        self._failed: set[int] = set()
        self._gate = threading.Lock()
        self._open = False
        self._waiting, self._look_every = 0, max(1, order.threads // LOOKS)
        modes = {"latency": self._latency, "mixed": self._mixed, "shared": self._shared}
        self.handle = modes.get(order.mode, self._noop)
        self.handle_async = {
            "latency": self._latency_async,
            "mixed": self._mixed_async,
            "waiting": self._waiting_async,
        }.get(order.mode, self._noop_async)

    def _noop(self, payload: object = None) -> None:
        del payload
        number = next(self._tickets)
        if number == 1:
            self._begin()
        if number == self._count:
            self._end()

    def _shared(self, payload: object) -> None:
        """One of several workers: nobody begins before the others are there."""
        del payload
        if not self._open:
            self._wait_for_the_others()
        self._last = next(self._tickets), clock()

    def _wait_for_the_others(self) -> None:
        with self._gate:
            if not self._open:
                Path(self._order.first_mark).touch()
                while not os.path.exists(self._order.go_mark):
                    time.sleep(0.001)
                self._started()
                self._open = True

    async def _noop_async(self, payload: object = None) -> None:
        self._noop(payload)

    def _latency(self, payload: dict[str, Any]) -> None:
        self._delays.append(clock() - payload["at"])
        self._noop()

    async def _latency_async(self, payload: dict[str, Any]) -> None:
        self._latency(payload)

    def _mixed(self, payload: dict[str, Any]) -> None:
        self._started()
        time.sleep(payload["seconds"])
        self._fail_once(payload)
        self._noop()

    async def _mixed_async(self, payload: dict[str, Any]) -> None:
        import asyncio

        self._started()
        await asyncio.sleep(payload["seconds"])
        self._fail_once(payload)
        self._noop()

    async def _waiting_async(self, payload: object) -> None:
        import asyncio

        del payload
        if not self._report:
            self._begin()
        self._waiting += 1
        if self._waiting % self._look_every == 0 or "at_once" not in self._report:
            self._look()
        await asyncio.sleep(WAIT)
        self._waiting -= 1
        if next(self._tickets) == self._count:
            self._end()

    def _look(self) -> None:
        """Keep the most that was seen at once, of tasks, memory and threads."""
        threads = len(os.listdir("/proc/self/task"))
        seen = {"at_once": self._waiting, "most_rss": resident_bytes(), "threads": threads}
        self._report |= {name: max(value, self._report.get(name, 0)) for name, value in seen.items()}

    def _started(self) -> None:
        self._report.setdefault("first", clock())

    def _fail_once(self, payload: dict[str, Any]) -> None:
        if payload["fails"] and payload["n"] not in self._failed:
            self._failed.add(payload["n"])
            raise PlannedError("as planned")

    def _begin(self) -> None:
        self._started()
        self._report |= {"first_rss": resident_bytes(), "first_cpu": time.process_time()}
        if self._order.mode == "latency":
            Path(self._order.first_mark).touch()

    def _end(self) -> None:
        self._report["last"] = clock()
        while "first_cpu" not in self._report:  # the thread that began has not got to it yet
            time.sleep(0.0001)
        self._report |= {"last_rss": resident_bytes(), "last_cpu": time.process_time(), "count": self._count}
        if len(self._delays) > 2:
            delays = sorted(self._delays[1:])  # the first one waited for the worker
            self._report |= {f"p{part}": delays[len(delays) * part // 100] for part in (50, 99)}
        self._order.write_report(self._report)

    def close(self) -> None:
        """Report what one of several worker processes has done."""
        if self._open:
            self._report["count"], self._report["last"] = self._last
            self._order.write_report(self._report)
