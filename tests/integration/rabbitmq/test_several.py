"""Receiving from many queues with one thread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from qbridge_core import Delivery
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.consume.buffer import Buffer
from support.proxy import TCPProxy
from support.wait import wait_for

MANY = 30


@pytest.fixture
def client(amqp_url: str) -> RabbitMQClient:
    """A connected client that makes classic queues, which are quick to declare."""
    return RabbitMQClient(amqp_url, queue_type="classic")


def test_one_thread_receives_from_many_queues(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes says where it is: nobody looks at the queues where nothing is."""
    takes: Counter[str] = Counter()
    take = Buffer.take

    def counted(buffer: Buffer, limit: int, timeout: float) -> object:
        takes[threading.current_thread().name] += 1
        return take(buffer, limit, timeout)

    names = [f"{unique_name}-{number}" for number in range(MANY)]
    wanted = dict.fromkeys(names, 5)
    with client:
        for name in names:
            client.declare(name)
            client.subscribe(name, 5)
        assert client.receive_any(wanted, 0.2) == []  # looks at each once
        monkeypatch.setattr(Buffer, "take", counted)
        assert client.receive_any(wanted, 0.2) == []
        assert not takes
        for name in reversed(names):
            client.publish(name, name.encode())
        got: list[Delivery] = []
        wait_for(lambda: got.extend(client.receive_any(wanted, 10.0)) or len(got) == MANY, 20.0)
        assert sorted(delivery.body.decode() for delivery in got) == sorted(names)
        assert takes.total() <= 2 * MANY
        for delivery in got:
            client.ack(delivery)
        assert client.flush()


def test_g14_many_queues_are_received_from_again_after_a_cut(
    client: RabbitMQClient, unique_name: str, amqp_url: str, tcp_proxy: Callable[[str], TCPProxy]
) -> None:
    """A wait goes on over a loss of the connection, and brings what comes afterwards."""
    proxy = tcp_proxy(amqp_url)
    names = [f"{unique_name}-{number}" for number in range(3)]
    wanted = dict.fromkeys(names, 5)
    with client, RabbitMQClient(proxy.through(amqp_url), queue_type="classic") as cut:
        for name in names:
            cut.declare(name)
            cut.subscribe(name, 5)
        assert cut.receive_any(wanted, 0.2) == []
        got: list[Delivery] = []
        waiting = threading.Thread(target=lambda: got.extend(cut.receive_any(wanted, 30.0)))
        waiting.start()
        proxy.reset()
        client.publish(names[1], b"body")
        waiting.join(30.0)
        assert [(delivery.queue, delivery.body) for delivery in got] == [(names[1], b"body")]
        cut.ack(got[0])
        assert cut.flush()
