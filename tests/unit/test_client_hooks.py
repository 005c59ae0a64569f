"""The hooks of a client: what they see of what is published, and what they may add."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    Message,
    PayloadError,
    QueueClient,
    TaskManager,
    UnroutableError,
    connect,
    hookimpl,
    use_plugins,
)
from qbridge_core.contract.events import ConnectionEvents
from qbridge_core.contract.producing import Producing
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Tracer:
    """Adds a header to each message, and remembers what it hears."""

    def __init__(self, **added: Any) -> None:
        self.added = added or {"traceparent": "00-1"}
        self.seen: list[tuple[str, str | None, Mapping[str, str], str, object]] = []
        self.published: list[tuple[str, int, type[BaseException] | None]] = []

    @hookimpl
    def qbridge_before_publish(
        self, queue: str, message_id: str | None, headers: Mapping[str, str], system: str, server: object
    ) -> Mapping[str, Any]:
        """Add a header."""
        self.seen.append((queue, message_id, headers, system, server))
        return self.added

    @hookimpl
    def qbridge_published(self, queue: str, count: int, duration: float, exception: BaseException | None) -> None:
        """Remember."""
        assert duration >= 0.0
        self.published.append((queue, count, None if exception is None else type(exception)))


@pytest.fixture
def tracer() -> Tracer:
    """One that adds ``traceparent``."""
    return Tracer()


@pytest.fixture
def traced(tracer: Tracer) -> Iterator[QueueClient]:
    """A client with it."""
    with connect("memory://", plugins=[tracer]) as client:
        client.declare("q", "d")
        yield client


def headers_in(client: QueueClient, queue: str = "q") -> list[dict[str, str]]:
    """The headers of the messages that wait in the queue."""
    return [dict(delivery.headers) for delivery in client.receive(queue, 100)]


def test_each_way_to_send_adds_the_headers(traced: QueueClient, tracer: Tracer) -> None:
    """One call of the hook for each message, one at the end of each call of the client."""
    traced.publish("q", b"1", message_id="m")
    traced.send("q", 2)
    traced.publish_many("q", [Message(b"3"), Message(b"4")])
    traced.send_many("q", [5, 6, 7])
    assert headers_in(traced) == [{"traceparent": "00-1"}] * 7
    assert tracer.seen[0] == ("q", "m", {}, "memory", None)
    assert len(tracer.seen) == 7
    assert tracer.published == [("q", 1, None), ("q", 1, None), ("q", 2, None), ("q", 3, None)]


def test_the_headers_of_the_producer_stay(traced: QueueClient, tracer: Tracer) -> None:
    """The hook sees them, and what it returns for one of them is left out."""
    traced.send("q", 1, headers={"traceparent": "mine", "tenant": "t"})
    traced.publish_many("q", [Message(b"2", {"traceparent": "mine"})])
    assert headers_in(traced) == [{"traceparent": "mine", "tenant": "t"}, {"traceparent": "mine"}]
    assert [headers for _, _, headers, _, _ in tracer.seen] == [
        {"traceparent": "mine", "tenant": "t"},
        {"traceparent": "mine"},
    ]


def test_of_two_plugins_the_first_has_the_last_word(client: MemoryClient) -> None:
    """Each adds what the other does not."""
    use_plugins(client, [Tracer(a="1", b="1"), Tracer(b="2", c="2")])
    client.send("q", 1)
    assert headers_in(client) == [{"a": "1", "b": "1", "c": "2"}]


def test_a_failure_is_told(traced: QueueClient, tracer: Tracer) -> None:
    """With the exception that the caller gets."""
    with pytest.raises(UnroutableError):
        traced.publish("nowhere", b"1")
    with pytest.raises(UnroutableError):
        traced.send_many("nowhere", [1, 2])
    assert [(queue, error) for queue, _, error in tracer.published] == [("nowhere", UnroutableError)] * 2


def test_errors_of_callers_are_what_they_were(traced: QueueClient, tracer: Tracer) -> None:
    """Hooks change no error of wrong arguments, and none of the caller's own iterable."""

    def broken() -> Iterator[Message]:
        yield Message(b"1")
        raise LookupError("the caller's own")

    nothing: Any = 5
    with pytest.raises(LookupError, match="own"):
        traced.publish_many("q", broken())
    with pytest.raises(ConfigurationError, match="to go through"):
        traced.publish_many("q", nothing)
    with pytest.raises(ConfigurationError, match="not str"):
        traced.publish_many("q", ["text"])  # type: ignore[list-item]
    with pytest.raises(PayloadError, match="must be a mapping"):
        traced.publish("q", b"1", headers=nothing)
    with pytest.raises(TypeError):
        traced.publish("q", b"1", unknown=1)  # type: ignore[call-arg]
    assert headers_in(traced) == []
    assert tracer.published[0][2] is LookupError


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"number": 1, "fine": "yes"}, "header is left out: the value of header 'number'"),
        ({"x-qbridge-attempts": "1", "fine": "yes"}, "'x-qbridge-attempts' is not allowed"),
    ],
)
def test_a_header_that_cannot_be_is_left_out(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, added: dict[str, Any], message: str
) -> None:
    """The message goes without it, and the log says so."""
    use_plugins(client, [Tracer(**added)])
    client.send("q", 1)
    assert headers_in(client) == [{"fine": "yes"}]
    assert message in caplog.text


