"""A worker process for the fault tests: ``python worker_program.py URL QUEUE DEAD JOURNAL [TIMEOUT]``.

The payload says what a task does: ``{"id": 1}`` returns after a few milliseconds, ``{"id": 1, "sleep": 3600}``
sleeps, ``{"id": 1, "fail": true}`` raises, ``{"id": 1, "kill": true}`` kills the process. Each run appends
``start ID PID`` and ``done ID PID`` to the journal, so that a test can tell what happened from outside.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

from qbridge_core import TaskManager, connect


def main(url: str, queue: str, dead: str, journal: str, timeout: str = "10") -> None:
    """Work until a signal says stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # O_APPEND: lines of several processes never overwrite each other.
    descriptor = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(event: str, task: object) -> None:
        os.write(descriptor, f"{event} {task} {os.getpid()}\n".encode())

    def handler(payload: dict[str, object]) -> None:
        note("start", payload["id"])
        if payload.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if payload.get("fail"):
            raise ValueError("asked to fail")
        time.sleep(float(str(payload.get("sleep", 0.002))))
        note("done", payload["id"])

    client = connect(url)
    try:
        note("ready", "-")
        TaskManager(client, handler, queue, dead, task_timeout=float(timeout), max_workers=10).start()
    finally:
        client.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
