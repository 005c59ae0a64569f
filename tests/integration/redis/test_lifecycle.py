"""Connecting, disconnecting, and everything that may happen while another thread waits."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from integration.redis.helpers import Background, MakeClient, is_blocked, take
from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    InvalidURLError,
    NotConnectedError,
    UnknownOptionError,
)
from qbridge_redis import RedisClient
from qbridge_redis.recovery.maintenance import Maintenance
from support.brokers import RedisBroker, free_port
from support.proxy import TCPProxy
from support.wait import wait_for


def test_unsubscribe_wakes_a_blocked_receive_at_once(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """It returns an empty list long before its timeout, and the next receive works."""
    waiting = Background(lambda: own_client.receive(queue, 1, 30.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    begin = time.monotonic()
    own_client.unsubscribe(queue)
    assert waiting.result() == []
    assert time.monotonic() - begin < 0.5
    own_client.publish(queue, b"x")
    assert take(own_client, queue).body == b"x"


def test_unsubscribe_loses_nothing_that_is_just_arriving(own_client: RedisClient, queue: str) -> None:
    """Waking a read while messages come in never strands one."""
    for number in range(60):
        waiting = Background(lambda: own_client.receive(queue, 1, 30.0))
        publishing = Background(lambda: own_client.publish(queue, b"x"))
        own_client.unsubscribe(queue)
        publishing.result()
        if number % 2:
            own_client.unsubscribe(queue)
        wait_for(lambda w=waiting: not w.running or own_client.unsubscribe(queue), 5.0)  # type: ignore[misc]
        for delivery in waiting.result() or own_client.receive(queue, 1, 1.0):
            own_client.ack(delivery)
    assert own_client.flush()
    stats = own_client.stats(queue)
    assert (stats.ready, stats.in_flight) == (0, 0)


def test_disconnect_ends_a_blocked_receive_at_once(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """The other thread gets NotConnectedError."""
    waiting = Background(lambda: own_client.receive(queue, 1, 30.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    begin = time.monotonic()
    own_client.disconnect()
    with pytest.raises(NotConnectedError):
        waiting.result()
    assert time.monotonic() - begin < 1.0


def test_disconnect_is_quick_when_the_server_is_gone(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """Neither unsent acknowledgements nor held deliveries keep it."""
    own_client.publish(queue, b"a")
    own_client.publish(queue, b"b")
    own_client.ack(own_client.receive(queue, 2, 5.0)[0])
    broker.kill()
    begin = time.monotonic()
    own_client.disconnect()
    own_client.disconnect()
    assert time.monotonic() - begin < 6.0


def test_g16_disconnect_is_bounded_when_the_server_is_silent(
    own_client: RedisClient, broker: RedisBroker, queue: str
) -> None:
    """Also with a blocked receive and unsent acknowledgements."""
    before = threading.active_count()
    own_client.publish(queue, b"a")
    delivery = take(own_client, queue)
    waiting = Background(lambda: own_client.receive(queue, 1, 30.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    broker.suspend()
    own_client.ack(delivery)
    begin = time.monotonic()
    own_client.disconnect()
    assert time.monotonic() - begin < 7.0
    with pytest.raises(NotConnectedError):
        waiting.result()
    broker.resume()
    wait_for(lambda: threading.active_count() <= before, 5.0, "a thread is left")


def test_no_thread_and_no_connection_is_left(make_client: MakeClient, broker: RedisBroker, queue: str) -> None:
    """Ten rounds of connecting, working and disconnecting leave the process and the server as they were."""
    threads = set(threading.enumerate())
    for _ in range(10):
        client = make_client(broker.url)
        client.declare(queue)
        client.publish(queue, b"x")
        client.ack(take(client, queue))
        client.disconnect()
    assert set(threading.enumerate()) == threads
    wait_for(lambda: "connected_clients:1\r" in str(broker.cli("INFO", "clients")), 5.0)


def test_a_thread_that_connects_while_the_client_disconnects_leaves_no_connection(
    make_client: MakeClient, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server may take longer for a handshake than the disconnect waits for it."""
    waits, go_on = threading.Event(), threading.Event()
    connect = Maintenance._connect

    def late(maintenance: Maintenance) -> None:
        waits.set()
        go_on.wait(30.0)
        connect(maintenance)

    monkeypatch.setattr(Maintenance, "_connect", late)
    before = set(threading.enumerate())
    client = make_client(broker.url)
    assert waits.wait(10.0)
    client.disconnect()
    go_on.set()
    wait_for(lambda: set(threading.enumerate()) <= before, 10.0, "a thread is left")
    wait_for(lambda: "connected_clients:1\r" in str(broker.cli("INFO", "clients")), 5.0, "a connection is left")
    assert not client.connected


