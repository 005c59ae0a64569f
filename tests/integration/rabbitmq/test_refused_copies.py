"""Retries and dead letters that the broker refuses: full queues, limits and rights that are missing.

Settling needs none of them: the message goes back to its queue through the broker, its failure is remembered, and the
others are worked off.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import ConstantBackoff, Failure, QBridgeError, QueueFullError, QueueStats, Reason, TaskManager
from qbridge_core.message import Noted
from qbridge_rabbitmq import RabbitMQClient
from support.brokers import RabbitMQBroker
from support.wait import wait_for


@pytest.fixture
def broker(private_rabbitmq: RabbitMQBroker) -> RabbitMQBroker:
    """A broker with a user whose rights the tests of this file change, and limits."""
    private_rabbitmq.put_user("worker", "secret")
    return private_rabbitmq


@pytest.fixture
def worker_url(broker: RabbitMQBroker) -> Iterator[str]:
    """The URL of a user who may do everything, until a test takes a right away."""
    yield broker.url.replace("guest:guest@", "worker:secret@")
    limit_queues(broker, -1)


def limit_queues(broker: RabbitMQBroker, count: int) -> None:
    """Allow the virtual host so many queues, or any number of them (-1)."""
    broker.evaluate(f'rabbit_vhost_limit:set(<<"/">>, [{{<<"max-queues">>, {count}}}], <<"test">>).')


class Handler:
    """Fails the first runs of each payload."""

    def __init__(self, failures: int = 1) -> None:
        self.runs: Counter[object] = Counter()
        self._failures = failures

    def __call__(self, payload: object) -> None:
        """Fail, or not any more."""
        self.runs[payload] += 1
        if self.runs[payload] <= self._failures:
            raise ValueError(f"run {self.runs[payload]}")


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_g19_a_full_queue_is_worked_off(
    client: RabbitMQClient, channel: Any, unique_name: str, queue_type: str
) -> None:
    """Where producers keep a queue at its length limit, failed tasks come again without a place for their copies."""
    arguments = {"x-queue-type": queue_type, "x-max-length": 4, "x-overflow": "reject-publish"}
    channel.queue_declare(unique_name, durable=True, arguments=arguments)
    stop, sent = threading.Event(), Counter[str]()

    def produce() -> None:
        while not stop.is_set():
            try:
                client.send(unique_name, sent["tasks"])
                sent["tasks"] += 1
            except QBridgeError:
                stop.wait(0.005)

    handler = Handler()
    producer = threading.Thread(target=produce)
    with TaskManager(client, handler, unique_name, f"{unique_name}.dead", max_retries=2, max_workers=4) as manager:
        producer.start()
        wait_for(lambda: manager.report().succeeded >= 12, 60.0, "the work goes on")
        stop.set()
        producer.join()
        wait_for(lambda: manager.report().succeeded == sent["tasks"], 60.0, "everything ends")
    assert set(handler.runs.values()) == {2}, "no run is repeated, and none forgotten"
    assert client.stats(unique_name) == QueueStats(0, 0, 0)


@pytest.mark.parametrize("missing", ["right to configure", "place for one more queue"])
def test_g19_delays_that_cannot_be_held_are_left_out(
    make_client: MakeClient,
    broker: RabbitMQBroker,
    worker_url: str,
    unique_name: str,
    missing: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the queues for delays a task is retried at once, each failure counts, and the log says why, once."""
    dead = f"{unique_name}.dead"
    admin = make_client(broker.url)
    for queue in (unique_name, f"{unique_name}.suspects"):
        admin.declare(queue, dead)
    if missing == "right to configure":
        broker.put_user("worker", "secret", configure=rf"^{unique_name}(\.dead|\.suspects)?$")
    else:
        limit_queues(broker, int(broker.evaluate("length(rabbit_amqqueue:list()).")))
    client = make_client(worker_url)
    handler = Handler(failures=2)
    client.send_many(unique_name, range(4))
    manager = TaskManager(client, handler, unique_name, dead, backoff=ConstantBackoff(0.3), max_workers=2)
    report = manager.run_until_idle(60.0)
    assert (report.succeeded, report.retried) == (4, 8)
    assert set(handler.runs.values()) == {3}
    said = [record.getMessage() for record in caplog.records if "refuses delays" in record.getMessage()]
    assert len(said) == 1
    assert ("lacks the permission" if missing.startswith("right") else "limit") in said[0]


