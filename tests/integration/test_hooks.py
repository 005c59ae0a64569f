"""Hooks on each broker, where handlers run in threads, as coroutines and in child processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    ConstantBackoff,
    QueueClient,
    Reason,
    TaskManager,
    connect,
    current_task,
    hookimpl,
    use_plugins,
)
from qbridge_core.hookspecs import Settlement
from support.brokers import Broker
from support.handlers import notes, work
from support.run_plugins import noting, see, see_later
from support.wait import wait_for


@pytest.fixture(params=["memory", "redis", "rabbitmq"])
def client(request: pytest.FixtureRequest, unique_name: str) -> Iterator[QueueClient]:
    """A client of each broker with the queue of the test."""
    fixtures = {"redis": "redis_url", "rabbitmq": "amqp_url"}
    url = request.getfixturevalue(fixtures[request.param]) if request.param in fixtures else "memory://"
    with connect(url) as connected:
        assert connected.system == request.param
        connected.declare(unique_name, f"{unique_name}-dead")
        yield connected


class Publishing:
    """Adds a header to each message, and remembers how publishing ends."""

    def __init__(self) -> None:
        self.published: list[tuple[int, BaseException | None, str]] = []

    @hookimpl
    def qbridge_before_publish(self, message_id: str | None) -> dict[str, str]:
        """Add a header that tells one message from another."""
        return {"traceparent": f"00-{message_id}"}

    @hookimpl
    def qbridge_published(self, count: int, exception: BaseException | None, system: str) -> None:
        """Remember."""
        self.published.append((count, exception, system))


class Connections:
    """Remembers what becomes of connections."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    @hookimpl
    def qbridge_connection_lost(self, address: str, exception: BaseException, system: str) -> None:
        """Remember."""
        self.calls.append(("lost", address, type(exception), system))

    @hookimpl
    def qbridge_connection_regained(self, address: str, duration: float, system: str) -> None:
        """Remember."""
        self.calls.append(("regained", address, duration, system))


class Counting:
    """Remembers what was settled, and what crashed."""

    def __init__(self) -> None:
        self.settlements: list[Settlement] = []
        self.crashes: list[tuple[str, int, bool]] = []

    @hookimpl
    def qbridge_settlements(self, settlements: Sequence[Settlement]) -> None:
        """Remember."""
        self.settlements += settlements

    @hookimpl
    def qbridge_task_crashed(self, task_id: str, crashes: int, suspected: bool) -> None:
        """Remember."""
        self.crashes.append((task_id, crashes, suspected))


def manager(client: QueueClient, handler: Any, queue: str, *plugins: object, **options: Any) -> TaskManager:
    """A manager of the test's queue."""
    return TaskManager(client, handler, queue, f"{queue}-dead", max_workers=2, plugins=plugins, **options)


def test_the_wait_of_each_attempt_is_exact(client: QueueClient, unique_name: str) -> None:
    """From the moment of sending, or from when the retry was due, to the start: as the handler's own clock has it."""
    counting = Counting()
    starts: list[float] = []

    def handler(_: object) -> None:
        starts.append(time.time())
        if len(starts) == 1:
            raise ValueError

    before = time.time()
    client.send(unique_name, 1)
    sent = time.time()
    wait_for(lambda: time.time() > sent + 0.3)
    with manager(client, handler, unique_name, counting, backoff=ConstantBackoff(0.5)):
        wait_for(lambda: len(counting.settlements) == 2)
    first, second = (settlement.wait for settlement in counting.settlements)
    assert first is not None
    assert second is not None
    assert 0.3 - 0.002 <= first <= starts[0] - before + 0.002
    assert 0.0 <= second <= starts[1] - starts[0] - 0.5 + 0.002


