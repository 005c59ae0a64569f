"""Connecting, losing the connection, disconnecting: quick, quiet, bounded, and without a trace of the password."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pika.exceptions
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    InvalidURLError,
    NotConnectedError,
    TaskManager,
    TransientError,
    UnknownOptionError,
    connect,
)
from qbridge_rabbitmq import RabbitMQClient
from support.brokers import RabbitMQBroker, free_port
from support.handlers import note, notes
from support.proxy import TCPProxy
from support.wait import wait_for

SECRET = "s3cret-pass"


def threads() -> set[threading.Thread]:
    """The threads that exist now."""
    return set(threading.enumerate())


@pytest.mark.parametrize(
    ("url", "options", "error", "says"),
    [
        ("redis://localhost", {}, InvalidURLError, "amqp"),
        ("amqp://localhost", {"no_such_option": 1}, UnknownOptionError, "heartbeat"),
        ("amqp://localhost?heartbeat=soon", {}, ConfigurationError, "heartbeat"),
        ("amqp://localhost", {"heartbeat": 0}, ConfigurationError, "heartbeat"),
        ("amqp://localhost?heartbeat=nan", {}, ConfigurationError, "heartbeat"),
        ("amqp://localhost", {"heartbeat": 70_000}, ConfigurationError, "65535"),
        ("amqp://localhost", {"prefetch": 10**400}, ConfigurationError, "prefetch"),
        ("amqp://localhost", {"prefetch": 0}, ConfigurationError, "prefetch"),
        ("amqp://localhost", {"prefetch": 70_000}, ConfigurationError, "65535"),
        ("amqp://localhost", {"connect_timeout": -1}, ConfigurationError, "connect_timeout"),
        ("amqp://localhost", {"publish_timeout": True}, ConfigurationError, "publish_timeout"),
        ("amqp://localhost", {"queue_type": "stream"}, ConfigurationError, "quorum"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(
    url: str, options: dict[str, object], error: type[Exception], says: str
) -> None:
    """Settings are checked when the client is made, before anything is connected."""
    with pytest.raises(error, match=says):
        RabbitMQClient(url, **options)


def test_the_scheme_leads_to_the_backend(amqp_url: str, unique_name: str) -> None:
    """``connect("amqp://…")`` finds this backend, and options come from the URL and from keywords."""
    with connect(f"{amqp_url}?heartbeat=5", prefetch=7) as client:
        assert isinstance(client, RabbitMQClient)
        client.declare(unique_name)


def test_g17_wrong_credentials_are_told_at_once_without_the_password(
    amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused login is an AuthenticationError; neither it nor the log nor a repr contains the password."""
    caplog.set_level(logging.DEBUG)
    before = threads()
    client = RabbitMQClient(amqp_url.replace("guest:guest", f"guest:{SECRET}"))
    start = time.monotonic()
    with pytest.raises(AuthenticationError) as caught:
        client.connect()
    assert time.monotonic() - start < 5.0
    chain: BaseException | None = caught.value
    while chain is not None:
        assert SECRET not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__
    assert SECRET not in caplog.text
    assert SECRET not in repr(client)
    assert not client.connected
    wait_for(lambda: threads() <= before, 5.0, "a thread is left")


def test_a_virtual_host_that_does_not_exist_is_told_at_once(amqp_url: str) -> None:
    """The broker's refusal of the virtual host is an AuthenticationError."""
    with pytest.raises(AuthenticationError, match="no-such-vhost"):
        RabbitMQClient(f"{amqp_url}no-such-vhost").connect()


def test_a_broker_that_is_not_there_is_told_at_once() -> None:
    """Nobody listens: BrokerUnavailableError, and the client can be used again later."""
    client = RabbitMQClient(f"amqp://127.0.0.1:{free_port()}/")
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            client.connect()
        assert time.monotonic() - start < 3.0
        with pytest.raises(NotConnectedError):
            client.stats("q")