def test_a_client_can_connect_again(client: RedisClient, queue: str) -> None:
    """What it held before belongs to the server; its old deliveries cannot be settled any more."""
    client.publish(queue, b"x")
    old = take(client, queue)
    client.disconnect()
    with pytest.raises(NotConnectedError):
        client.ack(old)
    client.connect()
    assert client.connected
    new = take(client, queue)
    assert new.body == b"x"
    client.ack(new)
    assert client.flush()


@pytest.mark.parametrize("password", ["", "wrong-secret"])
def test_a_wrong_password_is_an_authentication_error(
    make_client: MakeClient, broker: RedisBroker, password: str
) -> None:
    """At connect it is final, whether it is wrong or missing, and it is not in the message."""
    broker.cli("CONFIG", "SET", "requirepass", "right-secret")
    url = f"redis://:{password}@{broker.host}:{broker.port}/0"
    with pytest.raises(AuthenticationError) as caught:
        RedisClient(url).connect()
    assert "secret" not in str(caught.value)
    make_client(f"redis://:right-secret@{broker.host}:{broker.port}/0")


def test_g17_passwords_are_never_shown(redis_url: str) -> None:
    """Neither by repr nor by an error of the connection."""
    client = RedisClient(f"redis://user:top-secret@127.0.0.1:{free_port()}/0")
    assert "secret" not in repr(client)
    with pytest.raises(BrokerUnavailableError) as caught:
        client.connect()
    assert "secret" not in str(caught.value)


def test_a_server_that_evicts_queues_is_refused(broker: RedisBroker) -> None:
    """The message says which setting to change."""
    broker.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigurationError, match="noeviction"):
        RedisClient(broker.url).connect()


