"""Policies and foreign declarations that take messages out of queues are told loudly, and never stop anything."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_core import ConfigurationError, Delivery, Message, QueueFullError
from qbridge_core.runtime.logs import flush
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.queues import policies
from support.brokers import free_port
from support.proxy import TCPProxy
from support.wait import wait_for

SECRET = "s3cret-pass"


def warnings_about(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """What was warned of."""
    return [record.message for record in caplog.records if record.levelno == logging.WARNING and word in record.message]


def test_policies_that_take_messages_out_are_told_once_with_what_mends_them(
    make_client: MakeClient, managed: ManagedRabbitMQ, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of tasks, delays, suspects and dead letters, by policies and operator policies; harmless ones are not told."""
    escaped = re.escape(unique_name)
    definitions: list[tuple[str, str, dict[str, Any], str]] = [
        ("ttl", f"^{escaped}-work$", {"message-ttl": 5000}, "policies"),
        ("short", rf"^{escaped}-work\.qb\.", {"expires": 60_000}, "policies"),
        ("full", f"^{escaped}-dead", {"max-length": 3}, "policies"),
        ("limit", f"{escaped}-work.suspects$", {"delivery-limit": 2}, "policies"),
        ("harmless", f"{escaped}-other", {"max-length": 5}, "policies"),
        ("operator", f"^{escaped}-work$", {"max-length-bytes": 1000}, "operator-policies"),
    ]
    for name, pattern, definition, kind in definitions:
        managed.set_policy(f"{unique_name}-{name}", pattern, definition, kind)
    client = make_client(managed.url_for(), management_url=managed.management_url)
    client.declare(f"{unique_name}-work", f"{unique_name}-dead")
    wait_for(lambda: len(warnings_about(caplog, "policy")) == 5, 20.0, "all of them are told")
    told = {name: warnings_about(caplog, f"{unique_name}-{name}'") for name, *_ in definitions}
    assert {name for name, lines in told.items() if not lines} == {"harmless"}
    for name, says in (
        ("ttl", r"pattern .*message-ttl=5000: what waits longer.*tasks are lost.*rabbitmqctl clear_policy -p / "),
        ("short", r"work\.qb\.delay\.0': expires=60000: .*retries and delayed tasks"),
        ("full", r"-dead': max-length=3: .*dead letters are lost"),
        ("limit", r"suspects': delivery-limit=2: "),
        ("operator", r"max-length-bytes=1000.*clear_operator_policy"),
    ):
        assert re.search(says, told[name][0]), told[name]
    client.subscribe(f"{unique_name}-work", 1)
    managed.set_policy(f"{unique_name}-late", f"^{escaped}-work$", {"expires": 7_000_000}, "operator-policies")
    policies_of(client)._due = 0.0
    wait_for(lambda: warnings_about(caplog, "expires=7000000"), 20.0, "it is looked for now and then")
    assert len(warnings_about(caplog, "policy")) == 6


@pytest.mark.parametrize("kind", ["policies", "operator-policies"])
def test_g12_a_length_limit_on_the_dead_letter_queue_loses_no_letter(
    make_client: MakeClient, managed: ManagedRabbitMQ, unique_name: str, kind: str
) -> None:
    """What has no room there is refused, so that its task comes back; and no older letter is dropped for a new one."""
    dead = f"{unique_name}-dead"
    managed.set_policy(unique_name, f"^{re.escape(dead)}$", {"max-length": 2}, kind)
    client = make_client(managed.url_for())
    client.declare(unique_name, dead)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(8)])
    letters: list[bytes] = []
    refused: list[Delivery] = []
    for delivery in take_all(client, unique_name, 8):
        try:
            client.reject(delivery, requeue=False)
            letters.append(delivery.body)
        except QueueFullError:
            refused.append(delivery)
    assert letters
    assert refused
    assert [letter.body for letter in client.dead_letters(dead)] == letters
    for delivery in refused:
        client.reject(delivery, requeue=True)
    again = [delivery.body for delivery in take_all(client, unique_name, len(refused))]
    assert sorted(again) == [delivery.body for delivery in refused]