def test_g19_without_the_right_to_write_nothing_is_lost_or_stuck(
    make_client: MakeClient,
    broker: RabbitMQBroker,
    worker_url: str,
    unique_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker that may only read hands back what failed, remembers it, and dead-letters it when it may."""
    dead = f"{unique_name}.dead"
    admin = make_client(broker.url)
    for queue in (unique_name, f"{unique_name}.suspects"):
        admin.declare(queue, dead)
    broker.put_user("worker", "secret", write="^$")
    client = make_client(worker_url)
    handler = Handler(failures=99)
    done: list[object] = []

    def work(payload: object) -> None:
        if payload == "good":
            done.append(payload)
        else:
            handler(payload)

    admin.send(unique_name, "bad")
    with TaskManager(client, work, unique_name, dead, max_retries=1, max_workers=2) as manager:
        wait_for(lambda: handler.runs["bad"] == 2, 30.0, "it is run again, and then never")
        admin.send_many(unique_name, ["good"] * 20)
        wait_for(lambda: len(done) == 20, 30.0, "the others are run meanwhile")
        wait_for(lambda: "refuses where tasks" in caplog.text, 30.0, "the log says it")
        broker.put_user("worker", "secret")
        wait_for(lambda: manager.report().dead_lettered == 1, 30.0, "it becomes a dead letter in the end")
    (letter,) = admin.dead_letters(dead)
    assert (letter.reason, letter.attempts, letter.exception_message) == (Reason.FAILED, 2, "run 2")
    assert (handler.runs["bad"], admin.stats(unique_name).ready) == (2, 0)
    assert len([r for r in caplog.records if "refuses where tasks" in r.getMessage()]) == 1


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "foreign"])
def test_g19_what_goes_back_is_no_suspect(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str, foreign: bool
) -> None:
    """A message that the broker has taken back shows its failures where it comes again, and has killed nobody."""
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare(unique_name, durable=True, arguments=arguments)
    client = make_client(amqp_url)
    client.declare(unique_name)
    if foreign:
        channel.basic_publish("", unique_name, b"x")
    else:
        client.publish(unique_name, b"x", message_id="m")
    client.subscribe(unique_name, 5)
    failure = Failure(Reason.FAILED, 3, first_failed_at=1e9, source_queue=unique_name, exception_message="why")
    for is_final in (False, True):
        (delivery,) = client.receive(unique_name, 1, 10.0)
        _fill(client, unique_name)
        delivery.note(_noted(failure, is_final))
        client.reject(delivery, requeue=True)
        (again,) = [one for one in _take_all(client, unique_name) if one.body == b"x"]
        assert (again.attempts, again.first_failed_at, again.suspected) == (3, 1e9, False)
        assert again.noted is not None
        assert (again.noted.is_final, again.noted.failure) == (is_final, failure)
        client.reject(again, requeue=True)  # nothing new: what is known of it stays known
    (last,) = [one for one in _take_all(client, unique_name) if one.body == b"x"]
    assert last.noted == _noted(failure, True)


def _noted(failure: Failure, is_final: bool) -> Any:
    return Noted(failure, is_final)


def _fill(client: RabbitMQClient, queue: str) -> None:
    """Publish until the queue takes nothing more, and the consumer neither."""
    for _ in range(50):
        try:
            client.publish(queue, b"filler")
        except QueueFullError:
            return
    raise AssertionError("the queue has no limit")


def _take_all(client: RabbitMQClient, queue: str) -> list[Any]:
    """Everything, the fillers acknowledged."""
    found: list[Any] = []
    while not any(one.body == b"x" for one in found):
        found += client.receive(queue, 5, 10.0)
        for one in found:
            if one.body != b"x":
                client.ack(one)
    return found
