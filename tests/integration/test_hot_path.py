"""What quick tasks cost on the way to the broker, in counts that do not depend on the machine."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qbridge_core import TaskManager, connect
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_redis.connection.connection import RedisConnection

TASKS = 5_000


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls that write to a broker, and those that wake the thread that does; each one is still made."""
    counted: Counter[str] = Counter()

    def count(owner: type, name: str, size: Callable[[Any], int] = lambda _: 1) -> None:
        method = getattr(owner, name)

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            counted[f"size of {name}"] += size(args[0]) if args else 1
            return method(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(RedisConnection, "send", len)
    count(AmqpConnection, "_output_marshaled_frames", len)
    count(AmqpConnection, "_adapter_emit_data", len)
    count(IOThread, "_work")
    return counted


def consume(url: str, queue: str, counts: Counter[str], body: str = "") -> None:
    """Work off so many tasks that do nothing, with ten threads; count from the first run to the last."""
    number = itertools.count(1)
    done = threading.Event()

    def handler(_: object) -> None:
        if (now := next(number)) == 1:
            counts.clear()
        elif now == TASKS:
            done.set()

    with connect(url) as client:
        client.declare(queue, f"{queue}-dead")
        client.send_many(queue, [body] * TASKS)
        with TaskManager(client, handler, queue, f"{queue}-dead", max_workers=10):
            assert done.wait(60.0)
            counted = counts.copy()
        client.flush()
    counts.clear()
    counts.update(counted)


def test_redis_is_asked_once_for_many_quick_tasks(redis_url: str, unique_name: str, counts: Counter[str]) -> None:
    """One write carries the acknowledgements of a batch and the request for the next one: both far from one a task."""
    consume(redis_url, unique_name, counts)
    assert 0 < counts["send"] < TASKS / 4
    assert counts["size of send"] < TASKS / 2


def test_rabbitmq_gets_one_acknowledgement_for_many_quick_tasks(
    amqp_url: str, unique_name: str, counts: Counter[str]
) -> None:
    """Acknowledgements are sent for many tasks together, and the I/O thread is woken for many of them once."""
    consume(amqp_url, unique_name, counts)
    assert 0 < counts["_output_marshaled_frames"] < TASKS / 2
    assert counts["size of _output_marshaled_frames"] < TASKS
    assert counts["_work"] < TASKS / 2


def test_rabbitmq_acknowledges_messages_of_some_kb_without_giving_the_interpreters_lock_away(
    amqp_url: str, unique_name: str, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """hashlib does that for each 2 KB or more, and another worker thread takes its turn: it is not called for them."""
    digest = hashlib.sha256

    def counting(*args: Any, **kwargs: Any) -> Any:
        counts["digests"] += 1
        return digest(*args, **kwargs)

    monkeypatch.setattr(hashlib, "sha256", counting)
    consume(amqp_url, unique_name, counts, "x" * 10_000)
    assert counts["digests"] == 0
    assert counts["_work"] > 0


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_many_messages_are_published_in_few_writes(
    scheme: str, redis_url: str, amqp_url: str, unique_name: str, counts: Counter[str]
) -> None:
    """``send_many`` writes some hundred messages at once; all are confirmed in the end."""
    with connect(redis_url if scheme == "redis" else amqp_url) as client:
        client.declare(unique_name)
        counts.clear()
        client.send_many(unique_name, range(2_000))
        assert counts["send"] + counts["_output_marshaled_frames"] <= 30
        assert client.stats(unique_name).ready == 2_000
        client.purge(unique_name)


def test_rabbitmq_needs_no_turn_of_the_loop_to_write_a_message(
    amqp_url: str, unique_name: str, counts: Counter[str]
) -> None:
    """What the socket takes goes there at once; nothing is left for pika to write when its loop comes round."""
    with connect(amqp_url) as client:
        client.declare(unique_name)
        client.send(unique_name, 0)
        counts.clear()
        for payload in range(1, 20):
            client.send(unique_name, payload)
        assert counts["_output_marshaled_frames"] >= 19
        assert counts["_adapter_emit_data"] == 0
        client.purge(unique_name)


def test_what_many_threads_send_at_once_shares_writes(amqp_url: str, unique_name: str, counts: Counter[str]) -> None:
    """``send`` of sixteen threads: the I/O thread writes what has come since it looked last, not each by itself."""
    with connect(amqp_url) as client, ThreadPoolExecutor(16) as threads:
        client.declare(unique_name)
        client.send(unique_name, 0)
        counts.clear()
        list(threads.map(lambda payload: client.send(unique_name, payload), range(2_000)))
        assert 0 < counts["_output_marshaled_frames"] < 1_500
        assert client.stats(unique_name).ready == 2_001
        client.purge(unique_name)
