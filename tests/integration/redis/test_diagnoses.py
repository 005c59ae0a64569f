"""What ``diagnose`` finds on Redis: each finding is caused for real, and what mends it does."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine

from integration.redis.deployments import Node
from integration.redis.helpers import MakeClient
from qbridge_core import FindingStatus, QueueUse
from qbridge_redis import RedisClient
from support.brokers import RedisBroker, find_program
from support.findings import bad, only, unchecked

PROBLEM, WARNING = FindingStatus.PROBLEM, FindingStatus.WARNING
USER = "worker"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisBroker]:
    """A server whose settings these tests change, and set back."""
    if not RedisBroker.available():
        pytest.skip("Redis is not installed")
    broker = RedisBroker(tmp_path_factory.mktemp("redis"))
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def use(queue: str, dead: str) -> QueueUse:
    """How the queue of the test is used."""
    return QueueUse(queue, dead, task_timeout=10.0, workers=4)


@pytest.fixture
def client(make_client: MakeClient, server: RedisBroker, use: QueueUse) -> RedisClient:
    """A client that has declared the queue."""
    client = make_client(server.url)
    client.declare(use.queue, use.dead_letter_queue)
    return client


def mend(server: RedisBroker, command: str) -> None:
    """Run the commands that a finding names; without a file of settings nothing can be rewritten."""
    for one in command.partition(" && CONFIG REWRITE")[0].split("; "):
        server.cli(*shlex.split(one))


def test_a_healthy_server_has_no_finding(client: RedisClient, use: QueueUse) -> None:
    """Everything is looked at and well, also beside messages that wait and are delayed."""
    client.send(use.queue, 1)
    client.send(use.queue, 2, delay=60.0)
    found = client.diagnose([use])
    assert bad(found) == []
    assert unchecked(found) == set()
    assert any("answers at" in each.text for each in found)


def test_a_server_as_it_comes_has_one_warning(tmp_path: Path, make_client: MakeClient, use: QueueUse) -> None:
    """Without an append-only file a crash costs confirmed messages; nothing else is wrong with the defaults."""
    if find_program("redis-server", "valkey-server") is None:
        pytest.skip("Redis is not installed")
    server = Node(tmp_path, appendonly="no", appendfsync="everysec")
    server.start()
    try:
        client = make_client(server.url)
        client.declare(use.queue, use.dead_letter_queue)
        found = only(client.diagnose([use]), "persistence", WARNING, "appendonly is no")
        mend(server, found.mend)
        assert bad(client.diagnose([use])) == []
    finally:
        client.disconnect()
        server.close()


@pytest.mark.parametrize(
    ("setting", "value", "check", "status", "says"),
    [
        ("maxmemory-policy", "allkeys-lru", "memory", PROBLEM, "whole queues are deleted"),
        ("maxmemory", "almost", "memory", WARNING, "publishing stops when it is full"),
        ("appendfsync", "no", "persistence", WARNING, "appendfsync is no"),
    ],
)
def test_a_setting_that_costs_messages_is_found(
    client: RedisClient, server: RedisBroker, use: QueueUse, setting: str, value: str, check: str,
    status: FindingStatus, says: str,
) -> None:  # fmt: skip
    """With the command that sets it right."""
    (_, before) = server.cli("CONFIG", "GET", setting)  # type: ignore[misc]
    memory = next(line for line in str(server.cli("INFO", "memory")).splitlines() if line.startswith("used_memory:"))
    wanted = str(int(int(memory.partition(":")[2]) * 1.05)) if value == "almost" else value
    server.cli("CONFIG", "SET", setting, wanted)
    try:
        found = only(client.diagnose([use]), check, status, says)
        mend(server, found.mend)
        assert bad(client.diagnose([use])) == []
    finally:
        server.cli("CONFIG", "SET", setting, str(before))


def test_replicas_that_are_missing_are_found(make_client: MakeClient, server: RedisBroker, use: QueueUse) -> None:
    """Publishing waits for one, and there is none."""
    client = make_client(server.url, wait_replicas=1)
    client.declare(use.queue, use.dead_letter_queue)
    found = only(client.diagnose([use]), "replicas", PROBLEM, "has 0 replicas, and publishing waits for 1")
    assert found.mend.endswith("wait_replicas=0")


def test_a_replica_is_found(client: RedisClient, server: RedisBroker) -> None:
    """It takes no writes."""
    server.cli("REPLICAOF", "127.0.0.1", "1")
    try:
        assert "is a replica" in only(client.diagnose(), "server", PROBLEM).text
    finally:
        server.cli("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    "rights",
    [["-xack"], ["-xlen", "-zcard"], ["-evalsha", "-eval"], ["-xadd", "-xreadgroup"], ["-xgroup"]],
    ids=" ".join,
)
def test_a_missing_right_is_found(
    client: RedisClient, server: RedisBroker, make_client: MakeClient, use: QueueUse, rights: list[str]
) -> None:
    """Each by its name, with the command that grants it; nothing is written or read for that."""
    client.send(use.queue, 1)
    server.cli("ACL", "SETUSER", USER, "reset", "on", ">secret", "~*", "+@all", *rights)
    limited = make_client(server.url.replace("//", f"//{USER}:secret@"))
    found = [each for each in bad(limited.diagnose([use])) if each.check == "permissions"]
    assert [each.status for each in found] == [PROBLEM]
    for right in rights:
        if right != "-eval":
            assert right[1:] in found[0].text
    assert server.cli("XLEN", use.queue) == 1
    mend(server, found[0].mend)
    assert bad(limited.diagnose([use])) == [] or rights == ["-evalsha", "-eval"]


def test_keys_that_may_not_be_used_are_found(
    client: RedisClient, server: RedisBroker, make_client: MakeClient, use: QueueUse
) -> None:
    """A user of other queues."""
    server.cli("ACL", "SETUSER", USER, "reset", "on", ">secret", "~other*", "+@all")
    found = make_client(server.url.replace("//", f"//{USER}:secret@")).diagnose([use])
    (about,) = (each for each in bad(found) if each.check == "permissions")
    assert f"on the key {use.queue}" in about.text
    assert f"~{use.queue}" in about.mend


def test_what_a_user_may_not_ask_is_not_checked(
    client: RedisClient, server: RedisBroker, make_client: MakeClient, use: QueueUse
) -> None:
    """Such a right is useful and not needed."""
    server.cli("ACL", "SETUSER", USER, "reset", "on", ">secret", "~*", "+@all", "-info", "-config", "-zcount")
    found = make_client(server.url.replace("//", f"//{USER}:secret@")).diagnose([use])
    assert bad(found) == []
    assert unchecked(found) == {"server", "memory", "persistence", "replicas", "delays"}
    assert {each.mend for each in found if each.mend} == {"ACL SETUSER worker +info", "ACL SETUSER worker +zcount"}


@pytest.mark.parametrize("seconds", [60, -60])
def test_clocks_that_differ_are_found(client: RedisClient, use: QueueUse, seconds: int) -> None:
    """In either direction."""
    with time_machine.travel(time.time() + seconds):
        found = client.diagnose([use])
    only(found, "clock", WARNING, f"{abs(seconds)} s {'behind' if seconds > 0 else 'ahead of'}")


def test_queues_that_are_not_there_are_found_and_not_made(
    make_client: MakeClient, server: RedisBroker, use: QueueUse
) -> None:
    """The queue and its dead-letter queue, with the command that makes both."""
    found = bad(make_client(server.url).diagnose([use]))
    assert [(each.check, each.status) for each in found] == [("queue", WARNING), ("dead-letter queue", WARNING)]
    assert {each.mend for each in found} == {f"qbridge declare {use.queue} --dead {use.dead_letter_queue}"}
    assert server.cli("EXISTS", use.queue, str(use.dead_letter_queue)) == 0


def test_keys_and_groups_of_others_are_found(client: RedisClient, server: RedisBroker, use: QueueUse) -> None:
    """A key that is no stream or no sorted set, and a second consumer group."""
    server.cli("XGROUP", "CREATE", use.queue, "theirs", "0")
    found = only(client.diagnose([use]), "queue", WARNING, "'theirs'", "tasks run twice")
    mend(server, found.mend.partition("; or")[0])
    server.cli("SET", f"{use.queue}:delayed", "x")
    only(client.diagnose([use]), "delays", PROBLEM, "no sorted set")
    server.cli("DEL", f"{use.queue}:delayed")
    server.cli("SET", f"{use.queue}-2", "x")
    found = only(client.diagnose([QueueUse(f"{use.queue}-2", use.dead_letter_queue)]), "queue", PROBLEM, "is no stream")
    assert f"DEL {use.queue}-2" in found.mend


def test_delayed_messages_that_nobody_delivers_are_found(
    make_client: MakeClient, server: RedisBroker, use: QueueUse, client: RedisClient
) -> None:
    """No client looks after the queue."""
    client.disconnect()
    server.cli("ZADD", f"{use.queue}:delayed", 1, "x")
    looker = make_client(server.url)
    found = only(looker.diagnose([use]), "delays", WARNING, "1 delayed messages have been due for more than 10 s")
    assert found.mend == "start a worker of the queue"
