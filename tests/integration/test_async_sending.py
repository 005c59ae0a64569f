"""Coroutines send through real brokers: together, without holding up their loop, and with one outcome for each."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import pytest

from qbridge_core import (
    App,
    AsyncQueueClient,
    NotConnectedError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueClient,
    TransientError,
    UnroutableError,
    aconnect,
    connect,
)
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_redis.connection.connection import RedisConnection
from support.proxy import TCPProxy
from support.wait import wait_for

COMPUTED = 0.03  # seconds; on a busy machine everything takes a little longer
SILENCE = 2.0


@pytest.fixture
def queue(url: str, unique_name: str) -> str:
    """A queue that exists."""
    with connect(url) as client:
        client.declare(unique_name)
    return unique_name


@pytest.fixture
def flights(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages, or commands, each write to a broker had."""
    sizes: list[int] = []
    send, send_messages = RedisConnection.send, AmqpConnection.send_messages

    def sent(self: RedisConnection, commands: Sequence[Any], *args: Any) -> None:
        sizes.append(len(commands))
        send(self, commands, *args)

    def messages_sent(self: AmqpConnection, channel: int, messages: Sequence[Any]) -> None:
        sizes.append(len(messages))
        send_messages(self, channel, messages)

    monkeypatch.setattr(RedisConnection, "send", sent)
    monkeypatch.setattr(AmqpConnection, "send_messages", messages_sent)
    return sizes


def bodies(url: str, queue: str) -> Counter[bytes]:
    """What is in a queue."""
    found: Counter[bytes] = Counter()
    with connect(url) as client:
        while batch := client.receive(queue, 1000, 0.5):
            found.update(delivery.body for delivery in batch)
            for delivery in batch:
                client.ack(delivery)
    return found


async def outcome(call: Awaitable[object]) -> str:
    """How a call ends."""
    try:
        await call
    except QBridgeError as exc:
        return type(exc).__name__
    return "sent"


class Lag(NamedTuple):
    """How late a loop was each time that it was to wake, and how long its thread had computed, in seconds."""

    late: list[float]
    computed: list[float]


async def lag(during: Awaitable[object]) -> Lag:
    """Look meanwhile. Other programs make a loop late, too, and do not have its thread compute."""
    found = Lag([], [])

    async def look() -> None:
        while True:
            began, computed = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.005)
            found.late.append(time.monotonic() - began - 0.005)
            found.computed.append(time.thread_time() - computed)

    looking = asyncio.create_task(look())
    await during
    looking.cancel()
    return found


def test_what_is_sent_at_once_shares_its_way(url: str, queue: str, flights: list[int]) -> None:
    """A thousand messages go in some writes, and each of them is there once."""

    async def program() -> None:
        async with aconnect(url) as client:
            flights.clear()
            await asyncio.gather(*[client.publish(queue, b"%d" % number) for number in range(1000)])
            assert len(flights) <= 25

    asyncio.run(program())
    assert bodies(url, queue) == Counter(b"%d" % number for number in range(1000))


def test_threads_and_coroutines_share_their_way(redis_url: str, unique_name: str, flights: list[int]) -> None:
    """On Redis a thread that publishes takes along what coroutines have under way, and the other way round."""
    with connect(redis_url) as client:
        client.declare(unique_name)
        flights.clear()

        async def program() -> None:
            sending = AsyncQueueClient(client)
            await asyncio.gather(*[sending.publish(unique_name, b"%d" % number) for number in range(500)])

        threads = [threading.Thread(target=publish, args=(client, unique_name, start)) for start in (500, 600)]
        for thread in threads:
            thread.start()
        asyncio.run(program())
        for thread in threads:
            thread.join(30.0)
        assert sum(flights) >= 700
    assert bodies(redis_url, unique_name) == Counter(b"%d" % number for number in range(700))


