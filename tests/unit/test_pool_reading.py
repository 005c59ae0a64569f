"""How a pool's queues are read: shares by weight, empty queues, and queues that cannot be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import pytest

from qbridge_core import BrokerUnavailableError, Delivery, NotConnectedError, UnroutableError
from qbridge_core.work.pooled.reading import PoolReader
from qbridge_core.work.pooled.weights import Shares
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Asked(MemoryClient):
    """Notes what it is asked for, and fails where it is told to."""

    reads_ahead = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.errors: dict[str, Exception] = {}

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Fail, or note the queue and how many are wanted."""
        if queue in self.errors:
            raise self.errors[queue]
        self.requests.append(f"{queue}:{max_messages}")
        return super().receive(queue, max_messages, timeout)

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Note the queues that are waited for."""
        self.requests.append("wait for " + ", ".join(sorted(wanted)))
        return super().receive_any(wanted, timeout)


@pytest.fixture
def client() -> Asked:
    """A connected client with two empty queues, ``u`` and ``n``."""
    client = Asked()
    client.connect()
    for queue in ("u", "n"):
        client.declare(queue, f"{queue}.dead")
    return client


@pytest.fixture
def reader(client: Asked) -> PoolReader:
    """A reader of both, five to one."""
    return PoolReader(client, {"u": 5, "n": 1})


def names(deliveries: list[Delivery]) -> str:
    """The queues that they came from, in their order."""
    return "".join(delivery.queue for delivery in deliveries)


def test_turns_go_round_by_weight() -> None:
    """Whatever the weights are, each window of as many turns as their sum has nearly the exact shares."""
    weights = {"a": 5, "b": 3, "c": 1}
    shares = Shares(weights)
    taken = [shares.take(weights) for _ in range(900)]
    assert Counter(taken) == {"a": 500, "b": 300, "c": 100}
    for start in range(len(taken) - 9):
        window = Counter(taken[start : start + 9])
        assert all(abs(window[queue] - weight) <= 2 for queue, weight in weights.items())


def test_the_smallest_weight_is_not_starved() -> None:
    """One of a thousand gets its turn, however many there are of the others, and soon when it has had none for long."""
    shares = Shares({"much": 1000, "little": 1})
    taken = [shares.take(["much", "little"]) for _ in range(2002)]
    assert taken.count("little") == 2
    for _ in range(100):
        shares.take(["much"])
    assert "little" in [shares.take(["much", "little"]) for _ in range(1001)]


def test_nobody_saves_turns_up_while_there_is_nothing() -> None:
    """A queue that was empty for long begins where the others are: it has the next turn, and then its share."""
    shares = Shares({"u": 5, "n": 1})
    for _ in range(1000):
        shares.take(["n"])
    taken = "".join(shares.take(["u", "n"]) for _ in range(60))
    assert taken[0] == "u"
    assert 9 <= taken.count("n") <= 11


def test_shares_say_what_turns_will_be() -> None:
    """To ask how many each would get changes nothing, and the turns that follow are just that."""
    shares = Shares({"a": 3, "b": 2})
    shares.take(["a", "b"])
    told = shares.shares(7, ["a", "b"])
    assert told == shares.shares(7, ["a", "b"]) == Counter(shares.take(["a", "b"]) for _ in range(7))


def test_messages_come_in_the_order_of_their_turns(client: Asked, reader: PoolReader) -> None:
    """Many at once too, so that workers which take one after the other keep the shares."""
    for queue in ("u", "n"):
        client.send_many(queue, range(20))
    assert names(reader.receive(12, 0.0)) == "unuuuuunuuuu"
    assert names([reader.receive(1, 0.0)[0] for _ in range(6)]) == "unuuuu"


def test_each_queue_is_asked_once_and_for_its_share(client: Asked, reader: PoolReader) -> None:
    """One free slot costs one request, and an empty queue one more, which takes nothing from the others."""
    for queue in ("u", "n"):
        client.send_many(queue, range(50))
    reader.receive(12, 0.0)
    assert sorted(client.requests) == ["n:2", "u:10"]
    client.requests.clear()
    reader.receive(1, 0.0)
    assert len(client.requests) == 1
    client.purge("u")
    reader.receive(1, 0.0)
    client.requests.clear()
    assert names(reader.receive(12, 0.0)) == "n" * 12
    assert client.requests == ["u:10", "n:12"]
    client.purge("n")
    client.send_many("u", range(50))
    reader.receive(12, 0.0)
    client.requests.clear()
    assert names(reader.receive(12, 0.0)) == "u" * 12
    assert client.requests == ["n:2", "u:12"]


def test_only_when_all_are_empty_it_waits_and_for_all(client: Asked, reader: PoolReader) -> None:
    """Whatever comes first ends the wait; there is at most one message of each then."""
    assert reader.receive(5, 0.01) == []
    assert client.requests[-1] == "wait for n, u"
    client.send_many("n", range(3))
    assert names(reader.receive(5, 5.0)) == "nnn"


def test_a_closed_queue_is_not_asked_for(client: Asked, reader: PoolReader) -> None:
    """Its messages stay, and nobody waits for them; with all closed the gate is shut."""
    for queue in ("u", "n"):
        client.send_many(queue, range(3))
    reader.close("u")
    assert names(reader.receive(5, 0.0)) == "nnn"
    assert reader.receive(5, 0.01) == []
    assert client.requests[-1] == "wait for n"
    reader.close("n")
    assert reader.gate.is_shut
    reader.open("u")
    assert not reader.gate.is_shut
    assert names(reader.receive(5, 0.0)) == "uuu"


def test_a_queue_that_cannot_be_read_is_no_trouble_of_the_others(
    client: Asked, reader: PoolReader, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log once, with why, and tried again; when it can be read, that is said too."""
    client.errors["u"] = UnroutableError("it is gone")
    client.send_many("n", range(3))
    with caplog.at_level(logging.INFO, logger="qbridge.worker"):
        assert names(reader.receive(1, 0.0)) == "n"
        assert names(reader.receive(5, 0.0)) == "nn"
        assert reader.receive(5, 0.01) == []
        wait_for(lambda: "u: it is gone" in caplog.text, 5.0)
        assert caplog.text.count("cannot receive from u: it is gone; it is tried again until it works") == 1
        assert list(reader.failing) == ["u"]
        del client.errors["u"]
        client.send("u", 1)
        wait_for(lambda: names(reader.receive(5, 0.01)) == "u", 5.0)
        wait_for(lambda: "receiving from u again" in caplog.text, 5.0)
    assert not reader.failing


