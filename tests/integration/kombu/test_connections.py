"""Connections of the kombu backend: one thread for each, found again when lost, and no task run twice for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from integration.kombu.conftest import MakeClient
from qbridge_core import BrokerUnavailableError, Message, PublishUnconfirmedError, TaskManager
from qbridge_kombu import KombuClient
from support.proxy import TCPProxy
from support.wait import wait_for


def own_threads() -> list[str]:
    """The names of the backend's threads."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("qbridge-kombu"))


def test_many_callers_share_two_connections(make_client: MakeClient, amqp: str, queue: str) -> None:
    """A channel of kombu's is used by the thread that owns it, however many publish and settle."""
    before = own_threads()
    client = make_client(amqp)
    client.declare(queue)
    threads = [threading.Thread(target=client.send, args=(queue, number)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deliveries = [client.receive(queue, 1, 10.0)[0] for _ in range(16)]
    acks = [threading.Thread(target=client.ack, args=(delivery,)) for delivery in deliveries]
    for thread in acks:
        thread.start()
    for thread in acks:
        thread.join()
    assert client.flush()
    new = own_threads()
    for name in before:
        new.remove(name)
    assert new == ["qbridge-kombu-receiver", "qbridge-kombu-sender"]


@pytest.mark.parametrize("ends", ["after the broker has noticed", "before"])
def test_a_cut_runs_no_task_twice(
    make_client: MakeClient, amqp: str, tcp_proxy: Callable[[str], TCPProxy], queue: str, ends: str
) -> None:
    """What the broker delivers again is recognized, whether its acknowledgement was not sent or went into the void."""
    proxy = tcp_proxy(amqp)
    client, direct = make_client(proxy.through(amqp), request_timeout=2.0), make_client(amqp)
    direct.declare(queue, f"{queue}-dead")
    runs: Counter[int] = Counter()
    lock, all_run, go_on = threading.Lock(), threading.Event(), threading.Event()

    def handler(payload: int) -> None:
        with lock:
            runs[payload] += 1
            if len(runs) == 3:
                all_run.set()
        go_on.wait(20.0)

    direct.send_many(queue, range(3))
    with TaskManager(client, handler, queue, f"{queue}-dead", max_workers=3):
        assert all_run.wait(20.0)
        proxy.reset()
        if ends != "before":
            wait_for(lambda: direct.stats(queue).ready == 3, 20.0, "the broker does not notice the cut")
        go_on.set()
        wait_for(lambda: client.stats(queue).in_flight == 0 and client.flush(), 20.0, "the tasks are not settled")
        direct.send(queue, 3)
        wait_for(lambda: 3 in runs and direct.stats(queue).ready == 0, 20.0, "the worker does not go on")
    assert runs == {0: 1, 1: 1, 2: 1, 3: 1}
    assert direct.stats(f"{queue}-dead").ready == 0


def test_a_call_that_hangs_costs_its_connection_and_no_other_call(make_client: MakeClient, queue: str) -> None:
    """A driver without timeouts is left alone with its thread; the next call has a new connection."""
    client = make_client("kombu+memory://", allow_loss=True, request_timeout=0.3)
    client.declare(queue)
    transport, release = client._transport, threading.Event()
    real = transport.size
    calls: list[int] = []

    def hang_once(session: object, name: str) -> int:
        calls.append(1)
        if len(calls) == 1:
            release.wait(20.0)
        return real(session, name)  # type: ignore[arg-type]

    transport.size = hang_once  # type: ignore[method-assign]
    try:
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            client.stats(queue)
        assert client.stats(queue).ready == 0
    finally:
        release.set()


def test_a_publish_that_was_begun_and_failed_may_have_arrived(make_client: MakeClient, queue: str) -> None:
    """It is not repeated behind its caller's back, as kombu's ``ensure`` does; one that was not begun is not there."""
    client = make_client("kombu+memory://", allow_loss=True)
    client.declare(queue)
    transport, published = client._transport, []

    def fail(session: object, name: str, messages: object, timeout: float) -> None:
        published.append(name)
        raise OSError("the connection was lost")

    transport.publish = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(PublishUnconfirmedError) as caught:
        client.publish(queue, b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert published == [queue]


def test_waiting_costs_little(make_client: MakeClient, amqp: str, queue: str) -> None:
    """An idle client asks its broker a few times a second, however long it waits."""
    client = make_client(amqp, poll_interval=0.2)
    client.declare(queue)
    client.receive(queue, 1, 0.5)
    asked: list[float] = []
    real = client._transport.receive

    def count(session: object, name: str, number: int, wait: float) -> object:
        asked.append(time.monotonic())
        return real(session, name, number, wait)  # type: ignore[arg-type]

    client._transport.receive = count  # type: ignore[method-assign, assignment]
    assert client.receive(queue, 1, 2.0) == []
    assert 8 <= len(asked) <= 20


def test_a_client_that_was_not_connected_starts_no_thread() -> None:
    """Making one costs nothing."""
    before = own_threads()
    KombuClient("kombu+amqp://localhost")
    assert own_threads() == before


def test_a_connection_that_was_lost_is_not_made_anew_to_be_ended(make_client: MakeClient, amqp: str) -> None:
    """py-amqp connects when a property of a connection is asked for that has been given up, and warns of that."""
    broker = make_client(amqp)._connected().context.broker
    session = broker.open()
    session.raw.collect()
    broker.transport.interrupt(session)
    assert not session.raw.connected


@pytest.mark.parametrize("queue_type", [None, "classic"])
def test_a_disconnect_delivers_no_message_of_a_classic_queue(
    make_client: MakeClient, amqp: str, queue: str, queue_type: str | None
) -> None:
    """Only a quorum queue is asked for one, to apply what was acknowledged; it comes back as one that was delivered."""
    options = {} if queue_type is None else {"queue_type": queue_type}
    client, other = make_client(amqp, **options), make_client(amqp)
    client.declare(queue)
    client.publish_many(queue, [Message(b"%d" % number) for number in range(40)])
    for delivery in client.receive(queue, 39, 10.0):
        client.ack(delivery)
    client.disconnect()
    (left,) = other.receive(queue, 10, 10.0)
    assert (left.body, left.redelivered, left.suspected) == (b"39", False, False)


def test_a_disconnect_that_is_interrupted_leaves_no_connection_open(
    make_client: MakeClient, amqp: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the wait for the broker, and what the client held is delivered to others."""
    client, other = make_client(amqp), make_client(amqp)
    client.declare(queue)
    client.send(queue, 1)
    assert client.receive(queue, 1, 10.0)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client._connected().settling, "stop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.disconnect()
    assert other.receive(queue, 1, 10.0)
