"""``AsyncQueueClient``: what coroutines see of a client, whatever becomes of them, their loop or the client."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from datetime import date
from typing import Any

import pytest

from qbridge_core import (
    App,
    AsyncQueueClient,
    BrokerUnavailableError,
    ConfigurationError,
    Message,
    NotConnectedError,
    PayloadError,
    PublishUnconfirmedError,
    QueueClient,
    UnroutableError,
    aconnect,
    connect,
    hookimpl,
    register_backend,
    use_plugins,
)
from qbridge_core.backend import Ended
from qbridge_core.logs import flush
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Held(MemoryClient):
    """Confirms what it has got when it is told to."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self.held: list[Future[None]] = []

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        """Hold the confirmations back."""
        for done in super().publish_soon(queue, messages, **options):
            done.result(0)
        futures: list[Future[None]] = [Future() for _ in messages]
        for future in futures:
            future.set_running_or_notify_cancel()
        self.held += futures
        return futures

    def confirm(self, error: Exception | None = None) -> None:
        """Confirm the oldest one, or say what is wrong with it."""
        future = self.held.pop(0)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


@pytest.fixture
def held() -> Iterator[Held]:
    """A connected client with the queue ``q``."""
    with Held() as client:
        client.declare("q", "q.dead")
        yield client


async def until(condition: Any) -> None:
    """Wait for a condition in a coroutine."""
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110 - other threads bring it about
            await asyncio.sleep(0.001)


def test_it_does_what_a_client_does_for_those_who_send() -> None:
    """By the same names, with the same results."""

    async def program() -> None:
        async with aconnect("memory://") as client:
            assert (client.connected, client.capabilities.delay) == (True, True)
            await client.declare("q", "q.dead")
            assert await client.send("q", {"n": 1}, task_id="order-7", headers={"tenant": "a"}) == "order-7"
            assert len(await client.send_many("q", (number for number in range(2)), publish_timeout=5.0)) == 2
            await client.publish("q", b"raw", headers={"a": "b"}, message_id="m-1", timeout=5.0)
            await client.publish_many("q", [Message(b"x"), Message(b"y")], timeout=5.0)
            await client.send("q", 1, delay=60.0, publish_timeout=5.0)
            assert (await client.stats("q")).ready == 6
            deliveries = await asyncio.to_thread(client.queue_client.receive, "q", 10)
            assert [delivery.headers.get("tenant") for delivery in deliveries[:2]] == ["a", None]
            assert (deliveries[3].body, deliveries[3].message_id) == (b"raw", "m-1")
            client.queue_client.reject(deliveries[3], requeue=False)
            (letter,) = await client.dead_letters("q.dead")
            assert await client.replay("q.dead", letters=[letter]) == 1
            assert (await client.stats("q")).ready == 1
        assert not client.connected

    asyncio.run(program())


async def numbers() -> AsyncIterator[int]:
    """What only a coroutine can go through."""
    yield 1


def test_a_program_without_a_block_awaits_its_client() -> None:
    """It disconnects in the end; types and encoders are those of ``send``."""

    async def program() -> None:
        client = await aconnect("memory://", max_in_flight=5)
        await client.declare("q")
        await client.send("q", {"day": date(2026, 1, 2)}, encoder=date.isoformat, expires=60.0)
        await client.send_many("q", [date(2026, 1, 3)], encoder=date.isoformat, expires=60.0)
        bodies = [delivery.body for delivery in client.queue_client.receive("q", 2)]
        assert [body.count(b'"expires') for body in bodies] == [1, 1]
        assert b"2026-01-02" in bodies[0]
        await client.disconnect()
        assert not client.connected

    asyncio.run(program())


def test_errors_are_those_of_the_client() -> None:
    """Of the broker and of arguments; nobody has to know that a thread was between."""

    async def program() -> None:
        async with aconnect("memory://") as client:
            with pytest.raises(UnroutableError):
                await client.send("missing", 1)
            with pytest.raises(PayloadError):
                await client.send("q", object())
            with pytest.raises(PayloadError, match="async for"):
                await client.send_many("q", numbers())  # type: ignore[arg-type]
            with pytest.raises(PayloadError, match="not one str"):
                await client.send_many("q", "payload")
            with pytest.raises(ConfigurationError, match="queue comes first"):
                await client.publish(b"body", "q")  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="timeout"):
                await client.send("q", 1, publish_timeout="soon")  # type: ignore[arg-type]
            with pytest.raises(PayloadError, match="headers"):
                await client.publish("q", b"", headers=["a"])  # type: ignore[arg-type]
        with pytest.raises(NotConnectedError):
            await client.send("q", 1)

    asyncio.run(program())


