"""Threads that publish at the same time share the way to the server; each has its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from integration.redis.helpers import Cli, MakeClient
from qbridge_core import BrokerUnavailableError, PublishUnconfirmedError, QBridgeError, UnroutableError
from qbridge_core.backend import HelperThreads
from qbridge_redis import RedisClient
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.publish.shared_exchange import SharedExchange, _Awaited, _State
from support.brokers import RedisBroker
from support.proxy import TCPProxy
from support.wait import wait_for

THREADS = 16


@pytest.fixture
def pool() -> Iterable[ThreadPoolExecutor]:
    """As many threads as publish at the same time."""
    with ThreadPoolExecutor(THREADS) as executor:
        yield executor


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each write to a server had."""
    sizes: list[int] = []
    send = RedisConnection.send

    def counted(self: RedisConnection, commands: Sequence[Any], *args: Any) -> None:
        sizes.append(len(commands))
        send(self, commands, *args)

    monkeypatch.setattr(RedisConnection, "send", counted)
    return sizes


def stored(client: RedisClient, queue: str, count: int) -> list[bytes]:
    """The bodies in a queue, in their order."""
    bodies: list[bytes] = []
    wait_for(lambda: bodies.extend(d.body for d in client.receive(queue, count, 1.0)) or len(bodies) >= count, 20.0)
    return bodies


def outcome(future: Future[Any]) -> str:
    """How a call has ended."""
    error = future.exception()
    return "ok" if error is None else type(error).__name__


def test_g1_each_of_many_threads_has_its_message_stored_once_and_in_its_order(
    client: RedisClient, queue: str, pool: ThreadPoolExecutor, writes: list[int]
) -> None:
    """They share writes, and what one thread publishes stays in its order."""

    def publish(thread: int) -> None:
        for number in range(50):
            client.publish(queue, b"%d %d" % (thread, number))

    writes.clear()
    list(pool.map(publish, range(THREADS)))
    assert len(writes) < THREADS * 50 * 0.8
    bodies = stored(client, queue, THREADS * 50)
    for thread in range(THREADS):
        numbers = [int(body.split()[1]) for body in bodies if body.split()[0] == b"%d" % thread]
        assert numbers == list(range(50))


def test_g1_a_refusal_reaches_only_the_thread_that_it_is_meant_for(
    client: RedisClient, queue: str, pool: ThreadPoolExecutor, writes: list[int]
) -> None:
    """A misspelled queue is the error of its own caller, whoever shares the write with it."""

    def publish(number: int) -> None:
        client.publish(queue if number % 4 else f"{queue}-typo", b"x")

    futures = [pool.submit(publish, number) for number in range(400)]
    wait(futures)
    assert max(writes) > 1
    assert {outcome(futures[number]) for number in range(0, 400, 4)} == {UnroutableError.__name__}
    assert {outcome(futures[number]) for number in range(400) if number % 4} == {"ok"}
    assert client.stats(queue).ready == 300


def test_g1_a_lost_connection_is_told_to_each_thread_whose_message_it_may_have_lost(
    make_client: MakeClient,
    tcp_proxy: Callable[[str], TCPProxy],
    redis_url: str,
    cli: Cli,
    queue: str,
    pool: ThreadPoolExecutor,
) -> None:
    """While connections are cut again and again, what was confirmed is there, and nobody waits for ever."""
    proxy = tcp_proxy(redis_url)
    client = make_client(proxy.through(redis_url))
    client.declare(queue)
    futures: dict[bytes, Future[None]] = {}
    over = time.monotonic() + 2.0
    number = 0
    while time.monotonic() < over:
        for _ in range(THREADS):
            body = b"%d" % number
            futures[body] = pool.submit(client.publish, queue, body)
            number += 1
        proxy.reset()
        time.sleep(0.005)  # the pace of the faults
    wait(futures.values(), 30)
    outcomes = {body: outcome(future) for body, future in futures.items()}
    assert set(outcomes.values()) <= {"ok", PublishUnconfirmedError.__name__, BrokerUnavailableError.__name__}
    assert len(set(outcomes.values())) > 1, "no call met a fault"
    bodies = stored(make_client(redis_url), queue, cli("XLEN", queue))
    assert len(bodies) == len(set(bodies)), "a message was sent twice"
    assert {body for body, how in outcomes.items() if how == "ok"} <= set(bodies)
    assert not {body for body, how in outcomes.items() if how == BrokerUnavailableError.__name__} & set(bodies)


