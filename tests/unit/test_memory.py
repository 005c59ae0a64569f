"""What is special about the memory backend; the rest is in the conformance suite."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    DeliveryLostError,
    InvalidURLError,
    Message,
    NotConnectedError,
    UnknownOptionError,
    UnroutableError,
    connect,
)
from qbridge_memory import MemoryClient, reset
from support.wait import wait_for


@pytest.fixture
def name(unique_name: str) -> Iterator[str]:
    """The name of a broker that is forgotten after the test."""
    yield unique_name
    reset(unique_name)


def test_a_client_without_a_name_has_a_broker_of_its_own() -> None:
    """Two clients of ``memory://`` share nothing."""
    with MemoryClient() as one, MemoryClient() as other:
        one.declare("q")
        one.send("q", 1)
        assert other.stats("q").ready == 0
        with pytest.raises(UnroutableError):
            other.send("q", 1)


def test_a_private_broker_keeps_its_messages_over_a_reconnect() -> None:
    """``disconnect`` and ``connect`` lose nothing."""
    client = MemoryClient()
    with client:
        client.declare("q")
        client.send("q", 1)
    with client:
        assert client.stats("q").ready == 1


def test_clients_of_one_name_share_a_broker(name: str) -> None:
    """``memory://name`` is one broker for the whole process, also across threads."""
    with MemoryClient(f"memory://{name}") as one, connect(f"memory://{name}") as other:
        one.declare("q")
        thread = threading.Thread(target=one.send, args=("q", 1))
        thread.start()
        thread.join()
        assert other.stats("q").ready == 1


def test_clients_of_two_names_share_nothing(name: str) -> None:
    """Another name is another broker."""
    with MemoryClient(f"memory://{name}") as one, MemoryClient(f"memory://{name}-b") as other:
        one.declare("q")
        one.send("q", 1)
        assert other.stats("q").ready == 0
    reset(f"{name}-b")


def test_reset_forgets_one_broker_only(name: str) -> None:
    """New clients of the name get an empty broker, old ones keep theirs, other names are not touched."""
    old, other = MemoryClient(f"memory://{name}"), MemoryClient(f"memory://{name}-b")
    for client in (old, other):
        client.connect()
        client.declare("q")
        client.send("q", 1)
    reset(name)
    with MemoryClient(f"memory://{name}") as new, MemoryClient(f"memory://{name}-b") as again:
        assert (new.stats("q").ready, old.stats("q").ready, again.stats("q").ready) == (0, 1, 1)
    reset(f"{name}-b")


def test_reset_of_an_unknown_name_does_nothing(name: str) -> None:
    """There may be nothing to forget."""
    reset(name)


def test_what_was_in_flight_comes_back_first_and_in_order(name: str) -> None:
    """After a disconnect the order of the queue is what it was."""
    with MemoryClient(f"memory://{name}") as other:
        with MemoryClient(f"memory://{name}") as client:
            client.declare("q")
            client.publish_many("q", [Message(b"%d" % n) for n in range(6)])
            taken = client.receive("q", 4)
            client.ack(taken[1])
        assert [d.body for d in other.receive("q", 10)] == [b"0", b"2", b"3", b"4", b"5"]


def test_a_delivery_of_the_time_before_a_disconnect_is_lost(client: MemoryClient) -> None:
    """Settling it after a reconnect says that it will be delivered again, and settles nothing."""
    client.send("q", 1)
    (delivery,) = client.receive("q")
    client.disconnect()
    client.connect()
    with pytest.raises(DeliveryLostError):
        client.ack(delivery)
    with pytest.raises(DeliveryLostError):
        client.reject(delivery, requeue=False)
    (again,) = client.receive("q")
    assert again.redelivered
    assert client.stats("d").ready == 0


def test_another_clients_deliveries_stay_where_they_are(name: str) -> None:
    """A disconnect gives back the client's own deliveries and no others."""
    with MemoryClient(f"memory://{name}") as one, MemoryClient(f"memory://{name}") as other:
        one.declare("q")
        one.send_many("q", [1, 2])
        kept = one.receive("q", 1)[0]
        other.receive("q", 1)
        other.disconnect()
        assert (one.stats("q").ready, one.stats("q").in_flight) == (1, 1)
        one.ack(kept)


@pytest.mark.parametrize(
    "url",
    ["redis://x", "memory://x/path", "memory://x:1", "memory://u@x", "memory://u:p@x", "memory://:p@x", "memory", ""],
)
def test_a_url_with_more_than_a_name_is_refused(url: str) -> None:
    """Only ``memory://`` and ``memory://name`` are understood."""
    with pytest.raises(InvalidURLError):
        MemoryClient(url)


