"""Pauses outlast what can happen to workers and brokers, and no task is lost or doubled by them."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable

from qbridge_core import QueueClient, TaskManager, TransientError, connect
from support.brokers import Broker
from support.wait import wait_for


def ready(client: QueueClient, queue: str) -> int | None:
    """How many messages wait; ``None`` while the broker is away."""
    try:
        return client.stats(queue).ready
    except TransientError:
        return None


def is_done(call: Callable[[], object]) -> bool:
    """Whether a call succeeds; the broker may be on its way back."""
    try:
        call()
    except TransientError:
        return False
    return True


def test_a_pause_outlasts_its_broker_and_its_workers(private_broker: Broker, unique_name: str) -> None:
    """After a SIGKILL of the broker workers rest on, those that start rest too, and all go on when it is resumed."""
    runs: Counter[object] = Counter()
    dead, old_enough = f"{unique_name}.dead", threading.Event()
    with connect(private_broker.url) as client, connect(private_broker.url) as operator:
        with TaskManager(client, lambda payload: runs.update([payload]), unique_name, dead, max_workers=2) as worker:
            threading.Timer(2.0, old_enough.set).start()
            operator.pause(unique_name)
            wait_for(lambda: worker.paused, 10.0)
            operator.send_many(unique_name, range(3))
            assert old_enough.wait(10.0), "RabbitMQ 3.10 loses a quorum queue that is killed in its first second"
            private_broker.kill()
            private_broker.start()
            wait_for(lambda: ready(operator, unique_name) == 3, 30.0, "the messages are there again")
            wait_for(lambda: is_done(lambda: operator.paused([unique_name])), 30.0)
            assert operator.paused([unique_name]) == {unique_name}
            assert (worker.running, worker.paused, runs) == (True, True, {})
            wait_for(lambda: is_done(lambda: operator.send(unique_name, 3)), 30.0)
        with connect(private_broker.url) as late:
            manager = TaskManager(late, lambda payload: runs.update([payload]), unique_name, dead, max_workers=2)
            with manager:
                wait_for(lambda: manager.paused, 10.0)
                wait_for(lambda: ready(operator, unique_name) == 4, 10.0)
                assert runs == {}
                wait_for(lambda: is_done(lambda: operator.resume(unique_name)), 30.0)
                wait_for(lambda: len(runs) == 4, 15.0, "the worker goes on")
                assert manager.run_until_idle(30.0).succeeded == 4
    assert set(runs.values()) == {1}


def test_pauses_and_resumes_again_and_again(shared_url: str, unique_name: str) -> None:
    """However often, each one is seen, and all tasks are done once."""
    runs: Counter[object] = Counter()
    number = itertools.count()
    with connect(shared_url) as client, connect(shared_url) as operator:
        dead = f"{unique_name}.dead"
        with TaskManager(client, lambda payload: runs.update([payload]), unique_name, dead, max_workers=4) as manager:
            for _ in range(2):
                operator.send_many(unique_name, [next(number) for _ in range(200)])
                operator.pause(unique_name)
                wait_for(lambda: manager.paused, 10.0)
                operator.resume(unique_name)
                wait_for(lambda: not manager.paused, 10.0)
            wait_for(lambda: len(runs) == 400, 30.0)
            assert manager.run_until_idle(30.0).succeeded == 400
    assert set(runs.values()) == {1}
