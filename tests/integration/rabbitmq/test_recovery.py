"""What is taken away from a running consumer: its channel, its bytes, its queues. It goes on by itself."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import Failure, Message, Reason, TaskManager, TransientError, UnroutableError
from qbridge_rabbitmq import RabbitMQClient
from support.proxy import TCPProxy
from support.wait import wait_for


class Runs:
    """A handler that notes its payloads."""

    def __init__(self) -> None:
        self.payloads: list[object] = []

    def __call__(self, payload: object) -> None:
        """Run."""
        self.payloads.append(payload)


def test_g14_a_channel_that_the_broker_closed_is_replaced(
    make_client: MakeClient, amqp_url: str, client: RabbitMQClient, unique_name: str
) -> None:
    """After a channel error the worker consumes on a new channel, without a new connection and without a restart."""
    runs = Runs()
    worker = make_client(amqp_url)
    with TaskManager(worker, runs, unique_name, f"{unique_name}-dead", max_workers=2):
        client.send(unique_name, 1)
        wait_for(lambda: runs.payloads == [1], 10.0)
        broker = worker._broker
        assert broker is not None
        channel = broker.consumers.of(unique_name).channel
        assert channel is not None
        broker.io.post(lambda: channel.amqp.basic_ack(4711))  # the broker closes a channel for an unknown tag
        wait_for(lambda: channel.lost, 10.0, "the broker closes the channel")
        client.send(unique_name, 2)
        wait_for(lambda: runs.payloads == [1, 2], 10.0, "the worker goes on")
        assert broker.consumers.of(unique_name).channel is not channel


def test_g14_a_half_open_connection_is_replaced_within_the_heartbeat(
    make_client: MakeClient, amqp_url: str, client: RabbitMQClient, unique_name: str
) -> None:
    """When all bytes of a worker vanish it gets tasks again soon after they flow, though nobody told it of the loss."""
    runs = Runs()
    with TCPProxy.to(amqp_url) as proxy:
        worker = make_client(proxy.through(amqp_url), heartbeat=2)
        with TaskManager(worker, runs, unique_name, f"{unique_name}-dead", max_workers=2):
            client.send(unique_name, 1)
            wait_for(lambda: runs.payloads == [1], 10.0)
            broker = worker._broker
            assert broker is not None
            old = broker.connections.consuming.connection
            proxy.blackhole()
            began = time.monotonic()
            wait_for(lambda: broker.connections.consuming.connection is not old, 15.0, "the silence is noticed")
            assert time.monotonic() - began < 2 * 2.0 + 2.0
            proxy.reset()
            proxy.pass_through()
            client.send(unique_name, 2)
            wait_for(lambda: runs.payloads == [1, 2], 10.0, "the worker goes on")


def test_g2_a_dead_letter_queue_deleted_under_a_running_worker_is_made_again(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str
) -> None:
    """A task that fails for good after its dead-letter queue was deleted is found in a new one."""

    def handler(payload: object) -> None:
        raise ValueError(payload)

    dead = f"{unique_name}-dead"
    client = make_client(amqp_url)
    with TaskManager(client, handler, unique_name, dead, max_retries=0, max_workers=2):
        client.send(unique_name, 1)
        wait_for(lambda: client.stats(dead).ready == 1, 10.0)
        channel.queue_delete(dead)
        client.send(unique_name, 2)
        wait_for(lambda: client.stats(dead).ready == 1, 20.0, "the dead letter is kept")
    assert [letter.exception_message for letter in client.dead_letters(dead)] == ["2"]


def test_a_queue_deleted_while_its_task_runs_does_not_stop_the_worker(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str
) -> None:
    """The running task is acknowledged into the void, and the next one comes from the queue that was made anew."""
    release = threading.Event()
    started: list[object] = []

    def handler(payload: object) -> None:
        started.append(payload)
        assert release.wait(30.0)

    client = make_client(amqp_url)
    with TaskManager(client, handler, unique_name, f"{unique_name}-dead", max_workers=2):
        client.send(unique_name, 1)
        wait_for(lambda: started == [1], 10.0)
        channel.queue_delete(unique_name)
        release.set()

        def sent() -> bool:
            try:
                client.send(unique_name, 2)
            except (TransientError, UnroutableError):
                return False
            return True

        wait_for(sent, 20.0, "the queue is back")
        wait_for(lambda: 2 in started, 20.0, "the worker goes on")


@pytest.mark.parametrize("arguments", [{}, {"x-queue-type": "quorum"}], ids=["classic", "quorum"])
def test_listing_never_burns_a_letter(
    client: RabbitMQClient, channel: Any, unique_name: str, arguments: dict[str, object]
) -> None:
    """A dead-letter queue of somebody else's that drops a message after some deliveries survives many listings."""
    limit = {"x-delivery-limit": 4} if arguments else {}
    channel.queue_declare(unique_name, durable=True, arguments=arguments | limit)
    client.publish_many(unique_name, [Message(b"%d" % n) for n in range(5)])
    for _ in range(12):
        assert {letter.body for letter in client.dead_letters(unique_name)} == {b"0", b"1", b"2", b"3", b"4"}


def test_replay_resets_the_counters_and_removes_each_letter(client: RabbitMQClient, unique_name: str) -> None:
    """Replayed tasks start afresh in their queue, with their own headers, and the dead-letter queue shrinks."""
    dead = f"{unique_name}-dead"
    client.declare(unique_name, dead)
    client.publish_many(unique_name, [Message(b"%d" % n, {"h": str(n)}, f"m{n}") for n in range(4)])
    for delivery in client.receive(unique_name, 4, 10.0):
        client.reject(delivery, requeue=False, failure=Failure(Reason.FAILED, attempts=4, source_queue=unique_name))
    assert client.replay(dead, limit=3) == 3
    back = client.receive(unique_name, 4, 10.0)
    assert [(d.body, d.message_id, dict(d.headers), d.attempts) for d in back] == [
        (b"%d" % n, f"m{n}", {"h": str(n)}, 0) for n in range(3)
    ]
    assert [letter.body for letter in client.dead_letters(dead)] == [b"3"]