def test_a_broker_that_does_not_answer_is_told_in_time(amqp_url: str) -> None:
    """A connection that is accepted and then silent ends at the connect timeout, and leaves no thread."""
    before = threads()
    with TCPProxy.to(amqp_url) as proxy:
        proxy.blackhole()
        start = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            RabbitMQClient(proxy.through(amqp_url), connect_timeout=1.0).connect()
        assert time.monotonic() - start < 3.0
    wait_for(lambda: threads() <= before, 5.0, "a thread is left")


def test_g16_disconnect_is_bounded_when_nothing_answers(
    make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """With all bytes vanishing ``disconnect`` still ends, quietly, and so does the thread."""
    before = threads()
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        client.declare(unique_name)
        client.subscribe(unique_name, 5)
        proxy.blackhole()
        start = time.monotonic()
        client.disconnect()
        assert time.monotonic() - start < 5.0
    wait_for(lambda: threads() <= before, 5.0, "a thread is left")


def test_disconnect_is_quick_while_the_connection_is_down(
    make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """A client that is looking for its broker can be closed at once."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        client.declare(unique_name)
        proxy.refuse()
        proxy.reset()
        wait_for(lambda: _down(lambda: client.stats(unique_name)), 5.0, "the loss is noticed")
        start = time.monotonic()
        client.disconnect()
        assert time.monotonic() - start < 1.0


def test_disconnect_ends_a_publish_that_waits(make_client: MakeClient, amqp_url: str, unique_name: str) -> None:
    """Whoever waits for a confirmation is told at once that there will be none."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        client.declare(unique_name)
        proxy.blackhole()
        ended: list[Exception] = []

        def publish() -> None:
            try:
                client.publish(unique_name, b"x", timeout=60.0)
            except Exception as exc:
                ended.append(exc)

        thread = threading.Thread(target=publish)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        client.disconnect()
        thread.join(1.0)
        assert len(ended) == 1
        assert isinstance(ended[0], TransientError | NotConnectedError)


def test_connect_and_disconnect_again_and_again(amqp_url: str, unique_name: str) -> None:
    """A client can be connected anew any number of times and remembers what it declared."""
    before = threads()
    client = RabbitMQClient(amqp_url)
    for n in range(5):
        client.connect()
        if n == 0:
            client.declare(unique_name, f"{unique_name}-dead")
        client.send(unique_name, n)
        (delivery,) = client.receive(unique_name, 1, 10.0)
        client.reject(delivery, requeue=False)
        client.disconnect()
    with client:
        assert client.stats(f"{unique_name}-dead").ready == 5
    wait_for(lambda: threads() <= before, 5.0, "a thread is left")


@pytest.mark.parametrize(("part", "waits"), [("consumers", "take_unread"), ("flushing", "before_closing")])
def test_a_disconnect_that_is_interrupted_leaves_no_connection_open(
    make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch, part: str, waits: str
) -> None:
    """Ctrl-C ends the wait for the broker, and what the client held is delivered to others."""
    client, other = make_client(amqp_url), make_client(amqp_url)
    client.declare(unique_name)
    client.send(unique_name, 1)
    assert client.receive(unique_name, 1, 10.0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(getattr(client._broker, part), waits, interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.disconnect()
    assert other.receive(unique_name, 1, 10.0)


def test_g14_a_silent_connection_is_replaced(make_client: MakeClient, amqp_url: str, unique_name: str) -> None:
    """When the bytes of a subscribed client vanish it notices the silence and consumes on a new connection."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url), heartbeat=1)
        client.declare(unique_name)
        client.subscribe(unique_name, 5)
        proxy.blackhole()
        wait_for(lambda: _down(lambda: client.publish(unique_name, b"x", timeout=0.1)), 10.0, "the loss is noticed")
        proxy.reset()
        proxy.pass_through()
        wait_for(lambda: not _down(lambda: client.publish(unique_name, b"y")), 10.0, "a new connection")
        assert client.receive(unique_name, 1, 10.0)


def test_an_outage_is_told_once_then_again_and_again_and_its_end_too(
    make_client: MakeClient,
    amqp_url: str,
    unique_name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both connections are lost, and come back after many attempts: one warning, reminders, and how long it was."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("qbridge_core.runtime.outage.REMIND_EVERY", 1.0)
    with TCPProxy.to(amqp_url) as proxy:
        address = proxy.through(amqp_url).replace(":guest@", ":***@")

        def told() -> list[logging.LogRecord]:
            # By this client: one of another test may still be on its way out.
            return [record for record in caplog.records if address in record.getMessage()]

        client = make_client(proxy.through(amqp_url), heartbeat=1, reconnect_delay_max=0.2)
        client.declare(unique_name)
        proxy.refuse()
        proxy.reset()
        wait_for(lambda: sum("refused" in record.getMessage() for record in told()) >= 2, 20.0, "it is told again")
        proxy.pass_through()
        wait_for(lambda: not _down(lambda: client.publish(unique_name, b"y")), 10.0, "connected again")
        wait_for(lambda: not _down(lambda: client.stats(unique_name)), 10.0, "connected again")
        wait_for(lambda: told()[-1].levelname == "INFO", 10.0, "its end is told")
        client.disconnect()
    lost, *reminders, back = told()
    assert not any(record.name.startswith("pika") for record in caplog.records), "pika's own errors add nothing"
    assert lost.message.startswith(f"lost the connection to {address}: ")
    assert {lost.levelname, *(record.levelname for record in reminders)} == {"WARNING"}
    assert all("no connection" in record.message for record in reminders)
    assert "refused" in reminders[-1].message, "the reason of the last attempt"
    assert "again, after" in back.message


@pytest.mark.parametrize("how", ["blackhole", "suspended"])
def test_g16_a_stop_is_short_when_the_broker_does_not_answer(
    request: pytest.FixtureRequest, make_client: MakeClient, unique_name: str, how: str
) -> None:
    """What a worker waits for at its end takes three seconds at most, with messages held and acknowledgements due."""
    broker: RabbitMQBroker | None = request.getfixturevalue("private_rabbitmq") if how == "suspended" else None
    url: str = broker.url if broker else request.getfixturevalue("amqp_url")
    with TCPProxy.to(url) as proxy:
        client = make_client(proxy.through(url))
        client.declare(unique_name)
        client.send_many(unique_name, range(500))
        client.subscribe(unique_name, 300)
        for delivery in client.receive(unique_name, 20, 10.0)[:10]:
            client.ack(delivery)
        wait_for(lambda: client.stats(unique_name).in_flight > 200, 10.0, "messages are held")
        if broker:
            broker.suspend()
        else:
            proxy.blackhole()
        start = time.monotonic()
        client.unsubscribe(unique_name)
        assert not client.flush(0.1)
        begun = time.monotonic()
        client.disconnect()
        assert time.monotonic() - begun < 1.5
        assert time.monotonic() - start < 3.0
        if broker:
            broker.resume()


@pytest.mark.parametrize("how", ["record factory", "descriptors", "callback", "base exception"])
def test_g20_the_clients_thread_survives_whatever_happens_in_it(
    make_client: MakeClient,
    amqp_url: str,
    unique_name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """An error where nobody expects one costs the connection, is told once, and the client works on."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url), reconnect_delay_max=0.2)
        client.declare(unique_name)
        client.subscribe(unique_name, 5)
        client.publish(unique_name, b"1")
        client.ack(client.receive(unique_name, 1, 10.0)[0])
        session = client._broker
        assert session is not None
        broken = threading.Event()
        if how == "record factory":
            usual = logging.getLogRecordFactory()

            def factory(*args: object, **kwargs: object) -> logging.LogRecord:
                if threading.current_thread().name.startswith("qbridge-rabbitmq") and not broken.is_set():
                    raise KeyError("task_id")
                return usual(*args, **kwargs)

            logging.setLogRecordFactory(factory)
            try:
                proxy.reset()  # pika has much to say about that
                wait_for(lambda: _down(lambda: client.publish(unique_name, b"2")), 10.0, "the loss is noticed")
            finally:
                broken.set()
                logging.setLogRecordFactory(usual)
        elif how == "descriptors":
            os.close(session.io.ioloop._poller._poll.fileno())  # type: ignore[attr-defined]
        else:
            error: BaseException = SystemExit("no more") if how == "base exception" else RuntimeError("no more")

            def fail() -> None:
                raise error

            session.io.post(fail)
        wait_for(lambda: not _down(lambda: client.publish(unique_name, b"3")), 20.0, "publishing works")
        wait_for(lambda: client.receive(unique_name, 1, 5.0), 20.0, "consuming works")
        assert client.connected
        told = [record for record in caplog.records if "in the client's own thread" in record.message]
        assert len(told) <= 1 if how == "record factory" else len(told) == 1


def test_g20_a_client_whose_thread_has_ended_says_so(make_client: MakeClient, amqp_url: str, unique_name: str) -> None:
    """It is not connected any more, each call says what to do, and it can be connected anew."""
    client = make_client(amqp_url)
    client.declare(unique_name)
    session = client._broker
    assert session is not None
    session.io.post(session.io.stop)
    wait_for(lambda: not client.connected, 10.0, "it is noticed")
    with pytest.raises(NotConnectedError, match=r"has ended.*connect\(\)"):
        client.publish(unique_name, b"x")
    client.connect()
    client.publish(unique_name, b"x")


def test_a_child_process_cannot_use_the_parents_connection(client: RabbitMQClient, unique_name: str) -> None:
    """After a fork the client says so, and can be connected anew in the child; the parent's goes on."""
    client.declare(unique_name)
    client.publish(unique_name, b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is just what is tested
        pid = os.fork()
    if pid == 0:
        os._exit(_in_child(client, unique_name))
    assert os.waitpid(pid, 0)[1] == 0
    (delivery,) = client.receive(unique_name, 1, 10.0)
    client.ack(delivery)
    assert client.flush()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open descriptors")
def test_a_forked_child_keeps_nothing_of_the_parents_connections(
    make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """It has none of their descriptors, so that they end with the parent; and the parent's work on undisturbed."""
    before = open_descriptors()
    client = make_client(amqp_url)
    client.declare(unique_name)
    client.subscribe(unique_name, 5)
    assert open_descriptors() - before, "the test would prove nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(1 if open_descriptors() - before else 0)
    assert os.waitpid(pid, 0)[1] == 0
    session = client._broker
    assert session is not None
    client.publish(unique_name, b"x")
    client.ack(client.receive(unique_name, 1, 10.0)[0])
    assert client.flush()
    assert session.connections.times_connected == 1


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open descriptors")
def test_g3_a_handler_that_forks_and_returns_disturbs_no_connection(
    make_client: MakeClient, amqp_url: str, unique_name: str, tmp_path: Path
) -> None:
    """The copy has none of the worker's sockets and ends with the handler; the worker goes on with its connections."""
    before, children, path = open_descriptors(), list[int](), str(tmp_path / "notes")

    def handler(payload: object) -> None:
        if payload == "work":
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child:
            children.append(child)
        else:
            note(path, f"{(open_descriptors() - before).total()} kept")

    client = make_client(amqp_url)
    with TaskManager(client, handler, unique_name, f"{unique_name}.dead", max_workers=1) as manager:
        client.send(unique_name, "fork")
        wait_for(lambda: children, 20.0, "it has forked")
        _, ended = os.waitpid(children[0], 0)
        client.send(unique_name, "work")
        report = manager.run_until_idle(20.0)
    session = client._broker
    assert session is not None
    assert session.connections.times_connected == 1
    assert str(report) == "2 succeeded"
    assert notes(path) == ["0 kept"]
    assert os.waitstatus_to_exitcode(ended) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open descriptors")
@pytest.mark.parametrize("stage", ["TCP", "TLS"])
def test_a_forked_child_keeps_nothing_of_a_connection_that_is_being_made(stage: str) -> None:
    """Neither when the server has not taken the connection yet, nor in the middle of the handshake of TLS."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        port = server.getsockname()[1]
        if stage == "TCP":
            for _ in range(3):  # nobody accepts them, so there is no room for another one
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
        before = open_descriptors()
        client = RabbitMQClient(f"amqps://127.0.0.1:{port}", connect_timeout=5.0)

        def connect_in_vain() -> None:
            with suppress(BrokerUnavailableError):
                client.connect()

        connecting = threading.Thread(target=connect_in_vain)
        connecting.start()
        wait_for(lambda: (open_descriptors() - before).total() == 5, 4.0, "the loop has three, each connection one")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os._exit(1 if open_descriptors() - before else 0)
        assert os.waitpid(pid, 0)[1] == 0
        connecting.join()
        client.disconnect()


def open_descriptors() -> Counter[str]:
    """What this process has open: sockets by their number, epoll sets by how many there are."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{name}")] += 1
    return Counter({what: n for what, n in found.items() if what.startswith(("socket:", "anon_inode:[eventpoll]"))})


def _in_child(client: RabbitMQClient, queue: str) -> int:
    try:
        if client.connected:
            return 1
        calls: list[Callable[[], object]] = [
            lambda: client.stats(queue),
            lambda: client.publish(queue, b"y"),
            lambda: client.receive(queue, 1, 0.1),
            lambda: client.subscribe(queue, 1),
        ]
        for call in calls:
            try:
                call()
            except NotConnectedError as exc:
                if "call connect() in this process" not in str(exc):
                    return 2
            else:
                return 3
        client.disconnect()  # must not touch the parent's connections
        with client:
            return 0 if client.stats(queue).ready == 1 else 4
    except BaseException:
        return 5


@pytest.mark.faults
def test_g14_a_regular_restart_of_the_broker_is_survived(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """Stop and start: the subscribed client consumes again within 5 seconds after the broker is back."""
    client = make_client(private_rabbitmq.url, queue_type="classic")
    client.declare(unique_name)
    client.subscribe(unique_name, 5)
    client.send(unique_name, 1)
    client.ack(client.receive(unique_name, 1, 10.0)[0])
    assert client.flush()
    private_rabbitmq.restart()
    back = time.monotonic()
    wait_for(lambda: not _down(lambda: client.send(unique_name, 2)), 10.0, "publishing works")
    assert client.receive(unique_name, 1, 10.0)
    assert time.monotonic() - back < 5.0


def _down(call: Callable[[], object]) -> bool:
    try:
        call()
    except TransientError:
        return True
    return False


def test_g20_a_request_on_a_closing_connection_hurts_nobody_but_its_caller(
    make_client: MakeClient, amqp_url: str, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is asked for between the decision to close and the end is refused; the client's thread has no trouble."""
    client = make_client(amqp_url)
    client.declare(unique_name)
    broker = client._broker
    assert broker is not None
    requests = broker.requests
    asked: Future[object] = Future()

    def close_and_ask() -> None:
        connection = requests._connection
        assert connection is not None
        requests._channel = None
        connection.close()
        requests.submit(nothing(), asked)

    def nothing() -> Generator[Any, Any, None]:
        yield lambda channel, answered: answered(None)

    broker.io.post(close_and_ask)
    assert isinstance(asked.exception(10.0), pika.exceptions.AMQPError)
    wait_for(lambda: not _down(lambda: client.stats(unique_name)), 20.0, "it is connected again")
    assert "own thread" not in caplog.text
