"""What a user reads when a connection, a queue or a permission is not to be had: soon, in words that help, and once."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest

from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    QBridgeError,
    QueueMismatchError,
    UnknownOptionError,
)
from qbridge_rabbitmq import RabbitMQClient
from support.brokers import free_port

# Well below connect_timeout and the patience of servers; on a machine that is not busy it is a second.
SOON = 4.5


def refusal(url: str, **options: object) -> tuple[pytest.ExceptionInfo[QBridgeError], float]:
    """Why a client cannot connect, and how long that took."""
    start = time.monotonic()
    with pytest.raises(QBridgeError) as caught:
        RabbitMQClient(url, **options).connect()
    return caught, time.monotonic() - start


def greeter(greeting: bytes) -> socket.socket:
    """A server that says something to whoever comes, and then nothing more."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.sendall(greeting)
            threading.Timer(3.0, connection.close).start()

    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP.*5672"),
        (b"AMQP\x00\x01\x00\x00", "another version of AMQP"),
        (b"\x15\x03\x03\x00\x02\x02\x0a", "speaks TLS: write amqps://"),
        (b"220 mail.example ESMTP\r\n", "does not speak AMQP .*mail.example"),
    ],
)
def test_a_port_that_speaks_something_else_is_named(
    greeting: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first bytes of a server tell what it is, and the error says so at once, without a word in the log."""
    with closing(greeter(greeting)) as server:
        error, took = refusal(f"amqp://127.0.0.1:{server.getsockname()[1]}/")
    error.match(says)
    assert error.type is BrokerUnavailableError
    assert took < SOON
    assert not caplog.records


def test_a_port_that_speaks_redis_is_named(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Redis says nothing to somebody who speaks AMQP; it is asked what it is."""
    for scheme in ("amqp", "amqps"):
        error, took = refusal(redis_url.replace("redis:", f"{scheme}:").rpartition("/")[0])
        error.match("this port speaks Redis, not AMQP")
        assert took < SOON
    assert not caplog.records


def test_a_silent_web_server_is_named() -> None:
    """So is a web server, which waits for the rest of a request."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        error, took = refusal(f"amqp://127.0.0.1:{server.server_port}/")
    finally:
        server.shutdown()
        server.server_close()
    error.match("this port speaks HTTP, not AMQP")
    assert took < SOON


def test_an_address_that_is_wrong_says_what_is_wrong(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody there, no such host, and plain AMQP where TLS was asked for."""
    cases = [
        (f"amqp://127.0.0.1:{free_port()}/", "nothing listens on port"),
        ("amqp://no-such-host.invalid/", "host name 'no-such-host.invalid' cannot be resolved"),
        (amqp_url.replace("amqp:", "amqps:"), "does not speak TLS: write amqp://"),
    ]
    for url, says in cases:
        error, took = refusal(url)
        error.match(says)
        assert took < SOON
    assert not caplog.records


def test_a_user_or_a_virtual_host_that_is_wrong_says_what_helps(
    managed: ManagedRabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """A password; a virtual host that is missing, has a slash too many, lets the user not in, or is full."""
    managed.api("PUT", "users/stranger", {"password": "x", "tags": ""})
    full = managed.add_vhost("full")
    managed.api("PUT", "vhost-limits/full/max-connections", {"value": 0})
    cases: list[tuple[str, type[QBridgeError], str]] = [
        (managed.url_for("guest:wrong"), AuthenticationError, "refused user 'guest' or its password"),
        (managed.url_for(vhost="nope"), AuthenticationError, "virtual host 'nope' does not exist.*add_vhost nope"),
        (managed.url_for(vhost="/nope"), AuthenticationError, "leave the second slash out"),
        (managed.url_for("stranger:x"), AuthenticationError, "no access to the virtual host '/'.*set_permissions"),
        (full, BrokerUnavailableError, "limit"),
    ]
    for url, kind, says in cases:
        error, took = refusal(url)
        error.match(says)
        assert error.type is kind
        assert took < SOON
    assert not caplog.records


def test_g17_tls_says_what_is_wrong(managed: ManagedRabbitMQ) -> None:
    """A certificate that nobody knows or of another host, plain AMQP on the TLS port; the right ones work."""
    tls = managed.url_for(port=managed.tls_port).replace("amqp:", "amqps:").replace("127.0.0.1", "localhost")
    with RabbitMQClient(tls, cafile=managed.authority) as client:
        assert client.connected
    refusal(tls)[0].match("certificate is not trusted.*cafile")
    refusal(tls.replace("localhost", "127.0.0.1"), cafile=managed.authority)[0].match("for another host")
    refusal(managed.url_for(port=managed.tls_port))[0].match("this port speaks TLS: write amqps://")


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A missing file, one that holds no certificate, and a certificate without its key, when the client is made."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for name in ("cafile", "certfile"):
        with pytest.raises(ConfigurationError, match=f"{name}.*no-such-file.*cannot be read"):
            RabbitMQClient("amqps://localhost", **{name: "/no-such-file"})
        with pytest.raises(ConfigurationError, match=f"{name}.*empty.pem"):
            RabbitMQClient("amqps://localhost", **{name: str(empty)})


def test_the_names_that_other_clients_use_are_answered_with_ours() -> None:
    """An option of pika's in a URL is an error that says what QBridge has instead."""
    for name, ours in (("retry_delay", "reconnect_delay"), ("ssl_options", "cafile"), ("vhost", "part of the URL")):
        with pytest.raises(UnknownOptionError, match=f"Instead of {name}: .*{ours}"):
            RabbitMQClient(f"amqp://localhost?{name}=1")


@pytest.mark.parametrize("option", ["verify=verify_none", "ssl_cert_reqs=none"])
def test_g17_not_to_check_certificates_is_refused(option: str) -> None:
    """With the reason, as that is what people ask for whose certificate is not trusted."""
    name = option.partition("=")[0]
    with pytest.raises(UnknownOptionError, match=f"{name}: certificates are always checked.* protects nobody.* cafile"):
        RabbitMQClient(f"amqps://localhost?{option}")


def test_a_missing_permission_is_named(managed: ManagedRabbitMQ, unique_name: str) -> None:
    """Which one, on what, and the command that grants it, for declaring, publishing, receiving and consuming."""
    with RabbitMQClient(managed.url_for()) as client:
        client.declare(unique_name)
    urls = {name: managed.add_user(f"{unique_name}-{name}", **{name: ".*"}) for name in ("write", "read")}
    needs: list[tuple[str, str, Callable[[RabbitMQClient], object]]] = [
        ("read", "configure .* on queue", lambda client: client.declare(f"{unique_name}-new")),
        ("read", "write on exchange 'amq.default'", lambda client: client.publish(unique_name, b"x")),
        ("write", "read on queue", lambda client: client.receive(unique_name, 1, 5.0)),
        ("write", "read on queue", lambda client: client.purge(unique_name)),
        ("write", "read on queue", lambda client: consume(client, unique_name)),
    ]
    for user, lacks, call in needs:
        with (
            RabbitMQClient(urls[user]) as client,
            pytest.raises(AuthenticationError, match=f"lacks the permission {lacks}.*set_permissions -p /"),
        ):
            call(client)


def consume(client: RabbitMQClient, queue: str) -> None:
    """Start a consumer and wait for a message."""
    client.subscribe(queue, 1)
    client.receive(queue, 1, 5.0)


def test_the_limit_of_queues_is_named(managed: ManagedRabbitMQ) -> None:
    """A queue that cannot be created because the virtual host is full is not called missing."""
    url = managed.add_vhost("small")
    managed.api("PUT", "vhost-limits/small/max-queues", {"value": 1})
    with RabbitMQClient(url) as client:
        client.declare("first")
        with pytest.raises(ConfigurationError, match=r"limit of 1 queues.*set_vhost_limits -p small"):
            client.declare("second")


def test_a_queue_of_another_connection_alone_is_named(amqp_url: str, channel: Any, unique_name: str) -> None:
    """An exclusive queue, and one with an exclusive consumer, say who has them."""
    exclusive = f"{unique_name}-exclusive"
    channel.queue_declare(exclusive, exclusive=True)
    channel.queue_declare(unique_name, durable=True)
    channel.basic_consume(unique_name, lambda *_: None, exclusive=True)
    with RabbitMQClient(amqp_url) as client:
        for call in (lambda: client.declare(exclusive), lambda: consume(client, unique_name)):
            with pytest.raises(QueueMismatchError, match="another connection alone"):
                call()


def test_pikas_own_log_can_be_switched_on(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is silent in the client's thread, also about names that cannot be resolved, until its level is set."""
    caplog.set_level(logging.INFO)
    with RabbitMQClient(amqp_url):
        pass
    assert not [record for record in caplog.records if record.name.startswith("pika")]
    caplog.set_level(logging.DEBUG, logger="pika")
    with RabbitMQClient(amqp_url):
        pass
    assert [record for record in caplog.records if record.name.startswith("pika")]
    pika.BlockingConnection(pika.URLParameters(amqp_url)).close()
