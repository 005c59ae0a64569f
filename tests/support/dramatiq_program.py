"""A program of Dramatiq's, without anything of QBridge: ``dramatiq_program.py COMMAND URL QUEUE JOURNAL``.

Commands, words and journal are those of ``celery_program.py``; the actor is called ``note``.
"""

from __future__ import annotations

import os
import signal
import sys

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker


def main(command: str, url: str, queue: str, journal: str) -> None:
    """Send, or work."""
    broker = RabbitmqBroker(url=url)
    dramatiq.set_broker(broker)

    @dramatiq.actor(queue_name=queue, broker=broker)
    def note(number: int) -> None:
        descriptor = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(descriptor, f"dramatiq {number}\n".encode())
        os.close(descriptor)

    if command == "send":
        for line in sys.stdin:
            for word in line.split():
                number, _, countdown = word.partition("@")
                delay = round(float(countdown) * 1000) if countdown else None
                note.send_with_options(args=(int(number),), delay=delay)
            sys.stdout.write("sent\n")
            sys.stdout.flush()
    else:
        worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=100)
        worker.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
