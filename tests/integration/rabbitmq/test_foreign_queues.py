"""Queues and messages that QBridge did not make: nothing is lost, nothing is changed."""

from __future__ import annotations

import datetime
import itertools
import threading
from typing import Any

import pika
import pytest

from qbridge_core import (
    ConfigurationError,
    QueueMismatchError,
    Reason,
    Reject,
    TaskManager,
    TransientError,
    UnroutableError,
    run_workers,
)
from qbridge_rabbitmq import RabbitMQClient
from support.wait import wait_for


def test_g12_a_plain_classic_queue_without_a_dead_letter_route_loses_nothing(
    amqp_url: str, channel: Any, unique_name: str
) -> None:
    """Somebody else's classic queue is used as it is, and a rejected message is found with its bytes and headers."""
    headers = {"n": 7, "nested": {"a": [1, True, None]}, "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)}
    properties = pika.BasicProperties(
        headers=headers, content_type="application/json", correlation_id="c", expiration="60000", delivery_mode=1
    )
    channel.queue_declare(unique_name, durable=True)
    channel.basic_publish("", unique_name, b'{"payload": "bad"}', properties)

    def handler(payload: object) -> None:
        raise ValueError("always")

    dead = f"{unique_name}-dead"
    with RabbitMQClient(rabbitmq_url=amqp_url) as client:
        TaskManager(client, handler, unique_name, dead, max_retries=1, max_workers=1).run_until_idle(30.0)
        (letter,) = client.dead_letters(dead)
        assert (letter.body, letter.reason, letter.attempts) == (b'{"payload": "bad"}', Reason.FAILED, 2)
    _, found, body = channel.basic_get(dead, auto_ack=True)
    assert body == b'{"payload": "bad"}'
    assert {name: found.headers[name] for name in headers} == headers
    assert (found.content_type, found.correlation_id) == ("application/json", "c")
    assert (found.delivery_mode, found.expiration) == (2, None), "it must neither expire nor die with the broker"
    channel.queue_declare(unique_name, durable=True)  # still the same queue: other arguments would be refused


@pytest.mark.parametrize("role", ["input", "dead letters"])
def test_a_stream_is_refused_with_advice(client: RabbitMQClient, channel: Any, unique_name: str, role: str) -> None:
    """A stream that somebody else declared cannot serve as a queue, and says so before anything is consumed."""
    stream = f"{unique_name}-stream"
    channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
    names = (stream, f"{unique_name}-dead") if role == "input" else (unique_name, stream)
    with pytest.raises(QueueMismatchError, match=r"is a stream.*choose another name"):
        client.declare(*names)
    with pytest.raises(QueueMismatchError, match=r"is a stream.*choose another name"):
        TaskManager(client, print, *names).run_until_idle(10.0)
    with pytest.raises(QueueMismatchError, match="is a stream"):
        client.subscribe(stream, 10)
    with pytest.raises(QueueMismatchError, match="stream"):
        client.receive(stream, 1, 5.0)


def test_a_name_that_the_broker_keeps_for_itself_is_no_question_of_credentials(client: RabbitMQClient) -> None:
    """A new queue cannot be called ``amq.…``: the error says so, and is not that of a refused login."""
    with pytest.raises(ConfigurationError, match="reserved prefix"):
        client.declare("amq.jobs")


def test_subscribing_creates_no_queue(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """A queue that nobody has declared is awaited, not made, by looking whether it is a stream."""
    client.subscribe(unique_name, 1)
    with pytest.raises(UnroutableError):
        client.receive(unique_name, 1, 10.0)
    channel.queue_declare(unique_name, durable=True)
    client.publish(unique_name, b"x")
    assert client.receive(unique_name, 1, 10.0)[0].body == b"x"


def test_g12_what_another_consumer_rejects_arrives_too(amqp_url: str, channel: Any, unique_name: str) -> None:
    """A broker-side reject on a queue of QBridge's lands in its dead-letter queue, and says where it came from."""
    dead = f"{unique_name}-dead"
    with RabbitMQClient(rabbitmq_url=amqp_url) as client:
        client.declare(unique_name, dead)
        client.publish(unique_name, b"x", headers={"h": "1"})
        method, _, _ = channel.basic_get(unique_name)
        channel.basic_reject(method.delivery_tag, requeue=False)
        (letter,) = wait_for(lambda: client.dead_letters(dead), 20.0, "the letter arrives")
        assert (letter.body, dict(letter.headers), letter.reason) == (b"x", {"h": "1"}, Reason.REJECTED)
        assert letter.source_queue == unique_name
        assert client.replay(dead) == 1
        assert client.receive(unique_name, 1, 10.0)[0].body == b"x"


def test_g2_a_dead_letter_queue_that_was_deleted_is_made_again(amqp_url: str, channel: Any, unique_name: str) -> None:
    """A message whose dead-letter queue is missing is not dropped: the queue is created when it is needed."""
    dead = f"{unique_name}-dead"
    with RabbitMQClient(rabbitmq_url=amqp_url) as client:
        client.declare(unique_name, dead)
        client.publish(unique_name, b"x")
        channel.queue_delete(dead)
        client.reject(client.receive(unique_name, 1, 10.0)[0], requeue=False)
        assert [letter.body for letter in client.dead_letters(dead)] == [b"x"]


def test_g14_a_queue_deleted_under_a_running_worker_is_made_again(
    amqp_url: str, channel: Any, unique_name: str
) -> None:
    """The broker cancels the consumer of a deleted queue; the worker declares it anew and goes on."""
    done: list[object] = []
    dead = f"{unique_name}-dead"

    def queue_is_back() -> bool:
        try:
            client.send(unique_name, 2)
        except (UnroutableError, TransientError):  # gone, or just being deleted: the broker may refuse it then
            return False
        return True

    with (
        RabbitMQClient(rabbitmq_url=amqp_url) as client,
        TaskManager(client, done.append, unique_name, dead, max_workers=2),
    ):
        client.send(unique_name, 1)
        wait_for(lambda: done == [1], 20.0, "the worker works")
        channel.queue_delete(unique_name)
        wait_for(queue_is_back, 20.0, "the queue is back")
        wait_for(lambda: 2 in done, 20.0, "the worker goes on")


@pytest.mark.parametrize("last_first", [False, True])
def test_a_queue_for_letters_that_has_a_worker_too_is_ours(
    amqp_url: str, unique_name: str, caplog: pytest.LogCaptureFixture, last_first: bool
) -> None:
    """Whose letters are another worker's tasks is no stranger's: whatever the order, no settings differ."""
    names = [f"{unique_name}-{number}" for number in range(4)]
    runs: list[str] = []

    def fails(payload: object) -> None:
        runs.append(f"{payload}")
        raise Reject

    with RabbitMQClient(rabbitmq_url=amqp_url) as client:
        managers = [TaskManager(client, fails, *pair, max_workers=1) for pair in itertools.pairwise(names)]
        worker = threading.Thread(target=run_workers, args=managers[::-1] if last_first else managers)
        worker.start()
        wait_for(lambda: all(manager.running for manager in managers), 20.0, "they do not begin")
        client.send(names[0], "task")
        wait_for(lambda: client.stats(names[3]).ready == 1, 20.0, "the letter does not get to the end")
        managers[0].stop()
        worker.join(20.0)
    assert runs == ["task"] * 3
    assert "used as it is" not in caplog.text
