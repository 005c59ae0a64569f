"""What Redis tells of queues: by the consumer group, and what SCAN finds."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

import pytest

from integration.redis.helpers import Cli, MakeClient, take
from qbridge_core import AuthenticationError, QueueStats
from qbridge_core.runtime.logs import flush
from qbridge_redis import RedisClient
from qbridge_redis.queues import admin, finding
from support.rights import acl_rights
from support.wait import wait_for

_RIGHTS = [rule for rule in acl_rights()["worker"] if rule.startswith("+")]
_WORKER = textwrap.dedent(
    """
    import sys
    from qbridge_core import TaskManager, connect

    client = connect(sys.argv[1])
    TaskManager(client, lambda payload: print("ran", flush=True), sys.argv[2], sys.argv[3]).start()
    """
)


def test_a_killed_worker_is_a_consumer_for_the_time_of_a_lease(
    client: RedisClient, queue: str, dead: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker is counted as long as it lives, and no longer than a lease when it was killed."""
    monkeypatch.setattr(admin, "_ALIVE", 2.0)
    client.send(queue, 1)
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, f"{redis_url}?lease=1", queue, dead], stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        try:
            seen, idle_until = [], time.monotonic() + 3.0
            while time.monotonic() < idle_until:
                seen.append(client.describe(queue).consumers)
        finally:
            os.kill(worker.pid, signal.SIGKILL)
    assert set(seen) == {1}
    assert client.describe(queue).consumers == 1
    wait_for(lambda: client.describe(queue).consumers == 0, 10.0, "it is not counted any more", interval=0.1)


def test_what_was_handed_back_without_a_copy_has_no_consumer(client: RedisClient, queue: str, cli: Cli) -> None:
    """Such an entry is in the name of nobody."""
    client.send(queue, 1)
    take(client, queue)
    consumers = client.describe(queue).consumers
    entry = cli("XRANGE", queue, "-", "+")[0][0]  # type: ignore[index, call-overload]
    cli("XCLAIM", queue, "qbridge", "qbridge:returned:1:0", "0", entry)
    assert client.describe(queue).consumers == consumers == 1


def test_the_age_is_that_of_the_first_entry_that_nobody_has_read(client: RedisClient, queue: str, cli: Cli) -> None:
    """By the server's clock; entries that are held are not asked, and one of the future is new."""
    now = int(cli("TIME")[0])  # type: ignore[index, arg-type]
    cli("XADD", queue, f"{(now - 100) * 1000}-0", "body", "{}")
    cli("XADD", queue, f"{(now - 50) * 1000}-0", "body", "{}")
    assert 99 < (client.describe(queue).oldest_age or 0) < 130
    take(client, queue)
    assert 49 < (client.describe(queue).oldest_age or 0) < 80
    take(client, queue)
    cli("XADD", queue, f"{(now + 500) * 1000}-0", "body", "{}")
    assert client.describe(queue).oldest_age == 0.0


@pytest.mark.parametrize(("look", "scripts"), [("stats", 1), ("count", 0)])
def test_a_queue_is_looked_at_in_one_round_trip(
    client: RedisClient, queue: str, monkeypatch: pytest.MonkeyPatch, look: str, scripts: int
) -> None:
    """With all that ``stats`` tells; who only counts has the server run no script."""
    asked: list[list[Any]] = []

    def ask(context: Any, connection: Any, commands: Sequence[Any]) -> list[Any]:
        asked.append([command[0] for command in commands])
        return admin_ask(context, connection, commands)

    admin_ask = admin.ask
    monkeypatch.setattr(admin, "ask", ask)
    client.send(queue, 1)
    assert getattr(client, look)(queue) == QueueStats(1, 0, 0)
    (commands,) = asked
    assert commands.count("EVALSHA") == scripts


def test_streams_with_the_group_are_the_queues(make_client: MakeClient, queue: str, cli: Cli) -> None:
    """Of all clients with this prefix and group; no other streams or keys, and no names that no queue can have."""
    prefix = f"{queue}[*]?:"
    mine, theirs = make_client(prefix=prefix), make_client(prefix=prefix)
    theirs.declare("emails", "emails-failed")
    theirs.declare("orders")
    theirs.send("orders", 1, delay=3600)
    (mine.declare("letters"), make_client(prefix=prefix, group="other").declare("of-another-group"))
    cli("XADD", f"{prefix}log", "*", "line", "1")
    cli("SET", f"{prefix}text", "1")
    cli("XGROUP", "CREATE", f"{prefix}bad\nname", "qbridge", "0", "MKSTREAM")
    cli("XGROUP", "CREATE", f"{queue}abc:emails", "qbridge", "0", "MKSTREAM")
    assert mine.queues() == {"emails": None, "emails-failed": None, "letters": None, "orders": None}
    assert theirs.queues() == {"emails": "emails-failed", "emails-failed": None, "letters": None, "orders": None}


def test_a_list_that_is_not_complete_is_a_warning(
    make_client: MakeClient, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The look at the keys ends in time, however many there are; what was declared is listed all the same."""
    client = make_client(prefix=f"{queue}:")
    for number in range(30):
        client.declare(f"q{number}")
    monkeypatch.setattr(finding, "_PAGE", 1)
    monkeypatch.setattr("qbridge_redis.client.operations._LISTING_TIME", 0.0)
    assert len(client.queues()) == 30
    flush()
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["so many keys that not all could be looked at" in record.message for record in told] == [True]


def test_who_may_not_scan_may_not_list(make_client: MakeClient, redis_url: str, queue: str, cli: Cli) -> None:
    """The refusal is an error of QBridge's; what a description needs a worker may do anyway."""
    cli("ACL", "SETUSER", queue, "on", ">x", f"~{queue}*", *_RIGHTS)
    try:
        limited = make_client(redis_url.replace("//", f"//{queue}:x@"))
        limited.declare(queue)
        limited.send(queue, 1)
        description = limited.describe(queue)
        assert (description.ready, description.dead, description.consumers) == (1, 0, 0)
        with pytest.raises(AuthenticationError, match="list queues"):
            limited.queues()
        cli("ACL", "SETUSER", queue, "+scan")
        assert limited.queues() == {queue: None}
        limited.disconnect()
    finally:
        cli("ACL", "DELUSER", queue)
