"""How long and how many messages a worker may hold, compared with what its tasks need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from qbridge_core.backend import Check, Finding, QueueUse
from qbridge_rabbitmq.checkup.queues import QueueCheckup
from qbridge_rabbitmq.connection.options import Options

TARGET: Final = "qbridge doctor --target module:name of an App, or of what returns a TaskManager"


def consumer_timeout(options: Options, queue: QueueCheckup, use: QueueUse, check: Check) -> Iterator[Finding]:
    """Whether the broker takes a message from a worker that lives (rabbitmq.com/docs/consumers)."""
    limit = options.consumer_timeout
    if queue.lets_hold():
        yield check.ok(
            "a queue that QBridge has declared on RabbitMQ 3.12 or later, as this one seems to be, lets a worker hold "
            "a message for as long as it likes (x-consumer-timeout)"
        )
    elif use.task_timeout is None:
        yield check.not_checked("nobody says how long a task may take (task_timeout)", TARGET)
    elif use.task_timeout > limit:
        yield check.problem(
            f"task_timeout is {use.task_timeout:g} s, but after {limit:g} s the broker takes a message from a living "
            "worker and gives it to another",
            f"consumer_timeout = {math.ceil(use.task_timeout * 2) * 1000} in rabbitmq.conf, and the option "
            f"consumer_timeout={math.ceil(use.task_timeout * 2)} of the client; or a shorter task_timeout",
        )
    else:
        yield check.ok(
            f"a task takes {use.task_timeout:g} s at most, and the option consumer_timeout says that the server lets "
            f"it be held for {limit:g} s; the server itself does not tell"
        )


def prefetch(options: Options, queue: QueueCheckup, use: QueueUse, check: Check) -> Iterator[Finding]:
    """Whether the option ``prefetch`` leaves workers without messages, or messages without a worker."""
    held = options.prefetch
    if held is None:
        yield check.ok("prefetch follows the speed of the tasks")
    elif use.workers is None:
        yield check.not_checked(f"prefetch is {held}, and nobody says how many workers there are", TARGET)
    elif held < use.workers:
        yield check.warning(
            f"prefetch is {held}, and {use.workers} tasks could run at once in each process: no more than {held} do",
            f"leave the option prefetch out, or set it to {use.workers} or more",
        )
    elif use.task_timeout and _waits(options, held, use.workers, use.task_timeout) and not queue.lets_hold():
        yield check.warning(
            f"with prefetch={held} a message may wait in a worker for {math.ceil(held / use.workers) - 1} runs of up "
            f"to {use.task_timeout:g} s, and after {options.consumer_timeout:g} s the broker gives it to another one",
            f"leave the option prefetch out, or set it to {use.workers}",
        )
    else:
        yield check.ok(f"prefetch is {held} for {use.workers} workers")


def _waits(options: Options, held: int, workers: int, seconds: float) -> bool:
    return math.ceil(held / workers) * seconds > options.consumer_timeout