def test_what_is_no_client_is_refused() -> None:
    """A URL is the natural mistake, and the error says how to write it."""
    with pytest.raises(ConfigurationError, match=r"aconnect\(url\)"):
        AsyncQueueClient("memory://")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_in_flight"):
        AsyncQueueClient(MemoryClient(), max_in_flight=0)

    async def program() -> None:
        async with aconnect("nonsense://"):
            pass

    with pytest.raises(ConfigurationError, match="nonsense"):
        asyncio.run(program())
    with pytest.raises(AttributeError, match=r"no 'send' yet: write `async with aconnect"):
        aconnect("memory://").send("q", 1)  # type: ignore[attr-defined]


def test_one_beyond_those_under_way_waits_for_room(held: Held) -> None:
    """And no longer than its time: then it has not been sent."""

    async def program() -> None:
        client = AsyncQueueClient(held, max_in_flight=2)
        sends = [asyncio.create_task(client.send("q", number)) for number in range(4)]
        await until(lambda: len(held.held) == 2)
        with pytest.raises(BrokerUnavailableError, match="2 are under way"):
            await client.send("q", 9, publish_timeout=0.05)
        assert len(held.held) == 2
        held.confirm()
        await until(lambda: len(held.held) == 2)
        assert held.stats("q").ready == 3
        while not all(send.done() for send in sends):
            if held.held:
                held.confirm()
            await asyncio.sleep(0.001)

    asyncio.run(program())


