"""What is wrong with an address, a login or an option is said in a sentence, soon, and without the driver's words."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from integration.redis.helpers import Background, MakeClient, is_blocked, take
from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    NotConnectedError,
    QBridgeError,
    UnknownOptionError,
    connect,
)
from qbridge_redis import RedisClient
from support.brokers import RedisBroker, free_port
from support.wait import wait_for

Answer = Callable[[bytes], str]


class SecureRedis(RedisBroker):
    """A server that speaks TLS at its port, and listens on a Unix socket."""

    @property
    def certificate(self) -> Path:
        """Its certificate, signed by itself, for the name localhost."""
        return self.base_dir / "cert.pem"

    @property
    def socket(self) -> Path:
        """Its Unix socket."""
        return self.base_dir / "redis.sock"

    def is_ready(self) -> bool:
        """Whether it listens."""
        return self.socket.exists()

    def _server_command(self) -> list[str]:
        key = self.base_dir / "key.pem"
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        subprocess.run(
            [
                *["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout"],
                key,
                "-out",
                self.certificate,
                *subject,
            ],
            check=True,
            capture_output=True,
        )
        files = ("--tls-cert-file", self.certificate, "--tls-key-file", key, "--tls-ca-cert-file", self.certificate)
        tls = ("--tls-port", self.port, *files, "--tls-auth-clients", "no")
        command = super()._server_command()
        command[command.index("--port") + 1] = "0"
        return [*command, *map(str, tls), "--unixsocket", str(self.socket), "--unixsocketperm", "700"]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[SecureRedis]:
    """A server with TLS and a Unix socket."""
    broker = SecureRedis(tmp_path_factory.mktemp("secure"))
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture
def answering() -> Iterator[Answer]:
    """The URL of a port where something answers these bytes to whatever it is told, and closes."""
    servers: list[socket.socket] = []

    def answer(reply: bytes) -> str:
        server = socket.create_server(("127.0.0.1", free_port()))
        servers.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        return f"redis://127.0.0.1:{server.getsockname()[1]}/0"

    yield answer
    for server in servers:
        server.close()


def _refusal(url: str, **options: object) -> QBridgeError:
    begin = time.monotonic()
    with pytest.raises(QBridgeError) as caught:
        connect(url, **options)
    assert time.monotonic() - begin < 5.0  # 2 s on a machine that is not busy
    return caught.value


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"AMQP\x00\x00\x09\x01", "speaks AMQP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP"),
        (b"SSH-2.0-OpenSSH_9\r\n", "does not speak Redis"),
        (b"-DENIED Redis is running in protected mode because ...\r\n", "protected mode"),
        (b"-ERR max number of clients reached\r\n", "maxclients"),
    ],
)
def test_what_is_at_a_port_instead_of_redis_is_said(answering: Answer, reply: bytes, sentence: str) -> None:
    """Another protocol, or a server that takes nobody, is recognized at once."""
    error = _refusal(answering(reply))
    assert isinstance(error, BrokerUnavailableError)
    assert sentence in str(error)


def test_a_mistaken_scheme_is_said(secure: SecureRedis, redis_url: str) -> None:
    """TLS spoken to in plain, and the reverse, which without a look would only be silence."""
    assert "write rediss://" in str(_refusal(f"redis://localhost:{secure.port}/0"))
    assert "without TLS" in str(_refusal(redis_url.replace("redis://", "rediss://")))


def test_untrusted_and_unusable_certificates_are_said(secure: SecureRedis, tmp_path: Path) -> None:
    """The error names the option that helps, or the file that does not."""
    url = f"rediss://localhost:{secure.port}/0"
    with connect(url, cafile=str(secure.certificate)):
        pass
    assert "cafile=" in str(_refusal(url))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for options in (
        {"cafile": "/no/such.pem"},
        {"cafile": str(garbage)},
        {"certfile": "/no/such.pem"},
        {"keyfile": str(garbage)},
    ):
        error = _refusal(url, **options)
        assert isinstance(error, ConfigurationError)
        assert next(iter(options)) in str(error) or next(iter(options.values())) in str(error)


def test_wrong_logins_databases_and_servers_are_said(broker: RedisBroker, tmp_path: Path) -> None:
    """Each gets its own sentence; none shows a password."""
    error = _refusal(broker.url[:-1] + "99")
    assert isinstance(error, ConfigurationError)
    assert "database" in str(error)
    assert "no password" in str(_refusal(broker.url.replace("//", "//:needless@")))
    broker.cli("REPLICAOF", "127.0.0.1", free_port())
    with connect(broker.url) as client, pytest.raises(BrokerUnavailableError, match="replica"):
        client.declare("q")
    broker.cli("REPLICAOF", "NO", "ONE")
    broker.cli("CONFIG", "SET", "requirepass", "secret-word")
    assert "wants a password" in str(_refusal(broker.url))
    error = _refusal(broker.url.replace("//", "//:mistaken-word@"))
    assert isinstance(error, AuthenticationError)
    assert "wrong" in str(error)
    assert "mistaken-word" not in str(error)


def test_nobody_at_an_address_is_said() -> None:
    """In words that say where to look: at the port, or at the name."""
    assert "nothing listens there" in str(_refusal(f"redis://localhost:{free_port()}/0"))
    assert "the host name cannot be resolved" in str(_refusal("redis://no-such-host.invalid/0"))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("ssl_ca_certs", "cafile"),
        ("ssl_cert_reqs", "always checked"),
        ("socket_connect_timeout", "connect_timeout"),
        ("decode_responses", "bytes"),
        ("max_connections", "not needed"),
        ("health_check_interval", "by itself"),
        ("db", "end of the URL"),
        ("password", "into the URL"),
        ("cafile", "rediss://"),
    ],
)
def test_options_of_redis_py_are_answered_with_ours(option: str, sentence: str) -> None:
    """People bring the names that they know; the error says what to write, and shows no value."""
    for url, options in (("redis://h/0", {option: "secret-word"}), (f"redis://h/0?{option}=secret-word", {})):
        with pytest.raises(UnknownOptionError) as caught:
            RedisClient(url, **options)
        assert sentence in str(caught.value)
        assert "known options" in str(caught.value)
        assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("value", ["none", None, ssl.CERT_NONE])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "rediss+cluster"])
def test_g17_not_to_check_certificates_is_refused(scheme: str, value: object) -> None:
    """`ssl_cert_reqs=none` is answered with the reason, and with what helps."""
    ask = r"ssl_cert_reqs: certificates are always checked.* protects nobody.* cafile"
    with pytest.raises(UnknownOptionError, match=ask):
        RedisClient(f"{scheme}://localhost", ssl_cert_reqs=value)
    with pytest.raises(UnknownOptionError, match=ask):
        RedisClient(f"{scheme}://localhost?ssl_cert_reqs=none")


def test_a_unix_socket_is_a_way_to_a_server(secure: SecureRedis, unique_name: str) -> None:
    """It is named by ``unix:///path``, with the database in the query; publishing and receiving work."""
    with connect(f"unix://{secure.socket}?db=3&lease=5") as client:
        client.declare(unique_name)
        client.send(unique_name, 1)
        assert isinstance(client, RedisClient)
        client.ack(take(client, unique_name))
        assert client.flush()
    assert "there is no socket" in str(_refusal(f"unix://{secure.socket}.absent"))
    assert isinstance(_refusal("unix://host/path"), ConfigurationError)
    with pytest.raises(ConfigurationError, match="databases"):
        connect(f"unix://{secure.socket}?db=99")