def publish(client: QueueClient, queue: str, start: int) -> None:
    """What a thread publishes."""
    for number in range(start, start + 100):
        client.publish(queue, b"%d" % number)


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Have nobody look for garbage meanwhile: among the objects of a whole run of tests that takes half a second."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
def test_a_silent_broker_holds_up_no_loop(
    url: str, queue: str, tcp_proxy: Callable[[str], TCPProxy], record_property: Callable[[str, object], None]
) -> None:
    """Its lag is that of an idle loop while hundreds of calls wait; each ends in time, with an error that may pass."""
    proxy = tcp_proxy(url)

    async def program() -> None:
        idle = await lag(asyncio.sleep(0.5))
        async with aconnect(proxy.through(url), publish_timeout=SILENCE) as client:
            await client.send(queue, "before")
            proxy.blackhole()
            calls = [client.send(queue, number) for number in range(500)]
            calls += [client.send(queue, number, publish_timeout=SILENCE / 4) for number in range(100)]
            began = time.monotonic()
            waiting = asyncio.gather(*map(outcome, calls))
            await asyncio.sleep(0)  # they begin, all in one turn of the loop, which is not the client's
            silent = await lag(asyncio.wait_for(waiting, 20.0))
            assert time.monotonic() - began < 4 * SILENCE
            assert set(waiting.result()) <= {"PublishUnconfirmedError", "BrokerUnavailableError"}
            record_property("lag", f"idle {max(idle.late):.4f}, silent {max(silent.late):.4f} s")
            assert median(silent.late) < median(idle.late) + 0.01
            assert max(silent.late) < SILENCE / 2  # who waited for the broker would be late by all of it
            assert max(silent.computed) < COMPUTED
            proxy.pass_through()

    asyncio.run(program())


def test_a_short_timeout_behind_long_ones_is_kept(url: str, queue: str, tcp_proxy: Callable[[str], TCPProxy]) -> None:
    """What is under way before it has ten times as much, and it does not wait for that."""
    proxy = tcp_proxy(url)

    async def program() -> float:
        async with aconnect(proxy.through(url), publish_timeout=1.0) as client:
            await client.send(queue, "before")
            proxy.blackhole()
            long = [asyncio.create_task(outcome(client.send(queue, n, publish_timeout=8.0))) for n in range(20)]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            with pytest.raises(TransientError):
                await client.send(queue, "short", publish_timeout=0.5)
            took = time.monotonic() - began
            proxy.reset()
            await asyncio.wait_for(asyncio.gather(*long), 20.0)
            proxy.pass_through()
            return took

    assert asyncio.run(program()) < 4.0


def test_one_message_that_fails_takes_no_other_with_it(url: str, queue: str) -> None:
    """In one turn of the loop some go to a queue that is missing, or are too large."""

    async def program() -> None:
        async with aconnect(url, max_message_bytes=1000) as client:
            kinds = [(queue, b"x"), (f"{queue}-missing", b"x"), (queue, b"x" * 2000)] * 30
            outcomes = await asyncio.gather(*[outcome(client.publish(name, body)) for name, body in kinds])
        assert outcomes == ["sent", "UnroutableError", "MessageTooLargeError"] * 30

    asyncio.run(program())
    assert bodies(url, queue).total() == 30


def test_a_queue_that_was_lost_is_made_again(redis_url: str, unique_name: str) -> None:
    """One that was declared through the client, as a thread that publishes has it made again."""

    async def program() -> None:
        async with aconnect(redis_url) as client, aconnect(redis_url) as other:
            await client.declare(unique_name)
            await asyncio.to_thread(delete, redis_url, unique_name)
            with pytest.raises(UnroutableError):
                await other.send(unique_name, 1)
            await asyncio.gather(*[client.send(unique_name, number) for number in range(50)])
            assert (await client.stats(unique_name)).ready == 50

    asyncio.run(program())


def delete(url: str, key: str) -> None:
    """Delete a key."""
    import redis

    with redis.Redis.from_url(url) as server:
        server.delete(key)


