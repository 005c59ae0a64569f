"""What the server refuses is kept, tried again, said once, and holds up nothing else."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from integration.redis.helpers import Cli, MakeClient, failure, take
from qbridge_core import (
    AuthenticationError,
    DeliveryLostError,
    Message,
    QueueStats,
    Reason,
    TaskManager,
)
from qbridge_redis import RedisClient
from support.brokers import RedisBroker
from support.wait import wait_for

USER = "worker"


@pytest.fixture
def limited(broker: RedisBroker, make_client: MakeClient, queue: str, dead: str) -> RedisClient:
    """A client whose user may do everything, until a test takes something from it."""
    broker.cli("ACL", "SETUSER", USER, "on", ">secret", "~*", "+@all")
    client = make_client(broker.url.replace("//", f"//{USER}:secret@"), lease=1.0)
    client.declare(queue, dead)
    return client


def _allow(broker: RedisBroker, *rules: str) -> None:
    broker.cli("ACL", "SETUSER", USER, *rules)


def _has_refused(broker: RedisBroker, command: str) -> bool:
    """Whether the server has refused the command to somebody (redis.io/docs/latest/commands/acl-log)."""
    entries = broker.cli("ACL", "LOG")
    assert isinstance(entries, list)
    return any(command in entry for entry in entries if isinstance(entry, list))


@pytest.mark.parametrize("right", ["xack", "xdel"])
def test_g3_what_is_finished_runs_once_though_acknowledging_is_forbidden(
    limited: RedisClient, broker: RedisBroker, queue: str, dead: str, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Acknowledgements are kept until the right is granted; then all leave. One line names what is missing."""
    runs: Counter[object] = Counter()
    limited.send_many(queue, range(5))
    _allow(broker, f"-{right}")
    with (
        caplog.at_level(logging.WARNING, "qbridge.redis"),
        TaskManager(limited, lambda payload: runs.update([payload]), queue, dead, max_workers=2),
    ):
        wait_for(lambda: len(runs) == 5, 10.0)
        time.sleep(1.5)  # a lease: nobody else takes it over, and this worker does not either
        _allow(broker, f"+{right}")
        wait_for(lambda: limited.stats(queue) == QueueStats(0, 0, 0), 10.0, "they are not sent again")
    assert set(runs.values()) == {1}
    errors = [r.getMessage() for r in caplog.records if r.name == "qbridge.redis" and r.levelno >= logging.ERROR]
    assert [text for text in errors if right in text and queue in text] == errors
    assert len(errors) == 1


def test_g4_no_more_is_taken_than_can_be_remembered(limited: RedisClient, broker: RedisBroker, queue: str) -> None:
    """While acknowledging is forbidden, what is finished and not removed has a bound."""
    limited.publish_many(queue, [Message(b"x") for _ in range(300)])
    _allow(broker, "-xdel")
    for _ in range(10):
        for delivery in limited.receive(queue, 20, 0.05):
            limited.ack(delivery)
        limited.flush(0.05)
    assert 100 <= limited.stats(queue).in_flight <= 140
    _allow(broker, "+xdel")

    def work_off() -> bool:
        for delivery in limited.receive(queue, 100, 0.1):
            limited.ack(delivery)
        return limited.stats(queue) == QueueStats(0, 0, 0)

    wait_for(work_off, 10.0)


def test_g4_what_a_flush_was_refused_is_sent_when_it_is_allowed(
    limited: RedisClient, broker: RedisBroker, queue: str
) -> None:
    """The thread that sends acknowledgements sleeps meanwhile, and nothing else would wake it."""
    limited.publish(queue, b"x")
    delivery = take(limited, queue)
    _allow(broker, "-xdel")
    delivery.tag.in_flight.ack(delivery.tag)  # as when the flush has taken it before that thread has seen it
    assert not limited.flush(0.05)
    _allow(broker, "+xdel")
    wait_for(lambda: limited.stats(queue) == QueueStats(0, 0, 0), 10.0, "it is not sent again")


@pytest.mark.parametrize(
    ("right", "settle"),
    [
        ("xdel", lambda client, delivery, queue: client.reject(delivery, failure=failure(queue))),
        ("xack", lambda client, delivery, queue: client.reject(delivery, requeue=False)),
    ],
)
def test_g2_a_refused_settlement_makes_no_copy(
    limited: RedisClient, broker: RedisBroker, queue: str, dead: str, right: str, settle: Callable[..., None]
) -> None:
    """Where the original could not be removed, nothing is written either: scripts do not roll back."""
    limited.publish(queue, b"x")
    delivery = take(limited, queue)
    _allow(broker, f"-{right}")
    for _ in range(2):
        with pytest.raises((AuthenticationError, DeliveryLostError)):
            settle(limited, delivery, queue)
    assert broker.cli("XLEN", queue) == 1
    assert broker.cli("XLEN", dead) == 0
    assert limited.stats(queue).delayed == 0