def test_it_says_why_when_no_queue_can_be_read(client: Asked, reader: PoolReader) -> None:
    """Then whoever reads makes a pause; nothing keeps the queues from being asked again after it."""
    client.errors |= {"u": BrokerUnavailableError("down"), "n": BrokerUnavailableError("down")}
    for _ in range(2):
        with pytest.raises(BrokerUnavailableError):
            reader.receive(5, 10.0)
    client.errors.clear()
    client.send("n", 1)
    assert names(reader.receive(5, 0.0)) == "n"
    client.disconnect()
    with pytest.raises(NotConnectedError):
        reader.receive(5, 10.0)


def test_consumers_end_while_all_slots_are_busy(
    client: Asked, reader: PoolReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one of them holds could run elsewhere; it consumes again when somebody waits for messages."""
    monkeypatch.setattr("qbridge_core.work.pooled.reading._HELD_FOR", -1.0)
    reader.receive(1, 0.01)
    assert client.stats("u").consumers == client.stats("n").consumers == 1
    reader.tidy()
    wait_for(lambda: client.stats("u").consumers == client.stats("n").consumers == 0, 5.0)
    client.send("n", 1)
    assert names(reader.receive(1, 0.0)) == "n"
    assert client.stats("n").consumers == 0
    client.wake_receive_any()
    reader.receive(1, 0.01)
    reader.receive(1, 0.01)
    assert client.stats("u").consumers == client.stats("n").consumers == 1


def test_no_consumer_begins_after_the_end(client: Asked, reader: PoolReader) -> None:
    """A reader that is late takes what is there, and leaves nothing that would hold messages; nor does it wait."""
    reader.end()
    client.send("n", 1)
    assert names(reader.receive(1, 300.0)) == "n"
    assert reader.receive(1, 300.0) == []
    reader.open("u")
    assert client.stats("u").consumers == client.stats("n").consumers == 0
