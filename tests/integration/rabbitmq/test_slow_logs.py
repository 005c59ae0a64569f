"""A quorum queue whose log stands still for a while: what was settled meanwhile stays settled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_core import Delivery, Message, QueueClient, connect
from qbridge_kombu.transports.amqp import AMQPTransport
from qbridge_kombu.transports.session import KombuSession
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.dead_letters import browse
from support.wait import wait_for

_SUSPEND = """
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
{{Name, _}} = amqqueue:get_pid(Queue), Caller = self(),
spawn(fun() -> true = erlang:suspend_process(whereis(Name)), Caller ! suspended,
    (fun Wait() -> case filelib:is_file("{gate}") of true -> timer:sleep(10), Wait(); false -> ok end end)() end),
receive suspended -> ok end.
"""
"""A process that another one has suspended goes on when that one ends."""
_PASSED_ON = 33
Hold = Callable[[str], AbstractContextManager[Callable[[], None]]]


@pytest.fixture
def hold(managed: ManagedRabbitMQ, tmp_path: Path) -> Hold:
    """`with hold(queue) as release`: its log takes nothing from then on."""

    @contextmanager
    def held(queue: str) -> Iterator[Callable[[], None]]:
        gate = tmp_path / "gate"
        gate.touch()
        try:
            managed.evaluate(_SUSPEND.format(queue=queue, gate=gate))
            yield gate.unlink
        finally:
            gate.unlink(missing_ok=True)

    return held


@pytest.fixture
def client(make_client: MakeClient, managed: ManagedRabbitMQ) -> RabbitMQClient:
    """A client of the node whose logs stand still."""
    return make_client(managed.url)


def consume(client: RabbitMQClient, queue: str, count: int) -> list[Delivery]:
    """Messages that a consumer has brought, which has ended since."""
    client.subscribe(queue, count)
    taken = receive(client, queue, count)
    client.unsubscribe(queue)
    return taken


def receive(client: QueueClient, queue: str, count: int) -> list[Delivery]:
    """So many messages."""
    taken: list[Delivery] = []
    wait_for(lambda: taken.extend(client.receive(queue, count - len(taken), 0.1)) or len(taken) == count, 30.0)
    return taken


def in_background(call: Callable[[], Any], waits: Callable[[], bool], release: Callable[[], None]) -> None:
    """Let the log go on when the call waits for it, or is over."""
    thread = threading.Thread(target=call)
    thread.start()
    try:
        wait_for(lambda: not thread.is_alive() or waits(), 20.0)
    finally:
        release()
        thread.join()


def disconnect_held_back(client: RabbitMQClient, hold: Hold, queue: str, taken: Sequence[Delivery]) -> None:
    """Acknowledge all but the first while the queue's log stands still, and disconnect."""
    with hold(queue) as release:
        for delivery in taken[1:]:
            client.ack(delivery)
        consumer = client._live().consumers.of(queue)
        in_background(client.disconnect, lambda: consumer.is_getting, release)


