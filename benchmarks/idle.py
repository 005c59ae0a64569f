"""What a process of many managers costs while nothing comes, and how quickly a message then reaches its handler.

    PYTHONPATH=. python -m benchmarks.idle redis://127.0.0.1:6379/0 --managers 1000 --server-pid "$(pidof redis-server)"

It declares queues named ``idle-0`` and so on, which stay.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue as queues
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from qbridge_core import QueueClient, TaskManager, connect

arrived: queues.SimpleQueue[float] = queues.SimpleQueue()


def note(payload: object) -> None:
    """Say that a task was begun."""
    del payload
    arrived.put(time.monotonic())


async def note_on_loop(payload: object) -> None:
    """The same as a coroutine."""
    note(payload)


def main() -> None:
    """Start the managers, wait until they rest, and measure."""
    given = _arguments()
    client, sender = connect(given.url), connect(given.url)
    names = [f"idle-{number}" for number in range(given.managers)]
    with client, sender, contextlib.ExitStack() as stack:
        for name in names:
            handler = note_on_loop if given.coroutines else note
            stack.enter_context(TaskManager(client, handler, name, f"{name}.dead", max_workers=given.workers))
        time.sleep(given.settle)
        before = _costs(given.server_pid)
        time.sleep(given.seconds)
        mine, server = (100 * (b - a) / given.seconds for a, b in zip(before, _costs(given.server_pid), strict=True))
        print(f"client {mine:.2f} %, server {server:.2f} % of a core, {threading.active_count()} threads, "
              f"{_sockets()} sockets")  # fmt: skip
        delays = [1000 * _delay(sender, name) for name in names[: given.messages]]
        print(f"idle latency: p50 {statistics.median(delays):.2f} ms, longest {max(delays):.2f} ms")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--managers", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1, help="max_workers of each")
    parser.add_argument("--coroutines", action="store_true", help="run an async def handler")
    parser.add_argument("--settle", type=float, default=90.0, help="seconds before the measurement")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the measurement")
    parser.add_argument("--messages", type=int, default=100, help="how many are sent one by one afterwards")
    parser.add_argument("--server-pid", type=int)
    return parser.parse_args()


def _costs(server: int | None) -> Sequence[float]:
    return time.process_time(), 0.0 if server is None else _processor_time(server)


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sockets() -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += descriptor.readlink().name.startswith("socket:")
    return count


def _delay(sender: QueueClient, queue: str) -> float:
    sent_at = time.monotonic()
    sender.send(queue, None)
    return arrived.get(timeout=60.0) - sent_at


if __name__ == "__main__":
    # As a module: a child process can import the handlers then, so one thread looks for the suspects of all managers.
    from benchmarks.idle import main as imported_main

    imported_main()