@pytest.mark.faults
def test_an_outage_is_two_lines_for_all_threads_of_a_client(
    own_client: RedisClient, broker: RedisBroker, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING when it begins, one INFO with its length when all is well again, and no traceback."""
    stop = threading.Event()
    refused: list[BrokerUnavailableError] = []

    def receive() -> None:
        while not stop.is_set():
            try:
                own_client.receive(queue, 1, 0.2)
            except BrokerUnavailableError as exc:
                refused.append(exc)
                time.sleep(0.05)

    with caplog.at_level(logging.INFO, "qbridge.redis"):
        own_client.publish(queue, b"x")
        delivery = take(own_client, queue)
        thread = threading.Thread(target=receive)
        thread.start()
        broker.kill()
        own_client.ack(delivery)
        wait_for(lambda: len(refused) >= 5, 20.0, "nobody sees the outage")
        broker.start()
        wait_for(lambda: any("used again" in r.getMessage() for r in caplog.records), 10.0)
        stop.set()
        thread.join()
    lines = [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "qbridge.redis"]
    assert [level for level, _ in lines] == [logging.WARNING, logging.INFO], lines
    assert "no connection to redis://" in lines[0][1]
    assert not any(r.exc_info for r in caplog.records)


@pytest.mark.faults
def test_disconnecting_takes_hardly_a_second_when_the_server_does_not_answer(
    make_client: MakeClient, broker: RedisBroker, queue: str
) -> None:
    """A pod has no time to wait for a broker that hangs; what was not said comes again."""
    client = make_client(broker.url)
    client.declare(queue)
    client.publish(queue, b"x")
    delivery = take(client, queue)
    waiting = Background(lambda: client.receive(queue, 1, 30.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    broker.suspend()
    client.ack(delivery)
    begin = time.monotonic()
    client.disconnect()
    assert time.monotonic() - begin < 1.5
    broker.resume()
    with pytest.raises(NotConnectedError):
        waiting.result(5.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_a_forked_child_keeps_no_connection_of_its_parent(client: RedisClient, queue: str, redis_url: str) -> None:
    """Its copies of the sockets are closed; the parent's connections go on, whatever the child does with the client."""
    client.publish(queue, b"x")
    delivery = take(client, queue)
    port = urlsplit(redis_url).port or 6379
    before = _sockets(port)
    assert before
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        left = _sockets(port) & before
        try:
            client.ack(delivery)
            verdict = "settled"
        except QBridgeError:
            verdict = "refused"
        client.disconnect()
        os.write(writing, f"{len(left)} {verdict}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    left, verdict = os.read(reading, 100).decode().split()
    os.close(reading)
    os.close(writing)
    assert (left, verdict) == ("0", "refused")
    client.ack(delivery)
    assert client.flush()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_a_forked_child_keeps_no_connection_that_its_parent_was_about_to_make() -> None:
    """Another thread of the parent may wait for the server's first answer at that moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = RedisClient(f"redis://127.0.0.1:{port}/0", connect_timeout=5.0)
        connecting = Background(client.connect)
        accepted, _ = server.accept()
        accepted.recv(1)  # the handshake has begun
        pid = os.fork()
        if pid == 0:
            os._exit(len(_sockets(port)))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        accepted.close()
    with pytest.raises(QBridgeError):
        connecting.result(5.0)


def _sockets(port: int) -> set[str]:
    """The TCP connections of this process to a port; other sockets of the process are not this client's."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    connected = {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) == port}
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry))
    return found & connected