def test_what_plugins_add_arrives_with_each_message(client: QueueClient, unique_name: str) -> None:
    """Whichever way it is published, and through retries; the confirmation is told."""
    publishing, arrived = Publishing(), []

    def handler(_: object) -> None:
        arrived.append((current_task().message_id, dict(current_task().headers)))
        raise ValueError

    use_plugins(client, [publishing])
    client.send(unique_name, 1, headers={"tenant": "t"})
    client.send_many(unique_name, range(3))
    client.send(unique_name, 1, delay=0.1)
    with manager(client, handler, unique_name, max_retries=1):
        wait_for(lambda: len(arrived) == 10)
    assert all(headers["traceparent"] == f"00-{message_id}" for message_id, headers in arrived)
    assert sum(headers.get("tenant") == "t" for _, headers in arrived) == 2
    assert publishing.published == [(1, None, client.system), (3, None, client.system), (1, None, client.system)]
    client.purge(f"{unique_name}-dead")


def test_a_connection_that_is_lost_and_back_is_told(private_broker: Broker) -> None:
    """Once each, with where, why and for how long."""
    connections = Connections()
    with connect(private_broker.url, plugins=[connections]) as client:
        client.declare("q", "d")
        with TaskManager(client, print, "q", "d", plugins=[connections]):
            private_broker.stop()
            wait_for(lambda: len(connections.calls) == 1, 30.0)
            private_broker.start()
            wait_for(lambda: len(connections.calls) == 2, 60.0)
    lost, regained = connections.calls
    assert lost == ("lost", lost[1], BrokerUnavailableError, client.system)
    assert regained == ("regained", lost[1], regained[2], client.system)
    assert str(private_broker.port) in str(lost[1])
    assert isinstance(regained[2], float)
    assert regained[2] > 0.0


@pytest.mark.parametrize("kind", ["function", "coroutine", "process"])
def test_something_is_put_around_each_run(client: QueueClient, unique_name: str, tmp_path: Path, kind: str) -> None:
    """In the thread, on the loop or in the child that runs the handler; the retry has its own."""
    file = str(tmp_path / "notes")
    client.send(unique_name, {"file": file, "do": "raise"}, task_id="t", headers={"file": file})
    handler: Any = see_later if kind == "coroutine" else see
    executor = "process" if kind == "process" else "thread"
    counting = Counting()
    with manager(client, handler, unique_name, counting, noting, executor=executor, max_retries=1):
        wait_for(lambda: len(counting.settlements) == 2, 60.0)
    name = f"{client.system} t"
    attempt = [f"entered {name}", f"sees {name}", f"left {name} ValueError"]
    assert [line.partition(" ")[2] for line in notes(file)] == attempt * 2
    assert (f"{os.getpid()} sees {name}" in notes(file)) == (kind != "process")
    client.purge(f"{unique_name}-dead")


def test_a_child_that_dies_of_a_task_is_told(client: QueueClient, unique_name: str) -> None:
    """Each death with the count of them, and the end with its reason."""
    counting = Counting()
    client.send(unique_name, {"do": "exit", "status": 3}, task_id="poison")
    with manager(client, work, unique_name, counting, executor="process", max_crashes=2):
        wait_for(lambda: len(counting.settlements) == 2, 60.0)
    assert counting.crashes == [("poison", 1, False), ("poison", 2, False)]
    assert [(each.outcome, each.reason) for each in counting.settlements] == [
        ("retried", Reason.CRASHED), ("dead-lettered", Reason.CRASHED),
    ]  # fmt: skip
    client.purge(f"{unique_name}-dead")


def test_tasks_that_children_run_together_are_all_settled(client: QueueClient, unique_name: str) -> None:
    """Many quick tasks in one go: each is in the account, with its run time."""
    counting = Counting()
    client.send_many(unique_name, [{"do": "nothing"}] * 300)
    with manager(client, work, unique_name, counting, executor="process"):
        wait_for(lambda: sum(each.times for each in counting.settlements) == 300, 60.0)
    assert {each.outcome for each in counting.settlements} == {"succeeded"}
    assert all(each.wait is not None and each.duration is not None for each in counting.settlements)
