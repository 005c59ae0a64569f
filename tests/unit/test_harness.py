"""The harness of the tests: what the other tests rely on."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pika
import pytest

from support.brokers import (
    BrokerError,
    Kept,
    RabbitMQBroker,
    RedisBroker,
    amqp_answers,
    free_port,
    redis_answers,
    redis_command,
    start_new,
)
from support.proxy import TCPProxy
from support.sweeping import NAME, Sweeper
from support.wait import wait_for

MakeProxy = Callable[[str], TCPProxy]


class Upstream:
    """A listening socket whose accepted connections the test holds."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.url = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """Wait for the proxy's connection."""
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        self.accepted.append(connection)
        return connection

    def close(self) -> None:
        """Close every socket."""
        for each in (self.listener, *self.accepted):
            each.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A server behind the proxy."""
    with closing(Upstream()) as server:
        yield server


def dial(proxy: TCPProxy) -> socket.socket:
    """Connect to the proxy."""
    return socket.create_connection((proxy.host, proxy.port), timeout=5)


def test_proxy_passes_bytes_and_the_end_in_both_directions(upstream: Upstream, tcp_proxy: MakeProxy) -> None:
    """A proxy that passes is invisible, up to the close of a connection."""
    proxy = tcp_proxy(upstream.url)
    with dial(proxy) as client:
        server = upstream.accept()
        client.sendall(b"ping")
        assert server.recv(10) == b"ping"
        server.sendall(b"pong")
        assert client.recv(10) == b"pong"
        server.close()
        assert client.recv(10) == b""
    wait_for(lambda: proxy.connections == 0, message="the proxy kept the connection")


def test_proxy_reset_is_seen_as_a_reset_on_both_sides(upstream: Upstream, tcp_proxy: MakeProxy) -> None:
    """`reset` cuts the open connections with RST, and the next connection works."""
    proxy = tcp_proxy(upstream.url)
    with dial(proxy) as client:
        server = upstream.accept()
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        with pytest.raises(ConnectionResetError):
            server.recv(10)
    with dial(proxy) as client:
        client.sendall(b"again")
        assert upstream.accept().recv(10) == b"again"


def test_proxy_blackhole_holds_what_is_sent_until_it_passes(upstream: Upstream, tcp_proxy: MakeProxy) -> None:
    """In a black hole connections stay open and nothing arrives; afterwards it does."""
    proxy = tcp_proxy(upstream.url)
    with dial(proxy) as client:
        server = upstream.accept()
        proxy.blackhole()
        client.sendall(b"late")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.recv(10)
        with dial(proxy) as second:
            second.sendall(b"second")
            upstream.listener.settimeout(0.2)
            with pytest.raises(TimeoutError):
                upstream.accept()
        server.settimeout(5)
        proxy.pass_through()
        assert server.recv(10) == b"late"


def test_proxy_refuses_and_comes_back_on_the_same_port(upstream: Upstream, tcp_proxy: MakeProxy) -> None:
    """`refuse` refuses new connections, and passing again reopens the same port."""
    proxy = tcp_proxy(upstream.url)
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    proxy.pass_through()
    assert proxy.port == port
    with dial(proxy) as client:
        client.sendall(b"back")
        assert upstream.accept().recv(10) == b"back"


def test_a_closed_proxy_leaves_no_socket_open(upstream: Upstream) -> None:
    """Whom it accepted in its last moment is cut off too; an unclosed socket would be a warning, and so an error."""
    for _ in range(20):
        with TCPProxy.to(upstream.url) as proxy:
            clients = [dial(proxy) for _ in range(3)]
        for client in clients:
            with client, pytest.raises(ConnectionResetError):
                client.recv(10)
    gc.collect()


def test_proxy_keeps_the_rest_of_a_url(upstream: Upstream, tcp_proxy: MakeProxy) -> None:
    """`through` changes the host and the port of a URL and nothing else."""
    proxy = tcp_proxy(upstream.url)
    through = proxy.through("amqp://me:p%40ss@broker:5672/vhost?heartbeat=5")
    assert through == f"amqp://me:p%40ss@127.0.0.1:{proxy.port}/vhost?heartbeat=5"


def test_wait_for_returns_the_value_and_explains_a_failure() -> None:
    """`wait_for` returns what it waited for, or fails with the given message."""
    values = iter([0, 0, 7])
    assert wait_for(lambda: next(values)) == 7
    with pytest.raises(AssertionError, match="no luck"):
        wait_for(lambda: False, timeout=0.05, message="no luck")


def test_shared_redis_answers(redis_url: str) -> None:
    """The run's Redis answers when the fixture returns."""
    assert redis_answers(redis_url)


def test_shared_rabbitmq_answers(amqp_url: str) -> None:
    """The run's RabbitMQ answers when the fixture returns."""
    assert amqp_answers(amqp_url)