def test_a_hook_that_raises_or_returns_nonsense_is_harmless(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is published without its headers."""

    class Broken:
        @hookimpl
        def qbridge_before_publish(self) -> Any:
            raise RuntimeError("a bug of the plugin")

        @hookimpl
        def qbridge_published(self) -> None:
            raise RuntimeError("a bug of the plugin")

    class Nonsense:
        @hookimpl
        def qbridge_before_publish(self) -> Any:
            return 5

    use_plugins(client, [Broken()])
    client.send("q", 1)
    assert headers_in(client) == [{}]
    use_plugins(client, [Nonsense()])
    client.send_many("q", [1, 2])
    assert headers_in(client) == [{}, {}]
    assert "qbridge_before_publish raised" in caplog.text
    assert "qbridge_published raised" in caplog.text


def test_a_client_without_plugins_is_untouched(client: MemoryClient) -> None:
    """Nothing stands between its callers and its methods, so nothing is paid."""
    assert "publish" not in vars(client)
    assert "publish_many" not in vars(client)


def test_a_manager_hooks_into_its_client(client: MemoryClient) -> None:
    """What a handler publishes with it passes the manager's plugins, each once however often it is given."""
    tracer = Tracer()
    use_plugins(client, [tracer])

    def handler(payload: str) -> None:
        if payload == "first":
            client.send("q", "second")

    client.send("q", "first")
    manager = TaskManager(client, handler, "q", "d", max_workers=1, plugins=[tracer])
    assert manager.run_until_idle(10.0).succeeded == 2
    assert [count for _, count, _ in tracer.published] == [1, 1]


def test_a_plugin_without_hooks_of_a_client_is_refused_there() -> None:
    """None of it would ever be called."""

    class Plugin:
        @hookimpl
        def qbridge_task_started(self) -> None: ...

    with pytest.raises(ConfigurationError, match="none of a client's hooks: qbridge_before_publish"):
        connect("memory://", plugins=[Plugin()])


named = Tracer(named="yes")


def test_a_plugin_of_a_client_can_be_named() -> None:
    """And is the same object wherever it is named."""
    name = f"{__name__}:named"
    with connect("memory://", plugins=[name]) as client:
        client.declare("q", "d")
        TaskManager(client, print, "q", "d", plugins=[name])
        client.send("q", 1)
        assert headers_in(client) == [{"named": "yes"}]
    assert len(named.published) == 1


def test_a_backend_that_publishes_one_by_one_tells_of_each(tracer: Tracer) -> None:
    """The contract's own ``publish_many`` calls ``publish``, which has the hooks: nothing is added twice."""

    class OneByOne(MemoryClient):
        publish_many = Producing.publish_many

    with OneByOne() as client:
        client.declare("q", "d")
        use_plugins(client, [tracer])
        client.send_many("q", [1, 2])
        assert len(tracer.seen) == 2
        assert tracer.published == [("q", 1, None), ("q", 1, None)]


def test_outages_are_told_in_order_and_in_another_thread() -> None:
    """A listener that takes its time holds up nobody, and what comes later waits for it."""
    events, go, told = ConnectionEvents(), threading.Event(), []

    def lost(address: str, error: BaseException) -> None:
        go.wait(10)
        told.append(("lost", address, str(error), threading.current_thread() is threading.main_thread()))

    def regained(address: str, duration: float) -> None:
        told.append(("regained", address, str(duration), threading.current_thread() is threading.main_thread()))

    events.lost("nobody listens", OSError())
    events.listen(lost, regained)
    for number in range(3):
        events.lost("a", OSError(number))
        events.regained("a", number)
    go.set()
    wait_for(lambda: len(told) == 6)
    story: Iterable[tuple[str, str, str]] = [(what, address, text) for what, address, text, _ in told]
    assert list(story) == [(what, "a", str(number)) for number in range(3) for what in ("lost", "regained")]
    assert not any(in_main for *_, in_main in told)
