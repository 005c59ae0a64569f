"""Many queues of one client: what is done for each of them, and what is not."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from qbridge_core import Delivery
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.consume.buffer import Buffer
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.getting import GetRequest
from qbridge_rabbitmq.consume.states import State
from qbridge_rabbitmq.consume.watch import Watch
from qbridge_rabbitmq.queues.requests import Steps
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


def test_a_flush_asks_only_the_channels_that_were_used(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round trip for the queue where something was settled, and none for the others."""
    asked: list[str] = []
    barrier = Consumer.barrier

    def counted(consumer: Consumer, done: Callable[[], None]) -> None:
        asked.append(consumer.queue)
        barrier(consumer, done)

    names = [f"{unique_name}-{number}" for number in range(5)]
    with client:
        for name in names:
            client.declare(name)
            client.subscribe(name, 5)
            client.publish(name, b"body")
        got = {name: client.receive(name, 1, 10.0)[0] for name in names}
        monkeypatch.setattr(Consumer, "barrier", counted)
        assert client.flush()
        assert asked == []
        client.ack(got[names[2]])
        client.reject(got[names[3]])
        assert client.flush()
        assert sorted(set(asked)) == names[2:4]


def test_idle_consumers_are_examined_a_few_at_a_time(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in its turn: the broker is asked as often for many queues as for a few."""
    turns: list[list[str]] = []
    look = Watch.look

    def counted(watch: Watch) -> None:
        turns.append([])
        look(watch)

    def examine(watch: Watch, consumer: Consumer, tag: str) -> None:
        del watch, tag
        turns[-1].append(consumer.queue)

    monkeypatch.setattr("qbridge_rabbitmq.consume.watch._EVERY", 0.05)
    monkeypatch.setattr("qbridge_rabbitmq.consume.watch._EXAMINED", 2)
    monkeypatch.setattr(Watch, "look", counted)
    monkeypatch.setattr(Watch, "_examine", examine)
    names = [f"{unique_name}-{number}" for number in range(5)]
    with client:
        for name in names:
            client.declare(name)
            client.subscribe(name, 5)
        wait_for(lambda: min(Counter(itertools.chain(*turns))[name] for name in names) >= 2, 20.0)
    assert max(map(len, turns)) == 2


def test_g4_requests_without_an_answer_leave_no_channels_behind(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them there are, and each one has its time from when it was its turn."""
    ended: list[BaseException | None] = []

    def unanswered() -> Steps[None]:
        yield lambda channel, answered: None

    with client:
        client.declare(unique_name)
        assert client._broker is not None
        requests, connection = client._broker.requests, client._broker.connections.consuming.connection
        assert connection is not None
        before = len(connection._channels)
        monkeypatch.setattr(requests, "_timeout", 0.1)
        for _ in range(10):
            client._broker.io.post(lambda: requests.begin(unanswered(), lambda done: ended.append(done.exception())))
        wait_for(lambda: len(ended) == 10, 20.0, "some requests wait for ever")
        assert {type(error) for error in ended} == {TimeoutError}
        wait_for(lambda: len(connection._channels) <= before + 1, 10.0, "the channels stay")
        monkeypatch.undo()
        assert client.stats(unique_name).ready == 0


def test_g4_many_reply_queues_are_received_from_at_once(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon one follows the other: only some that are not used any more keep their channels meanwhile."""
    monkeypatch.setattr("qbridge_rabbitmq.consume.watch._EVERY", 0.05)
    monkeypatch.setattr("qbridge_rabbitmq.consume.watch.MOST_UNUSED", 2)
    with client:
        for number in range(5):
            client.declare(f"{unique_name}-{number}")
            assert client.receive(f"{unique_name}-{number}", 1, 0.0) == []
        assert client._broker is not None
        consumers = client._broker.consumers
        last = [f"{unique_name}-{number}" for number in (3, 4)]
        wait_for(lambda: [one.queue for one in consumers.all() if one.channel] == last, 20.0, "all channels stay")


@pytest.mark.parametrize("use", ["received", "consumed"])
def test_g4_queues_that_are_used_no_more_have_no_channels(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """A program may receive from any number of reply queues; one where something is unsettled keeps its channel."""
    monkeypatch.setattr("qbridge_rabbitmq.consume.watch._EVERY", 0.05)
    monkeypatch.setattr("qbridge_rabbitmq.consume.watch.UNUSED", 0.2)
    monkeypatch.setattr("qbridge_rabbitmq.state.round_trips._SETTLING", 0.1)
    names = [f"{unique_name}-{number}" for number in range(5)]

    def receive(name: str) -> Delivery:
        client.publish(name, b"body")
        if use == "consumed":
            client.subscribe(name, 1)
        (delivery,) = client.receive(name, 1, 10.0)
        if use == "consumed":
            client.unsubscribe(name)
        return delivery

    with client:
        held = []
        for name in names:
            client.declare(name)
            held.append(receive(name))
        assert client._broker is not None
        consumers = client._broker.consumers
        for delivery in held[1:]:
            client.ack(delivery)
        wait_for(lambda: [one.queue for one in consumers.all() if one.channel] == names[:1], 20.0, "channels stay")
        client.ack(held[0])
        wait_for(lambda: not any(one.channel for one in consumers.all()), 20.0, "the last channel stays")
        for name in names:  # each has a new one
            client.ack(receive(name))
        assert client.flush()
        assert [client.stats(name).ready + client.stats(name).in_flight for name in names] == [0] * 5


def test_a_receive_that_begins_while_its_channel_is_released_is_answered(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for between the decision to close a channel and its end is asked for on the next one."""
    with client:
        client.declare(unique_name)
        assert client.receive(unique_name, 1, 0.0) == []
        assert client._broker is not None
        consumer = client._broker.consumers.of(unique_name)
        add = Consumer.get

        def get_late(one: Consumer, request: GetRequest) -> None:
            one.release(math.inf)
            assert one.state is State.CLOSING
            monkeypatch.setattr(Consumer, "get", add)
            add(one, request)

        client.publish(unique_name, b"body")
        monkeypatch.setattr(Consumer, "get", get_late)
        channel = consumer.channel
        (delivery,) = client.receive(unique_name, 1, 0.0)
        assert consumer.channel is not channel
        client.ack(delivery)
        assert client.flush()