def test_a_server_without_persistence_gets_a_warning(
    make_client: MakeClient, broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is used, and one line says what may be lost."""
    broker.cli("CONFIG", "SET", "appendonly", "no")
    with caplog.at_level(logging.WARNING, "qbridge.redis"):
        make_client(broker.url)
    assert [record.message for record in caplog.records if "appendonly" in record.message]


def test_a_silent_server_does_not_hold_connect(tcp_proxy: Callable[[str], TCPProxy], redis_url: str) -> None:
    """The timeouts of the options bound it."""
    proxy = tcp_proxy(redis_url)
    proxy.blackhole()
    begin = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        RedisClient(proxy.through(redis_url), connect_timeout=0.3, socket_timeout=0.3).connect()
    assert time.monotonic() - begin < 2.0


def test_a_user_with_few_permissions_is_enough(make_client: MakeClient, broker: RedisBroker, queue: str) -> None:
    """Neither CLIENT nor INFO nor CONFIG is needed."""
    commands = (
        "+xadd +xreadgroup +xack +xdel +xrange +xrevrange +xlen +xpending +xclaim +xautoclaim +xinfo +xgroup +exists "
        "+zadd +zrange +zrem +zcard +eval +evalsha +time +select"
    )
    broker.cli("ACL", "SETUSER", "worker", "on", ">pw", "~*", "-@all", *commands.split())
    client = make_client(f"redis://worker:pw@{broker.host}:{broker.port}/0")
    client.declare(queue)
    client.publish(queue, b"x")
    waiting = Background(lambda: client.receive(queue, 1, 5.0))
    client.ack(waiting.result()[0])
    assert client.flush()
    waiting = Background(lambda: client.receive(queue, 1, 30.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    client.unsubscribe(queue)
    assert waiting.result(3.0) == []


def test_a_missing_permission_is_an_authentication_error(make_client: MakeClient, broker: RedisBroker) -> None:
    """Of a command, and of one inside a script."""
    broker.cli("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-xadd", "-xgroup")
    client = make_client(f"redis://reader:pw@{broker.host}:{broker.port}/0")
    with pytest.raises(AuthenticationError):
        client.publish("q", b"x")
    with pytest.raises(AuthenticationError):
        client.declare("q")


def test_a_child_process_cannot_use_the_parents_connection(client: RedisClient, queue: str) -> None:
    """After a fork the client says so, and can be connected anew in the child."""
    client.publish(queue, b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is just what is tested
        pid = os.fork()
    if pid == 0:
        os._exit(_in_child(client, queue))
    assert os.waitpid(pid, 0)[1] == 0
    assert take(client, queue).body == b"x"


def _in_child(client: RedisClient, queue: str) -> int:
    try:
        client.disconnect()  # must not touch the parent's connections
        if client.connected:
            return 1
        try:
            client.stats(queue)
        except NotConnectedError:
            client.connect()
            return 0 if client.stats(queue).ready == 1 else 2
    except BaseException:
        return 3
    return 4


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate for localhost and the authority that signed it."""
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return tmp_path


def test_g17_tls(make_client: MakeClient, broker: RedisBroker, certificates: Path, queue: str) -> None:
    """`rediss://` talks TLS, checks the server's certificate, and refuses one that it cannot trust."""
    port = free_port()
    cert, key, authority = (str(certificates / name) for name in ("cert.pem", "key.pem", "ca.pem"))
    broker.cli("CONFIG", "SET", "tls-cert-file", cert, "tls-key-file", key, "tls-ca-cert-file", authority)
    broker.cli("CONFIG", "SET", "tls-auth-clients", "no", "tls-port", port)
    client = make_client(f"rediss://localhost:{port}/0", cafile=authority)
    client.declare(queue)
    for number in range(3):
        client.publish(queue, b"%d" % number)
    for delivery in client.receive(queue, 3, 5.0):
        client.ack(delivery)
    assert client.flush()
    with pytest.raises(BrokerUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        RedisClient(f"rediss://localhost:{port}/0").connect()


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("amqp://localhost", {}, InvalidURLError),
        ("redis://localhost/queue", {}, InvalidURLError),
        ("redis://localhost:99999/0", {}, InvalidURLError),
        ("redis://localhost/0?leese=5", {}, UnknownOptionError),
        ("redis://localhost", {"cafile": "x"}, UnknownOptionError),
        ("redis://localhost", {"lease": 0.1}, ConfigurationError),
        ("redis://localhost", {"lease": "long"}, ConfigurationError),
        ("redis://localhost?publish_timeout=nan", {}, ConfigurationError),
        ("redis://localhost", {"socket_timeout": True}, ConfigurationError),
        ("redis://localhost", {"group": ""}, ConfigurationError),
        ("redis://localhost", {"prefix": 1}, ConfigurationError),
        ("rediss://localhost?cafile=", {}, ConfigurationError),
    ],
)
def test_wrong_settings_are_refused_when_the_client_is_made(
    url: str, options: dict[str, object], error: type[Exception]
) -> None:
    """Not when they first matter."""
    with pytest.raises(error):
        RedisClient(url, **options)


def test_g4_queues_that_are_asked_once_share_a_connection(
    make_client: MakeClient, broker: RedisBroker, queue: str
) -> None:
    """However many reply queues a program asks, its connections stay as many; only a worker's queue keeps its own."""
    client = make_client(broker.url)
    for number in range(30):
        name = f"{queue}-{number}"
        client.declare(name)
        client.publish(name, b"x")
        client.ack(take(client, name))
        if number == 2:
            assert client.flush()
            before = _connections(broker)
    assert client.flush()
    assert _connections(broker) <= before + 1
    client.subscribe(queue, 1)
    client.unsubscribe(queue)


def _connections(broker: RedisBroker) -> int:
    """How many clients the server has."""
    listed = broker.cli("CLIENT", "LIST")
    return len(str(listed).splitlines())


def test_another_consumer_group_of_a_queue_is_warned_of_once(
    make_client: MakeClient, client: RedisClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two programs with other settings would each run every task, and nothing else would say so."""
    other = make_client(group="other")
    with caplog.at_level(logging.WARNING, "qbridge.redis"):
        client.declare(queue)
        assert not caplog.records
        other.declare(queue)
        other.declare(queue)
    (text,) = [record.getMessage() for record in caplog.records]
    assert f"queue {queue!r} has other consumer groups, 'qbridge'" in text
    assert "tasks run twice" in text
    assert "this one has 'other'" in text
