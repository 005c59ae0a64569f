"""Several hosts in one URL: each is tried in turn, and none that is dead or silent holds up the others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import AuthenticationError, BrokerUnavailableError, TaskManager, TransientError
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.connection.hosts import Hosts
from support.brokers import free_port
from support.proxy import TCPProxy
from support.wait import wait_for

SECRET = "s3cret-pass"
A, B, C = ("a", 1), ("b", 2), ("c", 3)


@pytest.fixture(autouse=True)
def in_the_given_order(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A client tries the hosts in the order of its URL, so that a test knows which one it meets first."""
    if "shuffle" not in request.node.name:
        monkeypatch.setattr("qbridge_rabbitmq.connection.options.shuffled", tuple)


@pytest.fixture
def several(amqp_url: str) -> Callable[..., str]:
    """Make a URL that has these hosts around that of the run's broker."""
    parts = urlsplit(amqp_url)
    login, _, own = parts.netloc.rpartition("@")

    def make(*before: str, after: Sequence[str] = (), login: str = login) -> str:
        return parts._replace(netloc=f"{login}@{','.join([*before, own, *after])}").geturl()

    return make


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def unreachable() -> Iterator[str]:
    """An address from which no answer comes at all, as if a firewall swallowed everything."""
    with ExitStack() as sockets, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # the kernel drops what does not fit into the backlog
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["refusing", "silent", "unreachable"])
def test_g14_a_client_starts_while_a_host_is_down(
    request: pytest.FixtureRequest, make_client: MakeClient, several: Callable[..., str], unique_name: str, kind: str
) -> None:
    """A host that refuses, says nothing or cannot be reached costs a part of the time for connecting, not all of it."""
    host = f"127.0.0.1:{free_port()}" if kind == "refusing" else request.getfixturevalue(kind)
    client = make_client(several(host), connect_timeout=5)
    client.declare(unique_name)
    client.send(unique_name, 1)
    assert client.stats(unique_name).ready == 1


def test_when_all_hosts_are_down_the_error_names_them() -> None:
    """It comes as soon as each has been tried, names all hosts, and hides the password."""
    ports = [free_port() for _ in range(3)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    client = RabbitMQClient(f"amqp://user:{SECRET}@{hosts}/", connect_timeout=60)
    with pytest.raises(BrokerUnavailableError, match=f"{hosts}.*refused") as info:
        client.connect()
    assert SECRET not in str(info.value) + repr(info.value.__cause__) + repr(client)


def test_a_refused_password_is_an_error_though_other_hosts_are_left(several: Callable[..., str], silent: str) -> None:
    """One host has said that the password is wrong: connecting ends with that, and does not wait for the others."""
    url = several(after=[silent, silent], login=f"guest:{SECRET}")
    with pytest.raises(AuthenticationError) as info:
        RabbitMQClient(url, connect_timeout=60).connect()
    assert SECRET not in str(info.value)


def test_g14_a_worker_goes_on_at_the_next_host(
    make_client: MakeClient, amqp_url: str, several: Callable[..., str], unique_name: str
) -> None:
    """A host is lost for good while a task runs: the worker goes on at the next one and runs nothing twice."""
    with TCPProxy.to(amqp_url) as first:
        client = make_client(several(f"{first.host}:{first.port}"))
        started, release = list[int](), threading.Event()

        def handler(payload: int) -> None:
            started.append(payload)
            assert release.wait(30)

        with TaskManager(
            client, handler, unique_name, f"{unique_name}-dead", max_workers=2, task_timeout=60
        ) as manager:
            client.send_many(unique_name, range(2))
            wait_for(lambda: len(started) == 2)
            assert first.connections == 2, "both connections are at the first host"
            first.refuse()
            first.reset()
            wait_for(lambda: sends(client, unique_name, 2), 20, "publishing goes on")
            release.set()
            assert manager.run_until_idle(timeout=30).succeeded == 3
        assert sorted(started) == [0, 1, 2]


def sends(client: RabbitMQClient, queue: str, payload: int) -> bool:
    """Whether a message was taken; it is not sent when there is no connection."""
    try:
        client.send(queue, payload)
    except TransientError:
        return False
    return True


def test_clients_shuffle_the_hosts() -> None:
    """Each client has an order of its own, so that workers with one URL spread over the servers."""
    url = "amqp://a:1,b:2,c:3/"
    orders = {RabbitMQClient(url)._endpoint.addresses for _ in range(100)}
    assert {order[0] for order in orders} == {A, B, C}
    assert all(sorted(order) == [A, B, C] for order in orders)


def test_connections_stay_together() -> None:
    """The next host comes when no connection to one is left, once for both of them, and at once when one fails."""
    hosts = Hosts([A, B, C])
    hosts.opened(A)
    hosts.opened(A)
    hosts.lost(A, soon=False)
    assert hosts.current == A, "the other connection is still there"
    hosts.lost(A, soon=False)
    assert hosts.current == B
    hosts.failed(A)
    assert hosts.current == B, "it has been left already"
    hosts.failed(B)
    hosts.opened(C)
    hosts.opened(C)
    hosts.lost(C, soon=True)
    assert hosts.current == A, "a host that loses connections at once is no good"


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("amqp://h1,h2:5673,[::1]:5674/v", {("h1", 5672), ("h2", 5673), ("::1", 5674)}),
        ("amqps://h1,h2:5673/", {("h1", 5671), ("h2", 5673)}),
        ("amqp://", {("localhost", 5672)}),
        ("amqp://:5673", {("localhost", 5673)}),
    ],
)
def test_a_host_without_a_port_has_the_default_port(url: str, addresses: set[tuple[str, int]]) -> None:
    """That of AMQP, or of AMQP over TLS."""
    assert set(RabbitMQClient(url)._endpoint.addresses) == addresses