def test_g2_delayed_and_replayed_messages_are_not_multiplied(
    limited: RedisClient, broker: RedisBroker, queue: str, dead: str
) -> None:
    """Without the right to remove them from where they are, they stay there and no copy is made."""
    broker.cli("XADD", dead, "*", "body", "letter")
    _allow(broker, "-zrem", "-xdel")
    limited.publish(queue, b"later", delay=0.01)
    with pytest.raises(AuthenticationError):
        limited.replay(dead, target=queue)
    wait_for(lambda: _has_refused(broker, "zrem"), 10.0, "nothing tries to deliver what is delayed")
    assert broker.cli("XLEN", queue) == 0
    _allow(broker, "+zrem", "+xdel")
    assert limited.replay(dead, target=queue) == 1
    wait_for(lambda: limited.stats(queue) == QueueStats(2, 0, 0), 5.0)


@pytest.mark.parametrize("restarted", [False, True])
def test_g5_a_refused_dead_letter_goes_back_and_is_written_later_without_another_run(
    make_client: MakeClient, broker: RedisBroker, queue: str, dead: str, restarted: bool
) -> None:
    """Its slot is free for others meanwhile; what was counted comes with it, to another process too."""
    runs: Counter[object] = Counter()

    def handler(payload: object) -> None:
        runs[payload] += 1
        if payload == "bad":
            raise ValueError("broken")

    client = make_client(broker.url, lease=1.0)
    client.declare(queue, dead)
    options: dict[str, Any] = {"max_workers": 1, "max_retries": 1}
    with TaskManager(client, handler, queue, dead, **options):
        broker.cli("DEL", dead)
        broker.cli("SET", dead, "not a stream")
        client.send(queue, "bad")
        wait_for(lambda: _consumer(broker, queue).startswith("qbridge:returned:2:0:failed"), 10.0)
        client.send(queue, "good")
        wait_for(lambda: runs["good"], 10.0, "the slot is held")
        if not restarted:
            broker.cli("DEL", dead)
            wait_for(lambda: client.stats(dead).ready == 1, 10.0)
    if restarted:
        client.disconnect()
        broker.cli("DEL", dead)
        client = make_client(broker.url, lease=1.0)
        with TaskManager(client, handler, queue, dead, **options):
            wait_for(lambda: client.stats(dead).ready == 1, 10.0)
    (letter,) = client.dead_letters(dead)
    assert (letter.reason, letter.attempts, letter.crashes) == (Reason.FAILED, 2, 0)
    assert ("the broker refused" if restarted else "broken") in letter.exception_message
    assert runs == {"bad": 2, "good": 1}


def _consumer(broker: RedisBroker, queue: str) -> str:
    """Who holds the first pending entry."""
    rows = broker.cli("XPENDING", queue, "qbridge", "-", "+", 1)
    return str(rows[0][1]) if rows else ""  # type: ignore[index]


def test_g8_a_hand_back_needs_no_right_to_write(
    limited: RedisClient, broker: RedisBroker, make_client: MakeClient, queue: str
) -> None:
    """Where no copy can be made, the message itself is given back at once, and nothing is counted."""
    other = make_client(broker.url, lease=1.0)
    other.receive(queue, 1, 1.1)
    limited.publish_many(queue, [Message(b"x"), Message(b"y")])
    first, _ = limited.receive(queue, 2, 5.0)
    _allow(broker, "-xadd")
    limited.reject(first)
    limited.disconnect()
    begin = time.monotonic()
    received = [take(other, queue), take(other, queue)]
    assert time.monotonic() - begin < 5.0
    assert {d.body for d in received} == {b"x", b"y"}
    assert {(d.attempts, d.crashes, d.suspected) for d in received} == {(0, 0, False)}


def test_g19_one_delayed_message_that_is_refused_stops_no_settlement(
    limited: RedisClient, broker: RedisBroker, cli: Cli, queue: str
) -> None:
    """The loss of a right ends no thread: what was delayed comes when it is granted again."""
    limited.publish(queue, b"later", delay=0.05)
    _allow(broker, "-xadd")
    wait_for(lambda: _has_refused(broker, "xadd"), 10.0, "nothing tries to deliver what is delayed")
    _allow(broker, "+xadd")
    assert take(limited, queue).body == b"later"
