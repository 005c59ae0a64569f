"""A worker for the recording: ``python -m corpus.worker URL QUEUE DEAD [OPTIONS]``, with the version that is recorded.

The payload's ``do`` says what becomes of a task. OPTIONS is a JSON object: arguments of the ``TaskManager``, and

* ``stop_at``: the worker stops itself, gracefully, when it has begun so many runs;
* ``together``: tasks that kill it wait until so many of them run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from qbridge_core import ConstantBackoff, Reject, Snooze, TaskManager, connect


class Handler:
    """Does what a payload asks for."""

    def __init__(self, stop_at: int, together: int) -> None:
        self._begun = 0
        self._stop_at = stop_at
        self._barrier = threading.Barrier(together)

    def __call__(self, payload: dict[str, Any]) -> None:
        """Run one task."""
        self._begun += 1
        if self._begun == self._stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        getattr(self, payload["do"])(payload)

    def succeed(self, payload: dict[str, Any]) -> None:
        """Return."""

    def fail(self, payload: dict[str, Any]) -> None:
        """Raise."""
        raise ValueError(f"no such customer: {payload.get('customer', 'Zoë')}")

    def hang(self, payload: dict[str, Any]) -> None:
        """Take longer than allowed."""
        time.sleep(3600)

    def reject(self, payload: dict[str, Any]) -> None:
        """Give up at once."""
        raise Reject("the account is closed")

    def snooze(self, payload: dict[str, Any]) -> None:
        """Come back later."""
        raise Snooze(payload["seconds"])

    def die(self, payload: dict[str, Any]) -> None:
        """Take the process along, with the others that do."""
        self._barrier.wait(30)
        os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, queue: str, dead: str, given: str = "{}") -> None:
    """Work until a signal, or a task, ends it; with ``until_idle`` until the queue is empty."""
    options = json.loads(given)
    handler = Handler(options.pop("stop_at", 0), options.pop("together", 1))
    until_idle = options.pop("until_idle", False)
    if "backoff" in options:
        options["backoff"] = ConstantBackoff(options["backoff"])
    with connect(url) as client:
        manager = TaskManager(client, handler, queue, dead, **options)
        if until_idle:
            manager.run_until_idle()
        else:
            manager.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
