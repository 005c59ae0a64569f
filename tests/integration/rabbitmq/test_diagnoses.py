"""What ``diagnose`` finds on RabbitMQ: each finding is caused for real, and what mends it does."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_core import FindingStatus, QueueClient, QueueUse
from qbridge_core.backend import suspects_queue
from qbridge_rabbitmq import RabbitMQClient
from support.findings import bad, only, unchecked
from support.wait import wait_for

PROBLEM, WARNING = FindingStatus.PROBLEM, FindingStatus.WARNING


@pytest.fixture
def use(unique_name: str) -> QueueUse:
    """How the queue of the test is used."""
    return QueueUse(unique_name, f"{unique_name}-dead", task_timeout=10.0, workers=4)


@pytest.fixture
def seen(managed: ManagedRabbitMQ, make_client: MakeClient, use: QueueUse) -> RabbitMQClient:
    """A client that sees policies, and has declared the queue."""
    client = make_client(managed.url_for(), management_url=managed.management_url)
    client.declare(use.queue, use.dead_letter_queue)
    return client


def mend(managed: ManagedRabbitMQ, command: str) -> None:
    """Run the command that a finding names, on the node."""
    program, *arguments = shlex.split(command)
    assert program == "rabbitmqctl"
    managed.rabbitmqctl(*arguments)


def tells_leaders(client: RabbitMQClient) -> bool:
    """Whether the management API of the server says that a quorum queue has no leader."""
    return client._declarations.server_version <= (3, 10)


def test_a_healthy_broker_has_no_finding(seen: RabbitMQClient, use: QueueUse) -> None:
    """Everything is looked at and well, also beside messages that wait, and delays that exist."""
    seen.send(use.queue, 1)
    seen.send(use.queue, 2, delay=60.0)
    found = seen.diagnose([use])
    assert bad(found) == []
    assert unchecked(found) == (set() if tells_leaders(seen) else {"queue states"})
    (server,) = (each for each in found if each.check == "server")
    assert "RabbitMQ" in server.text


def test_what_amqp_does_not_tell_is_not_checked(client: RabbitMQClient, use: QueueUse) -> None:
    """Without the management API policies and states of queues are unknown, and the option that helps is named."""
    client.declare(use.queue, use.dead_letter_queue)
    found = client.diagnose([use])
    assert bad(found) == []
    assert unchecked(found) == {"policies", "queue states"}
    assert all("management_url=" in each.mend for each in found if each.status is FindingStatus.NOT_CHECKED)
    wrong = f"http://guest:s3cret@{client._endpoint.addresses[0][0]}:1"
    with RabbitMQClient(str(client._endpoint.url).replace("***", "guest"), management_url=wrong) as other:
        found = other.diagnose([use])
    assert unchecked(found) == {"policies", "queue states"}
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("right", "others"), [("configure", ["dead", "suspects"]), ("write", []), ("read", ["suspects"])]
)
def test_a_missing_permission_is_found_without_using_it(
    seen: RabbitMQClient,
    managed: ManagedRabbitMQ,
    make_client: MakeClient,
    use: QueueUse,
    right: str,
    others: list[str],
) -> None:
    """Which one on which queues, with the command that grants it; no queue is made, no message is touched."""
    permissions = {"configure": ".*", "write": ".*", "read": ".*"}
    user = f"{use.queue}-{right}"
    url = managed.add_user(user, **{**permissions, right: "^amq.default$"})
    seen.send(use.queue, 1)
    client = make_client(url, management_url=managed.management_url.replace("//", "//guest:guest@"))
    before = {each["name"] for each in managed.api("GET", "queues/%2F")}
    names = {"dead": use.letters, "suspects": suspects_queue(use.queue)}
    lacking = ", ".join(map(repr, [use.queue, *(names[other] for other in others)]))
    found = only(
        [each for each in client.diagnose([use]) if each.check in {"server", "publishing", "permissions"}],
        "permissions", PROBLEM, f"lacks {right} on {lacking}",
    )  # fmt: skip
    assert {each["name"] for each in managed.api("GET", "queues/%2F")} == before
    (delivery,) = seen.receive(use.queue, 1, 10.0)
    assert not delivery.redelivered
    assert found.mend == f"rabbitmqctl set_permissions -p / {user} '.*' '.*' '.*'"


def test_publishing_that_is_not_permitted_is_found(
    managed: ManagedRabbitMQ, make_client: MakeClient, use: QueueUse
) -> None:
    """A user may lack the right to write to the default exchange."""
    url = managed.add_user(f"{use.queue}-mute", configure=".*", write="^qbridge", read=".*")
    found = only(make_client(url).diagnose(), "publishing", PROBLEM, "amq.default")
    mend(managed, found.mend)
    assert bad(make_client(url).diagnose()) == []


def test_an_alarm_is_found(seen: RabbitMQClient, managed: ManagedRabbitMQ) -> None:
    """A broker without memory takes nothing."""
    with managed.out_of_memory():
        wait_for(lambda: bad(seen.diagnose()), 30.0, "the alarm is found")
        only(seen.diagnose(), "publishing", PROBLEM)
    wait_for(lambda: not bad(seen.diagnose()), 30.0, "it is over")


DIFFERENCES: list[tuple[dict[str, Any], FindingStatus, str]] = [
    ({"durable": False}, PROBLEM, "durable is False"),
    ({"auto_delete": True}, PROBLEM, "auto_delete is True"),
    ({"arguments": {"x-message-ttl": 5000}}, PROBLEM, "x-message-ttl is 5000"),
    ({"arguments": {"x-expires": 600_000}}, PROBLEM, "x-expires is 600000"),
    ({"arguments": {"x-max-length": 7}}, PROBLEM, "x-max-length is 7"),
    ({"arguments": {"x-max-length": 7, "x-overflow": "reject-publish"}}, WARNING, "x-max-length is 7"),
    ({}, WARNING, "x-dead-letter-exchange is not set"),
    ({"arguments": {"x-dead-letter-exchange": "theirs"}}, WARNING, "x-dead-letter-exchange is theirs"),
    ({"arguments": {"x-queue-type": "quorum", "x-delivery-limit": 3}}, WARNING, "x-delivery-limit is 3"),
    ({"arguments": {"x-single-active-consumer": True}}, WARNING, "x-single-active-consumer is True"),
]


@pytest.mark.parametrize(("how", "status", "says"), DIFFERENCES, ids=[says for *_, says in DIFFERENCES])
def test_a_queue_that_is_not_as_it_should_be_is_found(
    client: RabbitMQClient, channel: Any, use: QueueUse, how: dict[str, Any], status: FindingStatus, says: str
) -> None:
    """Each difference by itself, with what it means and how to have the queue otherwise; it stays as it is."""
    client.declare(f"{use.queue}-2", use.dead_letter_queue)
    channel.queue_declare(use.queue, **{"durable": True, **how})
    found = [each for each in bad(client.diagnose([use])) if says in each.text]
    assert [(each.check, each.status) for each in found] == [("queue", status)]
    assert f"delete_queue -p / {use.queue} && qbridge declare {use.queue} --dead " in found[0].mend
    channel.queue_declare(use.queue, **{"durable": True, **how})  # else refused


def test_queues_that_are_not_there_are_found_and_not_made(client: RabbitMQClient, channel: Any, use: QueueUse) -> None:
    """The queue and its dead-letter queue, with the command that makes both."""
    for _ in range(2):
        found = bad(client.diagnose([use]))
        assert [(each.check, each.status) for each in found] == [("queue", WARNING), ("dead-letter queue", WARNING)]
        assert {each.mend for each in found} == {f"qbridge declare {use.queue} --dead {use.dead_letter_queue}"}
    channel.queue_declare(use.queue, durable=True)
    assert "there is no queue" in bad(client.diagnose([use]))[-1].text


def test_what_is_no_queue_for_tasks_is_found(client: RabbitMQClient, channel: Any, use: QueueUse) -> None:
    """A stream, and a queue that another connection keeps for itself."""
    client.declare(f"{use.queue}-2", use.dead_letter_queue)
    channel.queue_declare(use.queue, durable=True, arguments={"x-queue-type": "stream"})
    only([each for each in client.diagnose([use]) if each.check == "queue"], "queue", PROBLEM, "is a stream")
    mine = f"{use.queue}-mine"
    channel.queue_declare(mine, exclusive=True)
    found = client.diagnose([QueueUse(mine, use.dead_letter_queue)])
    only([each for each in found if each.check == "queue"], "queue", PROBLEM, "another connection alone")


def test_policies_that_drop_messages_are_found(seen: RabbitMQClient, managed: ManagedRabbitMQ, use: QueueUse) -> None:
    """Of the queue, its delays, suspects and dead letters, with the command that deletes the policy."""
    managed.set_policy(use.queue, f"^{use.queue}-dead$", {"max-length": 5})
    found = only(seen.diagnose([use]), "policies", PROBLEM, "max-length=5", "dead letters are lost")
    mend(managed, found.mend.partition(",")[0])
    assert bad(seen.diagnose([use])) == []


def test_a_queue_that_has_died_is_found(seen: RabbitMQClient, managed: ManagedRabbitMQ, use: QueueUse) -> None:
    """As quorum queues do that are made just before a crash: one of the delays takes messages and never answers."""
    seen.send(use.queue, 1, delay=60.0)
    delayed = f"{use.queue}.qb.delay.0"
    managed.evaluate(f"ra:stop_server(quorum_queues, {{'%2F_{delayed}', node()}}).")
    if not tells_leaders(seen):
        (unknown,) = (each for each in seen.diagnose([use]) if each.check == "queue states")
        assert unknown.status is FindingStatus.NOT_CHECKED
        listed = managed.rabbitmqctl(*shlex.split(unknown.mend)[1:])
        assert f"{delayed}\tdown" in listed
        return
    wait_for(lambda: bad(seen.diagnose([use])), 30.0, "it is found")
    found = only(seen.diagnose([use]), "queue states", PROBLEM, delayed, "tasks are retried at once")
    assert f"delete_queue -p / {delayed}" in found.mend


def test_tasks_that_may_take_longer_than_the_broker_allows_are_found(
    make_client: MakeClient, amqp_url: str, channel: Any, use: QueueUse
) -> None:
    """``consumer_timeout`` against ``task_timeout``, where the queue does not lift it; unknown is not checked."""
    channel.queue_declare(use.queue, durable=True)
    client = make_client(amqp_url, consumer_timeout=60)

    def about(task_timeout: float | None) -> Any:
        found = client.diagnose([QueueUse(use.queue, use.dead_letter_queue, task_timeout)])
        (one,) = (each for each in found if each.check == "consumer_timeout")
        return one

    assert about(60).status is FindingStatus.OK
    assert about(None).status is FindingStatus.NOT_CHECKED
    too_long = about(61)
    assert too_long.status is PROBLEM
    assert "task_timeout is 61 s, but after 60 s" in too_long.text
    assert "consumer_timeout = 122000 in rabbitmq.conf" in too_long.mend


def test_a_prefetch_that_does_not_fit_the_workers_is_found(
    make_client: MakeClient, amqp_url: str, channel: Any, use: QueueUse
) -> None:
    """Too few leave workers idle; too many slow ones are taken away while they wait."""
    channel.queue_declare(use.queue, durable=True)

    def about(prefetch: int, workers: int | None) -> tuple[FindingStatus, str]:
        client: QueueClient = make_client(amqp_url, prefetch=prefetch, consumer_timeout=60)
        found = client.diagnose([QueueUse(use.queue, use.dead_letter_queue, 10.0, workers)])
        (one,) = (each for each in found if each.check == "prefetch")
        return one.status, one.text

    assert about(4, 4)[0] is FindingStatus.OK
    assert about(4, None)[0] is FindingStatus.NOT_CHECKED
    few, many = about(3, 4), about(40, 4)
    assert few[0] is many[0] is WARNING
    assert "no more than 3 do" in few[1]
    assert "after 60 s the broker gives it to another" in many[1]
