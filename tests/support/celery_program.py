"""A program of Celery's, without anything of QBridge: ``celery_program.py COMMAND URL QUEUE JOURNAL``.

* ``send``: sends a task for each number in a line of standard input, and answers with a line: "sent", or an error. A
  number may have a countdown in seconds, as in ``7@1.5``.
* ``work``: a worker, until a signal ends it.

A task writes ``celery NUMBER`` into the journal. The URL is the one that QBridge takes, without its ``kombu+``.
"""

from __future__ import annotations

import os
import sys

from celery import Celery


def application(url: str, queue: str) -> Celery:
    """As a program of Celery's is set up that wants no task lost, with one queue."""
    app = Celery("program", broker=url, set_as_current=True)
    app.conf.update(
        task_default_queue=queue,
        task_acks_late=True,
        task_ignore_result=True,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
    )
    if url.startswith("sqs:"):
        app.conf.broker_transport_options = {"is_secure": False, "polling_interval": 0.2, "wait_time_seconds": 1}
    return app


def main(command: str, url: str, queue: str, journal: str) -> None:
    """Send, or work."""
    app = application(url, queue)

    @app.task(name="tests.note")  # type: ignore[untyped-decorator]  # Celery has no types
    def note(number: int) -> None:
        descriptor = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(descriptor, f"celery {number}\n".encode())
        os.close(descriptor)

    if command == "send":
        for line in sys.stdin:
            try:
                for word in line.split():
                    number, _, countdown = word.partition("@")
                    note.apply_async((int(number),), countdown=float(countdown or 0), retry=False)
                answer = "sent"
            except Exception as exc:
                answer = f"{type(exc).__name__}: {exc}"
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()
    else:
        options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO"]
        app.worker_main(["--quiet", "worker", "--pool=threads", "--concurrency=2", *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