def test_a_silent_server_keeps_each_thread_for_its_own_time(
    make_client: MakeClient, broker: RedisBroker, queue: str, pool: ThreadPoolExecutor, writes: list[int]
) -> None:
    """A short timeout of one thread is not the end of the others' messages, nor a long one that of its patience."""
    client = make_client(broker.url)
    client.declare(queue)
    client.publish(queue, b"connected")
    broker.suspend()
    writes.clear()
    first = pool.submit(client.publish, queue, b"long", timeout=60.0)
    wait_for(lambda: writes, 5.0)
    short = [pool.submit(client.publish, queue, b"short", timeout=0.3) for _ in range(4)]
    second = pool.submit(client.publish, queue, b"long", timeout=60.0)
    for future in short:
        with pytest.raises(PublishUnconfirmedError):
            future.result(20)
    assert not first.done()
    assert not second.done()
    broker.resume()
    first.result(20)
    second.result(20)
    assert client.stats(queue).ready == 3


def test_without_a_server_each_thread_fails_in_its_own_time(
    make_client: MakeClient, broker: RedisBroker, queue: str, pool: ThreadPoolExecutor
) -> None:
    """They do not wait for each other's vain attempts to connect, and the messages go through afterwards."""
    client = make_client(broker.url)
    client.declare(queue)
    broker.kill()
    futures = [pool.submit(client.publish, queue, b"x", timeout=5.0) for _ in range(THREADS)]
    wait(futures, 30)
    assert {outcome(future) for future in futures} <= {
        BrokerUnavailableError.__name__,
        PublishUnconfirmedError.__name__,
    }
    broker.start()

    def goes_through() -> bool:
        try:
            client.publish(queue, b"x", timeout=5.0)
        except QBridgeError:
            return False
        return True

    wait_for(goes_through, 20.0)
    list(pool.map(lambda _: client.publish(queue, b"x"), range(THREADS)))


def test_an_interrupted_thread_leaves_the_others_their_answers(pool: ThreadPoolExecutor) -> None:
    """Ctrl-C in the thread that reads the replies: the others learn that theirs is in doubt, and publishing goes on."""
    started, go = threading.Event(), threading.Event()

    def exchange(commands: Sequence[Any], deadline: float) -> list[Any]:
        started.set()
        assert go.wait(20)
        if len(commands) > 1:
            raise KeyboardInterrupt
        return list(commands)

    shared = SharedExchange(exchange, HelperThreads("test").run)
    deadline = time.monotonic() + 60
    futures = [pool.submit(shared.reply, "0", 1, deadline)]
    assert started.wait(20)
    futures += [pool.submit(shared.reply, str(number), 1, deadline) for number in range(1, 5)]
    wait_for(lambda: len(shared._waiting) == 4, 20.0)
    go.set()
    wait(futures, 20)
    outcomes = sorted(outcome(future) for future in futures)
    assert outcomes == [*["ConnectionError"] * 3, "KeyboardInterrupt", "ok"]
    assert shared.reply("5", 1, deadline) == "5"


def test_a_thread_that_is_interrupted_while_it_waits_keeps_nobody_on_the_ground(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been chosen to lead next in that moment; somebody else does."""
    started, go = threading.Event(), threading.Event()

    def exchange(commands: Sequence[Any], deadline: float) -> list[Any]:
        started.set()
        assert go.wait(20)
        return list(commands)

    def interrupted(self: _Awaited) -> bool:
        if self.command == "chosen":
            go.set()
            wait_for(lambda: self.state is _State.LEADS, 20.0)
            raise KeyboardInterrupt
        return waits(self)

    waits = _Awaited.wait
    monkeypatch.setattr(_Awaited, "wait", interrupted)
    shared = SharedExchange(exchange, HelperThreads("test").run)
    deadline = time.monotonic() + 60
    first = pool.submit(shared.reply, "first", 1, deadline)
    assert started.wait(20)
    chosen = pool.submit(shared.reply, "chosen", 1, deadline)
    assert first.result(20) == "first"
    assert isinstance(chosen.exception(20), KeyboardInterrupt)
    assert shared.reply("last", 1, deadline) == "last"


def test_who_has_much_more_time_than_the_leader_waits_for_another_exchange(pool: ThreadPoolExecutor) -> None:
    """The time of all ends with the leader's, so only those go along who lose next to none of theirs."""
    started, go = threading.Event(), threading.Event()
    flown: list[list[Any]] = []

    def exchange(commands: Sequence[Any], deadline: float) -> list[Any]:
        started.set()
        assert go.wait(20)
        flown.append(list(commands))
        return list(commands)

    shared = SharedExchange(exchange, HelperThreads("test").run)
    now = time.monotonic()
    futures = [pool.submit(shared.reply, "first", 1, now + 30)]
    assert started.wait(20)
    for number, seconds in enumerate([30, 31, 60, 60], start=1):
        futures.append(pool.submit(shared.reply, number, 1, now + seconds))
        wait_for(lambda number=number: len(shared._waiting) == number, 20.0)  # type: ignore[misc]
    go.set()
    wait(futures, 20)
    assert flown == [["first"], [1, 2], [3, 4]]