def test_disconnecting_ends_what_is_under_way_in_any_loop(
    url: str, queue: str, tcp_proxy: Callable[[str], TCPProxy]
) -> None:
    """With a silent broker, by another thread: nobody hangs, and nothing is said of a message that is not known."""
    proxy = tcp_proxy(url)
    client = connect(proxy.through(url), publish_timeout=30.0)
    client.publish(queue, b"before")
    proxy.blackhole()
    outcomes: list[str] = []

    async def program() -> None:
        sending = AsyncQueueClient(client)
        outcomes.extend(await asyncio.gather(*[outcome(sending.send(queue, number)) for number in range(300)]))

    thread = threading.Thread(target=lambda: asyncio.run(program()), daemon=True)
    thread.start()
    time.sleep(0.2)  # whether they are under way by then or not, each ends
    client.disconnect()
    thread.join(15.0)
    assert not thread.is_alive()
    assert len(outcomes) == 300
    known = {"PublishUnconfirmedError", "BrokerUnavailableError", "NotConnectedError"}
    assert set(outcomes) <= known


def test_a_cancelled_send_is_carried_out(url: str, queue: str) -> None:
    """Those who are cancelled after they have sent are told nothing; the messages are there."""

    async def program() -> None:
        async with aconnect(url) as client:
            sends = [asyncio.create_task(client.publish(queue, b"%d" % number)) for number in range(100)]
            await asyncio.sleep(0)  # they run
            await asyncio.sleep(0)  # their messages are handed over
            for send in sends:
                send.cancel()
            ended = await asyncio.gather(*sends, return_exceptions=True)
            assert any(isinstance(each, asyncio.CancelledError) for each in ended)

    asyncio.run(program())
    assert bodies(url, queue) == Counter(b"%d" % number for number in range(100))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_opens_its_own(url: str, queue: str) -> None:
    """What it has of its parent is not connected; an app connects anew with its first message."""
    app = App(declare=False)

    @app.task(name="a", queue=queue)
    def a(number: int) -> None: ...

    with app.open(url) as inner:
        client = AsyncQueueClient(inner)
        asyncio.run(a.asend(1))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(a.asend(2))
                try:
                    asyncio.run(client.send(queue, 3))
                except NotConnectedError:
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asyncio.run(client.send(queue, 4))
        wait_for(lambda: inner.stats(queue).ready == 3)


def test_handlers_send_with_the_client_of_their_worker(url: str, unique_name: str) -> None:
    """``asend`` in a coroutine that is a task, many at once."""
    app, ran = App(), Counter[str]()

    @app.task(name="one", queue=unique_name)
    async def one(number: int) -> None:
        ran["one"] += 1
        await asyncio.gather(*[two.asend(number) for _ in range(5)])

    @app.task(name="two", queue=f"{unique_name}-two")
    async def two(number: int) -> None:
        ran["two"] += 1

    with app.open(url):
        app.send_many(one.message(number) for number in range(20))
        app.run_until_idle()
    assert ran == {"one": 20, "two": 100}


def test_a_flight_that_is_lost_is_unconfirmed(url: str, queue: str, tcp_proxy: Callable[[str], TCPProxy]) -> None:
    """A connection that is reset under it: nobody says that messages are not there which may be."""
    proxy = tcp_proxy(url)

    async def program() -> list[str]:
        async with aconnect(proxy.through(url), publish_timeout=10.0) as client:
            await client.publish(queue, b"before")
            proxy.blackhole()
            calls = [asyncio.create_task(outcome(client.publish(queue, b"x"))) for _ in range(50)]
            await asyncio.sleep(0.3)
            proxy.reset()
            outcomes = await asyncio.gather(*calls)
            proxy.pass_through()
            return outcomes

    outcomes = asyncio.run(program())
    assert "sent" not in outcomes
    assert PublishUnconfirmedError.__name__ in outcomes