def left(url: str, queue: str) -> list[tuple[bytes, bool]]:
    """What is in a queue, and whether it was delivered before."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel, found = connection.channel(), []
        while (got := channel.basic_get(queue))[0] is not None:
            found.append((got[2], got[0].redelivered))
        return found
    finally:
        connection.close()


def test_what_was_acknowledged_before_a_disconnect_is_gone(
    client: RabbitMQClient, managed: ManagedRabbitMQ, hold: Hold, unique_name: str
) -> None:
    """The channel keeps most acknowledgements back, and the client disconnects when it has passed them on."""
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(3 * _PASSED_ON)])
    taken = consume(client, unique_name, 3 * _PASSED_ON)
    disconnect_held_back(client, hold, unique_name, taken)
    assert left(managed.url, unique_name) == [(b"0", True)]


def test_the_message_that_is_taken_for_that_goes_back_as_new(
    client: RabbitMQClient, managed: ManagedRabbitMQ, hold: Hold, unique_name: str
) -> None:
    """The queue answers with its next message, whose copy goes to its end."""
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(3 * _PASSED_ON)])
    client.publish_many(unique_name, [Message(b"next"), Message(b"after that")])
    taken = consume(client, unique_name, 3 * _PASSED_ON)
    disconnect_held_back(client, hold, unique_name, taken)
    assert left(managed.url, unique_name) == [(b"0", True), (b"after that", False), (b"next", False)]


def test_a_flush_says_no_while_a_channel_keeps_something_back(
    client: RabbitMQClient, managed: ManagedRabbitMQ, hold: Hold, unique_name: str
) -> None:
    """The channel answers all the time, and the log does not; what a flush has confirmed no lost connection undoes."""
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(3 * _PASSED_ON)])
    taken = consume(client, unique_name, 3 * _PASSED_ON)
    with hold(unique_name) as release:
        for delivery in taken[1:]:
            client.ack(delivery)
        assert not client.flush(0.3)
        release()
        assert client.flush(20.0)
    managed.close_connections()
    wait_for(lambda: left(managed.url, unique_name) == [(b"0", True)])


def test_a_disconnect_does_not_wait_for_ever(
    client: RabbitMQClient, hold: Hold, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that stands still is left after a while, with a warning."""
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(2 * _PASSED_ON)])
    taken = consume(client, unique_name, 2 * _PASSED_ON)
    with hold(unique_name):
        for delivery in taken[1:]:
            client.ack(delivery)
        client.disconnect()
    assert "some tasks may run again" in caplog.text


def test_letters_that_were_removed_are_gone_and_the_others_in_their_order(
    client: RabbitMQClient, managed: ManagedRabbitMQ, hold: Hold, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that go back wait until the channel has passed on what was removed, and so does the letter behind them."""
    client.declare(unique_name)
    bodies = [b"%03d" % number for number in range(3 * _PASSED_ON)]
    client.publish_many(unique_name, map(Message, [*bodies, b"next", b"after that"]))
    broker = client._live()
    made: list[Consumer] = []
    new = broker.consumers.new
    monkeypatch.setattr(broker.consumers, "new", lambda *given: made.append(new(*given)) or made[-1])
    holding = browse.Held(broker, client._declarations, unique_name)
    (page,) = holding.pages(len(bodies))
    with hold(unique_name) as release:
        for arrival in page[::2]:
            holding.remove(arrival)
        in_background(holding.give_back, lambda: any(consumer.is_getting for consumer in made), release)
    assert [body for body, _ in left(managed.url, unique_name)] == [*bodies[1::2], b"next", b"after that"]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [("?queue_type=quorum", None), ("", {}), ("", {"x-dead-letter-exchange": "amq.fanout"})],
    ids=["the client's own", "another program's", "another program's with a dead-letter route"],
)
def test_what_was_acknowledged_through_kombu_is_gone(
    managed: ManagedRabbitMQ,
    hold: Hold,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    arguments: dict[str, Any] | None,
) -> None:
    """Its channel waits, too, whoever has made the queue."""
    closes = threading.Event()
    closing = AMQPTransport.closing

    def observed(transport: AMQPTransport, session: KombuSession) -> None:
        closes.set()
        closing(transport, session)

    monkeypatch.setattr(AMQPTransport, "closing", observed)
    if arguments is not None:
        with pika.BlockingConnection(pika.URLParameters(managed.url)) as connection:
            arguments = {"x-queue-type": "quorum", **arguments}
            connection.channel().queue_declare(unique_name, durable=True, arguments=arguments)
    client = connect(f"kombu+{managed.url}{options}")
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(2 * _PASSED_ON)])
    taken = receive(client, unique_name, 2 * _PASSED_ON)
    with hold(unique_name) as release:
        for delivery in taken:
            client.ack(delivery)
        in_background(client.disconnect, closes.is_set, release)
    assert left(managed.url, unique_name) == []
