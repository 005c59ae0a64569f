"""G20: the threads of the Redis backend outlive whatever is raised in one of their turns, and say so."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from integration.redis.helpers import take
from qbridge_redis import RedisClient
from qbridge_redis.master import Master
from qbridge_redis.nodes import OneServer
from support.wait import wait_for


@pytest.fixture
def master(client: RedisClient) -> Master:
    """What the client has for its server."""
    assert isinstance(client._nodes, OneServer)
    return client._nodes.master


def raise_once(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
    """Have the next call of a method raise what nobody expects."""
    method = getattr(where, name)

    def bad(*args: Any) -> Any:
        monkeypatch.setattr(where, name, method)
        raise ZeroDivisionError("nobody expects this")

    monkeypatch.setattr(where, name, bad)


def was_said(caplog: pytest.LogCaptureFixture, who: str) -> bool:
    """Whether one record says that this goes on."""
    records = [record for record in caplog.records if record.exc_info and record.exc_info[0] is ZeroDivisionError]
    return len(records) == 1 and f"{who} goes on after an unexpected error" in records[0].getMessage()


def test_g20_maintenance_goes_on(
    client: RedisClient, master: Master, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A delayed message is delivered though the first look for it failed."""
    raise_once(monkeypatch, master.maintenance._delays, "deliver_due")
    client.publish(queue, b"later", delay=0.05)
    assert take(client, queue).body == b"later"
    assert was_said(caplog, "maintenance")


def test_g20_acknowledging_goes_on(
    client: RedisClient, master: Master, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be sent at first is sent, though nobody else acknowledges anything."""
    client.publish(queue, b"done")
    delivery = take(client, queue)
    raise_once(monkeypatch, master.acknowledgements, "_send_idle")
    client.ack(delivery)
    wait_for(
        lambda: not any(each.has_acks for each in master.nodes[0].context.all_in_flight()), 10.0, "it is never sent"
    )
    assert was_said(caplog, "the thread that acknowledges")


def test_g20_reading_many_queues_goes_on(
    client: RedisClient, master: Master, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread that reads for several queues reads again."""
    raise_once(monkeypatch, master.shared_reader, "_turn")
    client.publish(queue, b"x")
    (delivery,) = client.receive_any({queue: 1}, 10.0)
    client.ack(delivery)
    assert was_said(caplog, "reading")


def test_g20_queues_are_read_together_as_soon_as_there_is_a_thread_for_it(
    client: RedisClient, master: Master, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for several queues is told that the system has no thread left, and gets what comes when it has one."""
    start = threading.Thread.start

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == "qbridge-redis-reader":
            monkeypatch.setattr(threading.Thread, "start", start)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    client.publish(queue, b"there")
    with pytest.raises(RuntimeError):
        client._nodes.several.receive({queue: 1}, 10.0, threading.Event(), threading.Event())
    assert [each.body for each in client.receive_any({queue: 1}, 10.0)] == [b"there"]
