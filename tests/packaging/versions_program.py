"""One side of the upgrade tests, run by the interpreter of one version or of the other: ``COMMAND URL QUEUE …``.

It uses public names alone, those that the first version had. The commands:

* ``work URL QUEUE JOURNAL``: a worker, until a signal or a task ends it;
* ``send URL QUEUE``: publishes the tasks that standard input lists;
* ``letters URL QUEUE``: prints the dead letters;
* ``replay URL QUEUE``: sends them back and prints how many.

Each task appends ``start ID ATTEMPT PID`` and ``done ID ATTEMPT PID`` to the journal.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from qbridge_core import Retry, TaskManager, connect, current_task


def note(path: str, event: str, payload: dict[str, Any]) -> None:
    """Append a line; lines of several processes never overwrite each other."""
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, f"{event} {payload['id']} {current_task().attempt} {os.getpid()}\n".encode())
    os.close(descriptor)


class Handler:
    """Does what the payload asks for."""

    def __init__(self, journal: str) -> None:
        self._journal = journal

    def __call__(self, payload: dict[str, Any]) -> None:
        """Run one task."""
        note(self._journal, "start", payload)
        first = current_task().attempt == 1
        what = payload["do"]
        if what == "fail" and not Path(f"{self._journal}.mended").exists():
            raise ValueError("not mended yet")
        if what == "fail once" and first:
            raise ValueError("the first attempt fails")
        if what == "later" and first:
            raise Retry("not yet", after=payload["seconds"])
        if what == "die" or (what == "die once" and self._is_first_run(payload)):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(payload.get("sleep", 0.0))
        note(self._journal, "done", payload)

    def _is_first_run(self, payload: dict[str, Any]) -> bool:
        starts = [line.split()[1] for line in Path(self._journal).read_text().splitlines() if line.startswith("start")]
        return starts.count(str(payload["id"])) == 1


def work(url: str, queue: str, journal: str) -> None:
    """Work until a signal says stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with connect(url) as client:
        TaskManager(client, Handler(journal), queue, f"{queue}.dead", max_workers=4).start()


def send(url: str, queue: str) -> None:
    """Publish what standard input says: objects with ``payload`` and ``delay``, or with a raw ``body``."""
    with connect(url) as client:
        client.declare(queue, f"{queue}.dead")
        for task in json.load(sys.stdin):
            if "body" in task:
                client.publish(queue, task["body"].encode(), message_id=task["id"])
            else:
                payload = task["payload"]
                client.send(
                    queue, payload, task_id=payload["id"], delay=task.get("delay", 0.0), headers={"from": "ö"}
                )  # fmt: skip


def letters(url: str, queue: str) -> None:
    """Print the dead letters."""
    with connect(url) as client:
        found = client.dead_letters(f"{queue}.dead", 1_000)
    told = [
        {
            "task_id": letter.task_id,
            "reason": letter.reason.value,
            "attempts": letter.attempts,
            "crashes": letter.crashes,
            "exception_type": letter.exception_type,
            "exception_message": letter.exception_message,
            "source_queue": letter.source_queue,
            "headers": dict(letter.headers),
            "body": letter.body.decode(),
            "first_failed_at": letter.first_failed_at,
            "last_failed_at": letter.last_failed_at,
            "worker": letter.worker,
        }
        for letter in found
    ]
    sys.stdout.write(json.dumps(told))


def replay(url: str, queue: str) -> None:
    """Send the dead letters back."""
    with connect(url) as client:
        client.declare(queue, f"{queue}.dead")
        sys.stdout.write(json.dumps(client.replay(f"{queue}.dead")))


if __name__ == "__main__":
    {"work": work, "send": send, "letters": letters, "replay": replay}[sys.argv[1]](*sys.argv[2:])