def test_a_cancelled_send_goes_on_and_keeps_its_room(held: Held) -> None:
    """The message is there; room is free when the broker has confirmed it."""

    async def program() -> None:
        client = AsyncQueueClient(held, max_in_flight=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.send("q", 1)
        second = asyncio.create_task(client.send("q", 2))
        await asyncio.sleep(0.02)
        assert len(held.held) == 1
        held.confirm()
        await until(lambda: held.held)
        held.confirm()
        await second

    asyncio.run(program())
    assert held.stats("q").ready == 2


def test_a_cancelled_wait_for_room_sends_nothing(held: Held) -> None:
    """It was not sent yet, so nothing goes on; its room goes to the next one."""

    async def program() -> None:
        client = AsyncQueueClient(held, max_in_flight=1)
        first = asyncio.create_task(client.send("q", 1))
        await until(lambda: held.held)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.send("q", 2)
        held.confirm()
        await first
        third = asyncio.create_task(client.send("q", 3))
        await until(lambda: held.held)
        held.confirm()
        await third

    asyncio.run(program())
    assert held.stats("q").ready == 2


def test_what_fails_when_nobody_waits_for_it_is_logged(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    """After a cancellation, and after the end of its loop."""

    async def cancelled() -> None:
        client = AsyncQueueClient(held)
        send = asyncio.create_task(client.send("q", 1))
        await until(lambda: held.held)
        send.cancel()
        await asyncio.gather(send, return_exceptions=True)
        held.confirm(PublishUnconfirmedError("nobody knows"))
        await asyncio.sleep(0.05)

    async def left() -> None:
        send = asyncio.create_task(AsyncQueueClient(held).send("q", 1))
        await until(lambda: held.held)
        send.cancel()

    asyncio.run(cancelled())
    asyncio.run(left())
    held.confirm(PublishUnconfirmedError("nobody knows"))
    flush()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert all("a message for 'q'" in line and "nobody knows" in line for line in lines)


def test_many_loops_and_threads_use_one_client() -> None:
    """Each has its answers; what the loops have under way is counted apart."""
    with connect("memory://") as inner:
        inner.declare("q")
        client = AsyncQueueClient(inner)

        async def program() -> None:
            await asyncio.gather(*[client.send("q", number) for number in range(100)])

        threads = [threading.Thread(target=lambda: asyncio.run(program())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        assert inner.stats("q").ready == 400
        asyncio.run(program())
        assert len(client._sends._loops) == 1  # those of loops that are closed are forgotten


class Direct(MemoryClient):
    """Tells coroutines of the end of their messages without futures."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        """What it derives from will do here."""
        return super().publish_soon(queue, messages, **options)

    def _publish_then(self, queue: str, messages: Sequence[Message], ended: Ended, **options: Any) -> None:
        for position, done in enumerate(super().publish_soon(queue, messages, **options)):
            ended(position, done.exception(0))


class Marking(Direct):
    """Has a ``publish_soon`` of its own."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        """Mark each message."""
        marked = [Message(message.body, {"mark": "here"}, message.message_id) for message in messages]
        return super().publish_soon(queue, marked, **options)


class Marker:
    """The same by a plugin."""

    @hookimpl
    def qbridge_before_publish(self) -> dict[str, str]:
        """Mark a message."""
        return {"mark": "here"}


@pytest.mark.parametrize(("kind", "plugins"), [(Marking, ()), (Direct, (Marker(),))], ids=["subclass", "plugin"])
def test_coroutines_do_not_go_past_what_replaces_the_publishing_of_a_client(
    kind: type[Direct], plugins: Sequence[object]
) -> None:
    """A subclass of a backend that tells them of the end without futures is asked, and so are plugins."""
    with kind() as client:
        client.declare("q")
        use_plugins(client, plugins)
        asyncio.run(AsyncQueueClient(client).send("q", 1))
        (delivery,) = client.receive("q")
        assert delivery.headers == {"mark": "here"}


def test_disconnecting_waits_for_what_is_under_way(held: Held) -> None:
    """Also for what nobody waits for any more: who leaves the block has been told the truth by then."""

    async def program() -> None:
        client = AsyncQueueClient(held)
        send = asyncio.create_task(client.send("q", 1))
        await until(lambda: held.held)
        send.cancel()
        leaving = asyncio.create_task(client.disconnect())
        await asyncio.sleep(0.05)
        assert (leaving.done(), held.connected) == (False, True)
        held.confirm()
        await leaving
        assert not held.connected

    asyncio.run(program())


def test_leaving_waits_for_what_has_only_been_begun() -> None:
    """Tasks made just before, those that wait for room, and what threads do, such as opening the queue of an app."""
    app = App()

    @app.task(name="a", queue="q")
    def a(number: int) -> None:
        pass

    async def sent(leave_at_once: bool) -> list[Any]:
        async with aconnect("memory://leaving", max_in_flight=3) as client:
            await client.declare("q", "q.dead")
            sends = [asyncio.create_task(client.send("q", number)) for number in range(300)]
            sends.append(asyncio.create_task(client.send_many("q", range(10))))  # type: ignore[arg-type]
            if not leave_at_once:
                await asyncio.sleep(0)
        assert not client.connected
        async with app.aopen("memory://leaving"):
            sends += [asyncio.create_task(a.asend(number)) for number in range(300)]
        assert not app.is_connected
        return await asyncio.gather(*sends)

    for leave_at_once in (False, True):
        assert len(asyncio.run(sent(leave_at_once))) == 601


def test_who_goes_on_sending_keeps_nobody_from_leaving() -> None:
    """What begins after the end of the block has begun is not waited for."""

    async def program() -> None:
        async def send_for_ever() -> None:
            while True:
                await client.send("q", 1)

        async with aconnect("memory://", max_in_flight=2) as client:
            await client.declare("q", "q.dead")
            sends = [asyncio.create_task(send_for_ever()) for _ in range(5)]
            await asyncio.sleep(0.02)
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert {type(each) for each in results} == {NotConnectedError}

    async def limited() -> None:
        async with asyncio.timeout(10.0):
            await program()

    asyncio.run(limited())


def test_who_is_cancelled_while_it_connects_leaves_no_client() -> None:
    """The thread that connects cannot be stopped; it disconnects when it is through."""
    begun, go = threading.Event(), threading.Event()
    made: list[QueueClient] = []

    class Slow(MemoryClient):
        def connect(self) -> None:
            begun.set()
            go.wait(20.0)
            super().connect()
            made.append(self)

    register_backend("slow-to-connect", lambda url, options: Slow())

    async def program() -> None:
        async def opened() -> None:
            async with aconnect("slow-to-connect://"):
                raise AssertionError

        opening = asyncio.create_task(opened())
        await until(begun.is_set)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(program())
    go.set()
    wait_for(lambda: made and not made[0].connected, 10.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_forked_child_it_is_not_connected() -> None:
    """Nothing that the child does hangs, or reaches its parent's connection."""
    with connect("memory://") as inner:
        inner.declare("q")
        client = AsyncQueueClient(inner)
        asyncio.run(client.send("q", 1))
        client._sends._under_way.add(Future())  # as if something were under way, which ends in this process alone
        assert asyncio.run(client.stats("q")).ready == 1
        child = os.fork()
        if child == 0:
            outcomes = [error(client.send("q", 2)), error(client.stats("q")), error(client.send_many("q", [3]))]
            outcomes.append(error(client.disconnect()) or NotConnectedError())
            os._exit(0 if all(isinstance(each, NotConnectedError) for each in outcomes) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def error(call: Any) -> BaseException | None:
    """What a coroutine raises in a loop of its own."""
    try:
        asyncio.run(call)
    except Exception as exc:
        return exc
    return None


# ---------------------------------------------------------------------- apps


def test_an_app_sends_from_coroutines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected by the first message or by ``aopen``; ``asend_many`` mixes tasks and delays, as ``send_many`` does."""
    app, ran = App(), []

    @app.task(name="a", queue="as")
    def a(number: int) -> None:
        ran.append(number)

    @app.task(name="b", queue="bs")
    async def b(number: int) -> None:
        ran.append(number)
        if number < 12:
            await b.asend(number + 1)  # a handler sends, too

    async def program() -> None:
        async with app.aopen("memory://async-app", start_timeout=1.0) as client:
            assert app.is_connected
            ids = await asyncio.gather(*[a.options(publish_timeout=5.0).asend(number) for number in range(3)])
            ids += await app.asend_many(each for each in (b.message(10), a.options(delay=0.01).message(3)))
            assert len(set(ids)) == 5
            assert (await client.stats("as")).ready >= 3
        assert not app.is_connected

    asyncio.run(program())
    monkeypatch.setenv("QBRIDGE_URL", "memory://async-app")
    asyncio.run(a.asend(4))
    app.run_until_idle()
    app.close()
    assert sorted(ran) == [0, 1, 2, 3, 4, 10, 11, 12]


def test_messages_that_come_before_there_is_a_connection_share_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a broker that does not answer each would wait for the tries of those before it; each has its own error."""
    tries: list[float] = []
    all_have_come = threading.Event()

    class Away(MemoryClient):
        def connect(self) -> None:
            tries.append(time.monotonic())
            assert all_have_come.wait(60.0)
            raise BrokerUnavailableError("it does not answer")

    register_backend("away-for-all", lambda url, options: Away())
    monkeypatch.setenv("QBRIDGE_URL", "away-for-all://")
    app = App()

    @app.task(name="a")
    def a(number: int) -> None: ...

    async def program() -> list[Any]:
        all_have_come.clear()
        sends = [asyncio.ensure_future(a.asend(number)) for number in range(200)]
        await asyncio.sleep(0)
        all_have_come.set()
        return await asyncio.gather(*sends, return_exceptions=True)

    errors = asyncio.run(program())
    assert {type(each) for each in errors} == {BrokerUnavailableError}
    assert len({id(each) for each in errors}) == 200
    assert len(tries) == 1
    asyncio.run(program())
    assert len(tries) == 2


def test_cancelled_while_it_opens_an_app_is_closed_again() -> None:
    """Else it would be open for the whole process, and nobody would close it."""
    begun, go = threading.Event(), threading.Event()

    class Slow(MemoryClient):
        def connect(self) -> None:
            begun.set()
            go.wait(20.0)
            super().connect()

    register_backend("slow-to-open", lambda url, options: Slow())
    app = App()

    async def program() -> None:
        async def opened() -> None:
            async with app.aopen("slow-to-open://"):
                raise AssertionError

        opening = asyncio.create_task(opened())
        await until(begun.is_set)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)

    asyncio.run(program())
    go.set()

    def reopened() -> bool:
        try:
            app.connect("memory://")
        except ConfigurationError:
            return False
        return True

    wait_for(reopened, 10.0)
    app.close()
