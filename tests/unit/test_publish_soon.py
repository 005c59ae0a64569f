"""``publish_soon`` of clients that have none of their own, and the threads and futures that it is made of."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from qbridge_core import BrokerUnavailableError, Message, PublishUnconfirmedError, connect, hookimpl
from qbridge_core.backend import HelperThreads, Promise, Promises, monotonic
from qbridge_core.contract.asides import Asides
from qbridge_memory import MemoryClient
from support.wait import wait_for

CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("CONTEXT")


class Loud(MemoryClient):
    """A backend from before there was ``publish_soon``, derived from one that has it."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self.heard: list[tuple[bytes, str, float | None]] = []

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        """Say what, where and for how long."""
        super().publish(queue, body, **options)
        self.heard.append((body, threading.current_thread().name, options["timeout"]))


class Aloud:
    """The same for any client."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        """Publish with an exclamation mark."""
        super().publish(queue, body + b"!", **options)  # type: ignore[misc]


class MemoryAloud(Aloud, MemoryClient):  # type: ignore[misc]
    """Inherits both methods, each from another class."""


def test_a_client_that_overrides_publish_is_called_by_a_thread() -> None:
    """What it derives from would go past it; the thread gives it what is left of the time."""
    with Loud() as client:
        client.declare("q")
        client.publish_soon("q", [Message(b"1")], timeout=5.0)[0].result(5.0)
        client.publish_soon("q", [Message(b"2")])[0].result(5.0)
    (first, second) = client.heard
    assert (first[0], first[1]) == (b"1", "qbridge-publish")
    assert first[2] is not None
    assert 4.0 < first[2] <= 5.0
    assert second[2] is None


def test_a_publish_that_comes_from_a_mixin_counts_too() -> None:
    """Whichever of the classes has it: what is published in any way is published by it."""
    with MemoryAloud() as client:
        client.declare("q")
        client.publish_soon("q", [Message(b"1")])[0].result(5.0)
        assert [delivery.body for delivery in client.receive("q")] == [b"1!"]


def test_hooks_are_called_by_the_thread_that_publishes() -> None:
    """Both in one thread, which is not the caller's, and with the context variables of the caller."""
    calls: list[tuple[str, str, str]] = []

    class Plugin:
        @hookimpl
        def qbridge_before_publish(self) -> Mapping[str, str]:
            calls.append(("before", threading.current_thread().name, CONTEXT.get("")))
            return {"tenant": "a"}

        @hookimpl
        def qbridge_published(self, exception: BaseException | None) -> None:
            calls.append((repr(exception), threading.current_thread().name, CONTEXT.get("")))

    with connect("memory://", plugins=[Plugin()]) as client:
        client.declare("q")
        token = CONTEXT.set("request-7")
        client.publish_soon("q", [Message(b"1")])[0].result(5.0)
        CONTEXT.reset(token)
        assert client.receive("q")[0].headers == {"tenant": "a"}
    assert calls == [("before", "qbridge-publish", "request-7"), ("None", "qbridge-publish", "request-7")]


def test_a_call_that_waits_for_a_thread_too_long_is_not_made(release: threading.Event) -> None:
    """Its error says that nothing was done; that of one which was begun, that nobody knows."""
    asides, made = Asides("test-asides"), []
    begun = [asides.call(release.wait, 0.2) for _ in range(32)]
    waiting = asides.call(lambda: made.append(1), 0.0)
    assert isinstance(waiting.exception(10.0), BrokerUnavailableError)
    assert {type(each.exception(10.0)) for each in begun} == {PublishUnconfirmedError}
    release.set()
    assert asides.call(lambda: "next").result(10.0) == "next"
    assert made == []


def test_what_a_call_raises_is_in_its_future() -> None:
    """Any exception: there is nobody else who could learn of it."""
    asides = Asides("test-asides")
    future: Future[object] = asides.call(lambda: {}["missing"])
    assert isinstance(future.exception(10.0), KeyError)


