"""What a producer, a worker, an observer and an operator of the queue ``emails`` do, on any broker.

Each of them works until it has done its job, raises, or is told to stop: one who lacks a right may wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qbridge_core import ConstantBackoff, TaskManager, connect
from support.wait import wait_for

QUEUE: Final = "emails"
DEAD: Final = "emails.dead"
FAILS: Final = {"to": "nobody"}
_PATIENCE: Final = 60.0

Stop = Callable[[], bool]


def send_email(payload: dict[str, str]) -> None:
    """The handler."""
    if payload == FAILS:
        raise ValueError("not an address")


def prepare(url: str) -> None:
    """What somebody who may do everything has done before: the queues are there, with a letter and a task."""
    with connect(url) as client:
        client.declare(QUEUE, DEAD)
        client.send_many(QUEUE, [FAILS, FAILS])
        TaskManager(client, send_email, QUEUE, DEAD, max_retries=0).run_until_idle()
        client.send(QUEUE, FAILS)
        for _ in range(3):
            client.send(QUEUE, FAILS, delay=3600.0)


def produce(url: str, stop: Stop) -> None:
    """Send one task, and some."""
    with connect(url) as client:
        client.send(QUEUE, {"to": "ann@example.org"})
        client.send_many(QUEUE, [{"to": "bob@example.org"}, {"to": "cy@example.org"}])


def produce_delayed(url: str, stop: Stop) -> None:
    """The same, and send a later one."""
    produce(url, stop)
    with connect(url) as client:
        client.send(QUEUE, {"to": "di@example.org"}, delay=0.1)


def work(url: str, stop: Stop) -> None:
    """Run tasks, retry one with a delay, dead-letter it, and take over from a worker that died."""
    with connect(url) as client:
        backoff = ConstantBackoff(0.2)
        manager = TaskManager(client, send_email, QUEUE, DEAD, max_retries=1, backoff=backoff, grace_period=1.0)
        with manager:
            wait_for(lambda: stop() or is_done(manager), _PATIENCE, "the worker has done its job")


def is_done(manager: TaskManager) -> bool:
    """Whether the task that fails was retried and dead-lettered."""
    report = manager.report()
    return report.retried > 0 and report.dead_lettered > 0


def observe(url: str, stop: Stop) -> None:
    """Count and list queues, as ``qbridge stats``, ``top`` and ``exporter`` do."""
    with connect(url) as client:
        assert client.stats(QUEUE).ready > 0
        assert client.describe(QUEUE).dead
        client.queues()


def operate(url: str, stop: Stop) -> None:
    """Pause a queue, look at its letters, send one back, delete another and put it back, and empty all."""
    observe(url, stop)
    with connect(url) as client:
        client.declare(QUEUE, DEAD)
        client.pause(QUEUE)
        letters = client.dead_letters(DEAD)
        assert client.replay(DEAD, letters=letters[:1]) == 1
        assert client.delete_letters(DEAD, letters=letters[1:]) == 1
        assert client.import_letters(DEAD, letters[1:]) == 1
        if client.capabilities.browse_delayed:
            first, second, _ = client.delayed(QUEUE)
            client.release_delayed(QUEUE, messages=[first])
            client.delete_delayed(QUEUE, messages=[second])
        client.purge(DEAD)
        client.purge(QUEUE)
        client.purge(QUEUE, delayed=True)
        client.resume(QUEUE)


ROLES: Final = {
    "producer": produce,
    "producer with delays": produce_delayed,
    "worker": work,
    "observer": observe,
    "operator": operate,
}
