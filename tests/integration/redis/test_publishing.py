"""Publishing: confirmed or a typed error, never sent twice by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from integration.redis.helpers import Cli, MakeClient, take
from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    Message,
    MessageTooLargeError,
    PayloadError,
    PublishUnconfirmedError,
    QueueMismatchError,
    UnroutableError,
)
from qbridge_redis import RedisClient
from support.brokers import RedisBroker
from support.proxy import TCPProxy
from support.wait import wait_for


def test_publishing_makes_no_queue_by_accident(client: RedisClient, cli: Cli, queue: str) -> None:
    """A misspelled name is an error, at once, delayed and in a batch, and leaves no key behind."""
    for publish in (
        lambda: client.publish(f"{queue}-typo", b"x"),
        lambda: client.publish(f"{queue}-typo", b"x", delay=0.01),
        lambda: client.publish_many(f"{queue}-typo", [Message(b"x")]),
    ):
        with pytest.raises(UnroutableError):
            publish()
    assert cli("EXISTS", f"{queue}-typo", f"{queue}-typo:delayed") == 0


def test_a_declared_queue_that_was_deleted_is_made_again(client: RedisClient, cli: Cli, queue: str) -> None:
    """Somebody else's DEL is no reason to lose what is published afterwards, and the batch keeps its order."""
    cli("DEL", queue)
    client.publish(queue, b"0")
    cli("DEL", queue)
    client.publish_many(queue, [Message(b"1"), Message(b"2")])
    cli("DEL", f"{queue}.dlq")
    client.publish(f"{queue}.dlq", b"x", delay=0.01)
    assert [d.body for d in client.receive(queue, 10, 5.0)] == [b"1", b"2"]


def test_a_key_of_another_type_is_a_mismatch(client: RedisClient, cli: Cli, queue: str) -> None:
    """A name that holds something else is refused by every call, and what is there is left alone."""
    cli("SET", f"{queue}-text", "precious")
    for call in (
        lambda: client.declare(f"{queue}-text"),
        lambda: client.publish(f"{queue}-text", b"x"),
        lambda: client.receive(f"{queue}-text", 1, 0.0),
        lambda: client.stats(f"{queue}-text"),
    ):
        with pytest.raises(QueueMismatchError):
            call()
    assert cli("GET", f"{queue}-text") == "precious"


def test_g1_a_lost_confirmation_is_told_and_not_repeated(
    make_client: MakeClient, tcp_proxy: Callable[[str], TCPProxy], redis_url: str, cli: Cli, queue: str
) -> None:
    """The request is stuck on the way: the caller learns that it may or may not arrive, and it arrives once."""
    proxy = tcp_proxy(redis_url)
    client = make_client(proxy.through(redis_url))
    client.declare(queue)
    client.publish(queue, b"first")
    proxy.blackhole()
    with pytest.raises(PublishUnconfirmedError, match=r"no confirmation for .* within 0\.3 s"):
        client.publish(queue, b"second", timeout=0.3)
    proxy.pass_through()
    wait_for(lambda: cli("XLEN", queue) == 2, 5.0, "the held request was dropped by the proxy")
    client.publish(queue, b"third")
    assert cli("XLEN", queue) == 3


def test_a_cut_connection_is_noticed_before_it_is_used(
    make_client: MakeClient, tcp_proxy: Callable[[str], TCPProxy], redis_url: str, cli: Cli, queue: str
) -> None:
    """After a reset of idle connections the next publish is a plain success: it takes a new connection."""
    proxy = tcp_proxy(redis_url)
    client = make_client(proxy.through(redis_url))
    client.declare(queue)
    client.publish(queue, b"1")
    proxy.reset()
    client.publish(queue, b"2")
    assert cli("XLEN", queue) == 2


def test_a_server_that_is_down_is_unavailable(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """Nothing was sent, and the error says so."""
    own_client.publish(queue, b"x")
    broker.kill()
    with pytest.raises(BrokerUnavailableError) as caught:
        own_client.publish(queue, b"y")
    assert caught.value.__cause__ is not None


def test_a_body_over_the_limit_is_too_large(make_client: MakeClient, broker: RedisBroker, queue: str) -> None:
    """The server's limit for one string is known before anything is sent."""
    broker.cli("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    client = make_client(broker.url)
    client.declare(queue)
    with pytest.raises(MessageTooLargeError):
        client.publish(queue, b"x" * (1024 * 1024 + 1))
    client.publish(queue, b"x" * (1024 * 1024))
    assert len(take(client, queue).body) == 1024 * 1024


def test_large_bodies_pass_in_a_batch(client: RedisClient, queue: str) -> None:
    """A batch is cut by size too, so that neither side waits for the other with full buffers."""
    client.publish_many(queue, [Message(bytes([i]) * 300_000) for i in range(20)])
    assert [d.body[0] for d in client.receive(queue, 20, 5.0)] == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"body": "text"}, ConfigurationError),
        ({"body": b"x", "message_id": ""}, ConfigurationError),
        ({"body": b"x", "message_id": "i" * 256}, ConfigurationError),
        ({"body": b"x", "message_id": "\ud800"}, ConfigurationError),
        ({"body": b"x", "delay": -1.0}, ConfigurationError),
        ({"body": b"x", "delay": float("nan")}, ConfigurationError),
        ({"body": b"x", "headers": {"x-qbridge-attempts": "9"}}, PayloadError),
        ({"body": b"x", "headers": {"h": "\ud800"}}, PayloadError),
    ],
)
def test_unusable_arguments_are_refused(
    client: RedisClient, queue: str, arguments: dict[str, object], error: type[Exception]
) -> None:
    """A wrong argument is named, and the connection is none the worse for it."""
    with pytest.raises(error):
        client.publish(queue, **arguments)  # type: ignore[arg-type]
    client.publish(queue, b"fine")
    assert client.stats(queue).ready == 1


def test_g1_a_delayed_message_is_waited_for_after_the_server_forgot_its_script(
    make_client: MakeClient, broker: RedisBroker, queue: str
) -> None:
    """The script is sent again, and then the question how many replicas have what it wrote: the first was too early."""
    make_client(broker.url).declare(queue)
    client = make_client(broker.url, wait_replicas=1)
    broker.cli("SCRIPT", "FLUSH")
    broker.cli("CONFIG", "RESETSTAT")
    with pytest.raises(PublishUnconfirmedError, match="wait_replicas"):
        client.publish(queue, b"x", delay=60, timeout=1.0)
    calls = {line.split(":")[0]: line for line in str(broker.cli("INFO", "commandstats")).splitlines()}
    assert "calls=2," in calls["cmdstat_wait"]