def test_without_a_thread_the_future_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller, an event loop, gets no RuntimeError of the system's."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asides = Asides("test-asides")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        error = asides.call(lambda: None).exception(0)
    assert isinstance(error, BrokerUnavailableError)
    assert isinstance(error.__cause__, RuntimeError)
    assert asides.call(lambda: 1).result(10.0) == 1


# ---------------------------------------------------------------------- threads


def test_helpers_are_as_many_as_are_needed_and_end_when_they_are_not(release: threading.Event) -> None:
    """No more than the most; calls beyond them wait, and an idle thread takes the next one."""
    threads, done = HelperThreads("test-helper", 3), []

    def call() -> None:
        release.wait()
        done.append(threading.current_thread())

    for _ in range(5):
        threads.run(call)
    wait_for(lambda: len(named("test-helper")) == 3)
    release.set()
    wait_for(lambda: len(done) == 5)
    threads.run(call)
    wait_for(lambda: len(done) == 6)
    assert len({thread.ident for thread in done}) <= 3
    wait_for(lambda: not named("test-helper"), 10.0)


def test_a_helper_survives_what_it_calls() -> None:
    """The next call does not wait in vain for the thread."""
    threads, done = HelperThreads("test-helper", 1), threading.Event()
    threads.run(lambda: {}["missing"])
    threads.run(done.set)
    assert done.wait(10.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_helpers_of_its_own() -> None:
    """The threads of its parent do not exist there."""
    asides, client = Asides("test-asides"), Loud()
    assert asides.call(lambda: 1).result(10.0) == 1
    client.connect()
    client.declare("q")
    client.publish_soon("q", [Message(b"1")])[0].result(10.0)
    threads = HelperThreads("test-helper")
    threads.run(lambda: None)
    child = os.fork()
    if child == 0:
        done = threading.Event()
        threads.run(done.set)
        refused = client.publish_soon("q", [Message(b"2")])[0].exception(5.0)
        os._exit(0 if done.wait(5.0) and refused is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---------------------------------------------------------------------- futures


def test_a_promise_ends_at_its_deadline_or_before_and_once() -> None:
    """One that is added later and is due earlier, too; who comes second learns that it has ended."""
    promises: Promises[Promise] = Promises(lambda _: TimeoutError("late"), "test-deadlines")
    later, sooner, kept = (Promise(monotonic() + seconds) for seconds in (60.0, 0.05, 60.0))
    for promise in (later, sooner, kept):
        promises.add(promise)
    assert isinstance(sooner.future.exception(10.0), TimeoutError)
    assert promises.keep(kept, result=7)
    assert kept.future.result(0) == 7
    assert not promises.keep(sooner)
    assert (later in promises, len(promises)) == (True, 1)
    promises.end_all(lambda _: ConnectionError())
    assert isinstance(later.future.exception(0), ConnectionError)
    assert not later.future.cancel()
    wait_for(lambda: not named("test-deadlines"), 10.0)


def test_promises_that_come_when_the_watch_is_about_to_end_are_watched() -> None:
    """Its thread ends when there are none; nothing that is added meanwhile is forgotten."""
    promises: Promises[Promise] = Promises(lambda _: TimeoutError("late"), "test-deadlines")
    for _ in range(3):
        promise = Promise(monotonic() + 0.05)
        promises.add(promise)
        assert isinstance(promise.future.exception(10.0), TimeoutError)
        wait_for(lambda: not named("test-deadlines"), 10.0)


def test_a_watch_survives_what_it_calls() -> None:
    """One whose error cannot be made does not keep the others from ending."""
    calls: list[Promise] = []

    def late(promise: Promise) -> BaseException:
        calls.append(promise)
        if len(calls) == 1:
            raise RuntimeError
        return TimeoutError("late")

    promises: Promises[Promise] = Promises(late, "test-deadlines")
    first, second = Promise(monotonic() + 0.05), Promise(monotonic() + 0.1)
    promises.add(first)
    promises.add(second)
    assert isinstance(second.future.exception(10.0), TimeoutError)
    assert isinstance(first.future.exception(10.0), RuntimeError)


def named(name: str) -> list[threading.Thread]:
    """The threads of this name."""
    return [thread for thread in threading.enumerate() if thread.name == name]