def take_all(client: RabbitMQClient, queue: str, count: int) -> list[Delivery]:
    """So many messages, which may come in parts."""
    found: list[Delivery] = []
    while len(found) < count and (some := client.receive(queue, count - len(found), 10.0)):
        found += some
    assert len(found) == count
    return found


def policies_of(client: RabbitMQClient) -> policies.Policies:
    """What looks after the policies of a client."""
    assert client._policies is not None
    return client._policies


@pytest.mark.parametrize("how", ["nobody", "silent", "other", "refused"])
def test_a_management_api_that_does_not_answer_hurts_nobody(
    make_client: MakeClient, managed: ManagedRabbitMQ, unique_name: str, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Nobody there, a silent one, something else, a refused password: one warning, and nobody waits."""
    with TCPProxy.to(managed.url) as proxy:
        proxy.blackhole()
        places = {
            "nobody": f"http://127.0.0.1:{free_port()}",
            "silent": f"http://127.0.0.1:{proxy.port}",
            "other": f"http://127.0.0.1:{managed.port}",
            "refused": managed.management_url.replace("http://", f"http://guest:{SECRET}@"),
        }
        start = time.monotonic()
        client = make_client(managed.url_for(), management_url=places[how])
        client.declare(unique_name)
        client.subscribe(unique_name, 1)
        client.send(unique_name, 1)
        assert client.receive(unique_name, 1, 10.0)
        assert time.monotonic() - start < 4.5
        wait_for(lambda: warnings_about(caplog, "are not checked"), 15.0, "it is told")
        wait_for(lambda: not policies_of(client)._running, 15.0, "it is not asked again and again")
        flush()
        assert len(warnings_about(caplog, "are not checked")) == 1
        assert SECRET not in caplog.text + repr(client) + repr(client._options) + repr(client._endpoint)


def test_a_management_url_that_cannot_be_right_is_refused_without_its_password() -> None:
    """Another scheme, a query, no URL at all."""
    for url in (f"amqp://u:{SECRET}@h", f"http://u:{SECRET}@h/?x=1", f"u:{SECRET}@h", 5):
        with pytest.raises(ConfigurationError, match="option management_url must look like http://") as caught:
            RabbitMQClient("amqp://localhost", management_url=url)
        assert SECRET not in str(caught.value)


def test_what_a_foreign_queue_means_is_told_once(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All differences that the broker tells, as a warning, each with its consequence, and the queue stays as it is."""
    arguments = {"x-message-ttl": 5_000, "x-max-length": 7, "x-expires": 600_000, "x-max-priority": 5}
    channel.queue_declare(unique_name, durable=False, arguments=arguments)
    channel.queue_declare(f"{unique_name}-2", durable=True, auto_delete=True)
    routed = {"x-dead-letter-exchange": "theirs", "x-dead-letter-routing-key": "letters"}
    channel.queue_declare(f"{unique_name}-3", durable=True, arguments=routed)
    limited = {"x-queue-type": "quorum", "x-delivery-limit": 3}
    channel.queue_declare(f"{unique_name}-4", durable=True, arguments=limited)
    client = make_client(amqp_url)
    for _ in range(2):
        for name in (unique_name, *(f"{unique_name}-{number}" for number in (2, 3, 4))):
            client.declare(name)
    first, second, third, fourth = warnings_about(caplog, "declared by somebody else")
    for says in ("durable is False (its messages are lost", "x-message-ttl is 5000 (", "x-max-length is 7 ("):
        assert says in first
    assert "x-expires is 600000 (" in first
    assert "auto_delete is True (it is deleted" in second
    assert "x-dead-letter-exchange is theirs (what the broker itself takes out of it goes there" in third
    assert "x-dead-letter-routing-key is letters (" in third
    assert "delete it when it is empty, and declare it again" in third
    assert "x-delivery-limit is 3 (a message that comes back more often is taken out" in fourth
    channel.queue_declare(unique_name, durable=False, arguments=arguments)
