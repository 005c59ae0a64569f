"""Pauses on Redis: marks that are keys beside the stream."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from redis.crc import key_slot

from integration.redis.helpers import Cli, MakeClient
from qbridge_core import AuthenticationError, QueueMismatchError, TaskManager
from qbridge_core.logs import flush
from qbridge_redis import RedisClient
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.protocol.keys import Keys
from support.brokers import RedisBroker
from support.wait import wait_for


def test_the_mark_is_a_key_beside_the_stream(
    client: RedisClient, make_client: MakeClient, cli: Cli, queue: str
) -> None:
    """Whoever looks with redis-cli sees it, and may take it away; a prefix is before it, too."""
    client.pause(queue)
    assert cli("TYPE", f"{queue}:paused") == "zset"
    cli("DEL", f"{queue}:paused")
    assert client.paused([queue]) == set()
    prefixed = make_client(prefix=f"{queue}/")
    prefixed.pause("q")
    assert cli("EXISTS", f"{queue}/q:paused") == 1
    prefixed.resume("q")
    assert cli("EXISTS", f"{queue}/q:paused") == 0


@pytest.mark.parametrize(("name", "key"), [("q", b"{q}:paused"), ("{a}.q", b"{a}.q:paused")])
def test_on_a_cluster_the_mark_has_the_slot_of_its_queue(name: str, key: bytes) -> None:
    """So that a node is asked for what it holds."""
    assert Keys("", cluster=True).paused(name) == key
    assert key_slot(key) == key_slot(name.encode())


def test_a_queue_with_the_name_of_a_mark_is_no_mark(client: RedisClient, queue: str) -> None:
    """It may have been there before there were pauses; pausing the other one is refused, and nothing is overwritten."""
    client.declare(f"{queue}:paused")
    client.publish(f"{queue}:paused", b"x")
    assert client.paused([queue, f"{queue}:paused"]) == set()
    assert client.stats(queue).paused is False
    with pytest.raises(QueueMismatchError, match=":paused"):
        client.pause(queue)
    assert client.stats(f"{queue}:paused").ready == 1


def test_a_user_who_may_not_look_at_the_marks_works(
    broker: RedisBroker, make_client: MakeClient, queue: str, dead: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the keys that it needed before there were pauses a worker works, and says once what it cannot see."""
    keys = [f"~{name}{suffix}" for name in (queue, dead, f"{queue}.suspects") for suffix in ("", ":delayed")]
    broker.cli("ACL", "SETUSER", "worker", "on", ">secret", *keys, "+@all")
    client = make_client(broker.url.replace("//", "//worker:secret@"), lease=1.0)
    with (
        caplog.at_level(logging.WARNING, "qbridge"),
        TaskManager(client, lambda _: None, queue, dead, max_workers=2) as manager,
    ):
        client.send(queue, 1)
        assert manager.run_until_idle(30.0).succeeded == 1
        assert client.stats(queue).paused is None
        with pytest.raises(AuthenticationError):
            client.pause(queue)
        broker.cli("ACL", "SETUSER", "worker", f"~{queue}:paused")
        client.pause(queue)
        wait_for(lambda: manager.paused, 10.0)
        client.resume(queue)
    flush()
    assert len([each for each in caplog.records if "cannot look which queues are paused" in each.getMessage()]) == 1


def test_a_look_is_one_question_for_all_queues(
    client: RedisClient, make_client: MakeClient, queue: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as none of them is paused; and a pause is seen by those that it concerns."""
    asked: Counter[str] = Counter()
    send = RedisConnection.send

    def counting(self: Any, commands: Any, *args: Any) -> Any:
        for command in commands:
            asked[f"{command[0]} {len(command) - 1}"] += b":paused" in bytes(str(command), "utf-8")
        return send(self, commands, *args)

    monkeypatch.setattr(RedisConnection, "send", counting)
    with ExitStack() as stack:
        managers = [TaskManager(client, print, f"{queue}-{n}", dead, max_workers=1) for n in range(5)]
        for manager in managers:
            stack.enter_context(manager)
        wait_for(lambda: asked["EXISTS 5"] >= 1, 20.0)
        asked.clear()
        wait_for(lambda: asked["EXISTS 5"] >= 2, 20.0)
        assert asked["EXISTS 1"] == 0
        make_client().pause(f"{queue}-3")
        wait_for(lambda: managers[3].paused, 20.0)
        assert [manager.paused for manager in managers].count(True) == 1
        client.resume(f"{queue}-3")