@pytest.mark.parametrize("make", [lambda: MemoryClient("memory://?size=1"), lambda: MemoryClient("memory://", size=1)])
def test_any_other_option_is_unknown(make: Any) -> None:
    """There is one option, in the query or as a keyword."""
    with pytest.raises(UnknownOptionError, match=r"'size'.*known options: max_message_bytes"):
        make()


@pytest.mark.parametrize("queue", ["", None, 3, b"q"])
def test_a_queue_name_must_be_a_string(client: MemoryClient, queue: Any) -> None:
    """An unusable name is refused when the queue is declared."""
    with pytest.raises(ConfigurationError, match="queue name"):
        client.declare(queue)
    with pytest.raises(ConfigurationError, match="queue name"):
        client.declare("ok", queue if queue is not None else "")


@pytest.mark.parametrize("body", ["text", None, {"payload": 1}, 3])
def test_a_body_must_be_bytes(client: MemoryClient, body: Any) -> None:
    """The error points to ``send``, which takes anything."""
    with pytest.raises(ConfigurationError, match=r"must be bytes.*send\(\)"):
        client.publish("q", body)


def test_a_body_is_copied(client: MemoryClient) -> None:
    """A producer that reuses its buffer changes nothing that it has published."""
    buffer = bytearray(b"before")
    client.publish("q", buffer)
    buffer[:] = b"after!"
    assert client.receive("q")[0].body == b"before"


def test_publish_many_publishes_all_or_nothing(client: MemoryClient) -> None:
    """One message that cannot be published keeps back the others of its call."""
    with pytest.raises(ConfigurationError):
        client.publish_many("q", [Message(b"1"), Message("2")])  # type: ignore[arg-type]
    assert client.stats("q").ready == 0


def test_a_delayed_message_wakes_a_receive_when_it_is_due(client: MemoryClient) -> None:
    """The wait for a message ends with the delay, not with the timeout."""
    client.publish("q", b"x", delay=0.05)
    thread_results: list[list[Any]] = []
    thread = threading.Thread(target=lambda: thread_results.append(client.receive("q", 1, 60.0)), daemon=True)
    thread.start()
    wait_for(lambda: thread_results, 5.0)
    assert thread_results[0][0].body == b"x"


def test_the_capabilities_are_those_of_a_process() -> None:
    """It delays and lists, and claims neither durability nor other processes."""
    capabilities = MemoryClient.capabilities
    assert (capabilities.delay, capabilities.browse) == (True, True)
    assert (capabilities.durable, capabilities.shared) == (False, False)


def test_a_child_process_cannot_use_the_parents_broker(name: str) -> None:
    """After a fork the client says that its broker lives in the parent, instead of filling a copy that nobody reads."""
    with connect(f"memory://{name}") as client:
        client.declare("q")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is just what is tested
            pid = os.fork()
        if pid == 0:
            try:
                client.send("q", 1)
            except NotConnectedError:
                claims = client.connected
                client.disconnect()
                os._exit(2 if claims else 0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert client.stats("q").ready == 0


@pytest.mark.parametrize("again", ["the same client", "another client"])
def test_a_forked_process_that_connects_begins_with_empty_queues(name: str, again: str) -> None:
    """What the parent has in memory runs there; a copy of it would run a second time."""
    url = f"memory://{name}"
    with connect(url) as client:
        client.declare("q", "dead")
        client.send("q", 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is just what is tested
            pid = os.fork()
        if pid == 0:
            try:
                mine = client if again == "the same client" else connect(url)
                mine.connect()
                mine.declare("q", "dead")
                before = mine.stats("q").ready
                mine.send("q", 2)
                (delivery,) = mine.receive("q", 10, 0.0)
                os._exit(0 if before == 0 and b"2" in delivery.body and mine.stats("dead").ready == 0 else 2)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert client.stats("q").ready == 1


def test_g18_no_error_of_pythons_own_gets_out(client: MemoryClient) -> None:
    """A limit beyond what the system counts to lists all letters, and what is no name is refused."""
    client.publish("d", b"{}")
    assert len(client.dead_letters("d", 10**400)) == 1
    with pytest.raises(ConfigurationError, match="a queue name must be a string"):
        client.unsubscribe(["q"])  # type: ignore[arg-type]


@pytest.mark.parametrize("receive", [lambda c: c.receive("q", 1, 300.0), lambda c: c.receive_any({"q": 1}, 300.0)])
def test_a_receive_from_before_a_disconnect_ends_though_the_client_is_connected_again(
    client: MemoryClient, receive: Callable[[MemoryClient], object]
) -> None:
    """It ends at once, and takes nothing that comes for the new connection."""
    waits, ended = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        receive(client)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert waits.wait(10)
    assert not ended.wait(0.1), "it did not wait for a message"
    client.disconnect()
    client.connect()
    client.publish("q", b"{}")
    assert ended.wait(10)
    assert client.stats("q").ready == 1