@pytest.mark.faults
def test_private_redis_keeps_its_data_over_kill_and_stop(private_redis: RedisBroker) -> None:
    """A Redis that was killed or stopped comes back with its data, on the same URL."""
    url = private_redis.url
    private_redis.cli("SET", "key", "value")
    private_redis.kill()
    assert not private_redis.running
    assert not redis_answers(url)
    private_redis.start()
    assert private_redis.cli("GET", "key") == "value"
    private_redis.restart()
    assert redis_command(url, "MGET", "key", "none") == ["value", None]
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        private_redis.cli("LPUSH", "key", 1)


@pytest.mark.faults
def test_suspended_redis_is_silent_until_it_is_resumed(private_redis: RedisBroker) -> None:
    """A suspended server keeps its port and answers nothing."""
    private_redis.suspend()
    assert private_redis.running
    with pytest.raises(TimeoutError):
        private_redis.cli("PING", timeout=0.2)
    private_redis.resume()
    assert private_redis.cli("PING") == "PONG"


@pytest.mark.faults
def test_a_server_whose_port_is_taken_starts_on_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program was quicker: the server ends at once, and a second one is started."""
    if not RedisBroker.available():
        pytest.skip("no Redis server")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr("support.brokers.free_port", lambda: next(ports))
        with closing(start_new(RedisBroker, tmp_path / "redis")) as broker:
            assert redis_answers(broker.url)


@pytest.mark.faults
def test_a_redis_says_what_it_holds(private_redis: RedisBroker) -> None:
    """Every key with the number of its entries, of whatever type."""
    private_redis.cli("XADD", "stream", "*", "a", "b")
    private_redis.cli("ZADD", "zset", 1, "a", 2, "b")
    private_redis.cli("SET", "string", "abc")
    assert private_redis.contents() == {"stream": 1, "zset": 2, "string": 3}


@pytest.mark.faults
def test_a_kept_server_is_up_whatever_was_done_to_it(tmp_path: Path) -> None:
    """Killed or suspended it comes back as it was, and a new one takes the place of one that cannot."""
    if not RedisBroker.available():
        pytest.skip("no Redis server")
    with closing(Kept(RedisBroker, tmp_path / "kept")) as kept:
        first = kept.up()
        first.suspend()
        assert kept.up() is first
        first.kill()
        assert kept.up() is first
        assert first.is_ready()
        first.kill()
        with socket.create_server((first.host, first.port)):
            second = kept.up()
        assert second is not first
        assert second.is_ready()


@pytest.mark.faults
@pytest.mark.slow
def test_private_rabbitmq_comes_back_after_kill(private_rabbitmq: RabbitMQBroker) -> None:
    """A RabbitMQ that was killed comes back with its data, on the same URL."""
    url = private_rabbitmq.url
    private_rabbitmq.rabbitmqctl("add_vhost", "kept")
    private_rabbitmq.kill()
    assert not amqp_answers(url)
    with pytest.raises(BrokerError, match="running node"):
        private_rabbitmq.rabbitmqctl("status")
    private_rabbitmq.start()
    assert private_rabbitmq.url == url
    assert "kept" in private_rabbitmq.rabbitmqctl("list_vhosts").split()
    private_rabbitmq.rabbitmqctl("delete_vhost", "kept")


@pytest.mark.faults
@pytest.mark.slow
def test_the_queues_of_tests_that_are_over_are_deleted(private_rabbitmq: RabbitMQBroker, unique_name: str) -> None:
    """All whose names begin so, some tests at once; those of others stay."""
    names = [f"{NAME}{n}-{unique_name}" for n in range(60)]
    with closing(pika.BlockingConnection(pika.URLParameters(private_rabbitmq.url))) as connection:
        for queue in (unique_name, *(f"{name}.dead" for name in names)):
            connection.channel().queue_declare(queue)
    sweeper = Sweeper(private_rabbitmq)
    for name in names:
        for when in ("setup", "call", "teardown"):
            sweeper.pytest_runtest_logreport(
                pytest.TestReport(name, ("", 0, ""), {}, "passed", None, when, user_properties=[("queues", name)])  # type: ignore[arg-type]
            )

    def left(name: str) -> int:
        found = f'string:find(element(4, amqqueue:get_name(Q)), <<"{name}">>) =/= nomatch'
        return int(private_rabbitmq.evaluate(f"length([Q || Q <- rabbit_amqqueue:list(), {found}])."))

    wait_for(lambda: left(f"-{unique_name}.dead") == 10, 20, "all but the last ten are deleted")
    assert left(unique_name) == 11


@pytest.mark.faults
def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """A server does not outlive its test process, even if that was killed with SIGKILL."""
    if not RedisBroker.available():
        pytest.skip("redis-server is not installed")
    program = (
        "import sys, time; from support.brokers import RedisBroker\n"
        "broker = RedisBroker(sys.argv[1]); broker.start()\n"
        "print(broker.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    with owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not _exists(server), timeout=5, message="the server outlived its owner")


def _exists(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        time.sleep(0)
        return True
    return False
