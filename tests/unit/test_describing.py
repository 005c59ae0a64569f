"""What descriptions of queues are made of: rates, lists of names, what is shown."""

from __future__ import annotations

import pytest

from qbridge_core import QueueClient, QueuePausedError, QueueStats, TaskManager, UnsupportedError
from qbridge_core.backend import Rates, list_queues
from qbridge_core.contract import rates
from qbridge_kombu.protocol.names import decoded, encoded
from qbridge_memory import MemoryClient
from qbridge_redis.protocol.keys import Keys
from support.lists import ListClient


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    times = [100.0]
    monkeypatch.setattr(rates, "monotonic", lambda: times[0])
    return times


def test_counts_of_a_queue_are_compared_alone() -> None:
    """Who makes three counts and compares them sees nothing of what a broker may tell beside them."""
    counts = QueueStats(1, 2, 3)
    told = QueueStats(1, 2, 3, 4, 5, 6.0, 7.0, 8.0, 9, paused=True)
    assert counts == told == QueueStats(ready=1, in_flight=2, delayed=3)
    assert hash(counts) == hash(told)
    for other in (QueueStats(0, 2, 3), QueueStats(1, 0, 3), QueueStats(1, 2, 0)):
        assert counts != other


def test_what_is_told_of_a_queue_is_shown() -> None:
    """Counts first, ages and rates in milliseconds at most, and nothing of what nobody has told."""
    assert repr(QueueStats(1, 2, 3)) == "QueueStats(ready=1, in_flight=2, delayed=3)"
    told = QueueStats(1, 2, 3, dead=0, oldest_age=1.50049, in_rate=1 / 3, paused=False)
    shown = "QueueStats(ready=1, in_flight=2, delayed=3, dead=0, oldest_age=1.5, in_rate=0.333, paused=False)"
    assert repr(told) == shown


def test_rates_are_those_since_the_last_look(now: list[float]) -> None:
    """What came and what left, in a second, for each queue; the first look tells nothing."""
    rates = Rates()
    assert rates.of("a", 10, 4) == (None, None)
    now[0] += 2.0
    assert rates.of("b", 3, 3) == (None, None)
    assert rates.of("a", 30, 14) == (10.0, 5.0)
    now[0] += 4.0
    assert rates.of("a", 30, 2) == (0.0, 3.0)
    assert rates.of("b", 11, 3) == (2.0, 2.0)


def test_rates_begin_anew_with_a_queue_that_was_made_anew(now: list[float]) -> None:
    """Counts that are lower than before are those of another queue; and nothing happens in no time."""
    rates = Rates()
    rates.of("a", 10, 0)
    assert rates.of("a", 10, 0) == (None, None)
    now[0] += 1.0
    assert rates.of("a", 2, 2) == (None, None)
    now[0] += 1.0
    assert rates.of("a", 4, 3) == (2.0, 1.0)


def test_rates_of_queues_that_are_long_forgotten_take_no_memory(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many queues are remembered: those that were looked at last."""
    monkeypatch.setattr(rates, "_REMEMBERED", 3)
    remembered = Rates()
    for queue in "abcad":
        remembered.of(queue, 1, 0)
    now[0] += 1.0
    assert [remembered.of(queue, 1, 0)[0] for queue in "acd"] == [0.0, 0.0, 0.0]
    assert remembered.of("b", 1, 0) == (None, None)


def test_a_list_of_queues_has_no_side_queues_and_names_dead_letter_queues() -> None:
    """Those that are known count, then those of the usual name that are there."""
    names = ["b", "a.suspects", "a", "b.dead", "x.suspects", "c", "failed"]
    assert list_queues(names, {"a": "failed", "gone": "failed"}) == {
        "a": "failed",
        "b": "b.dead",
        "b.dead": None,
        "c": None,
        "failed": None,
        "x.suspects": None,  # there is no queue that it would belong to
    }


def test_a_backend_that_tells_nothing_more_describes_its_counts() -> None:
    """The defaults: the counts, and no list."""
    assert (ListClient.describe, ListClient.count) == (QueueClient.describe, QueueClient.count)
    client = ListClient("lists://describing")
    client.connect()
    client.declare("q")
    client.publish("q", b"x")
    assert client.describe("q") == client.count("q") == QueueStats(1, 0, 0)
    with pytest.raises(UnsupportedError, match="ListClient cannot list queues"):
        client.queues()


class Unasked(MemoryClient):
    """Tells nobody more than counts."""

    def stats(self, queue: str) -> QueueStats:
        """Fail."""
        raise AssertionError(f"{queue} is counted all the time: count does it")


def test_a_worker_counts_and_asks_for_nothing_else() -> None:
    """What is at hand beside the counts costs nothing where nobody looks at it."""
    with Unasked() as client:
        manager = TaskManager(client, lambda payload: 1 / payload, "q", "dead", max_retries=0)
        client.declare("q", "dead")
        client.send_many("q", [0, 1])
        assert str(manager.run_until_idle()) == "1 succeeded, 1 dead-lettered (failed)"
        client.pause("q")
        client.send("q", 1)
        with pytest.raises(QueuePausedError):
            manager.run_until_idle()
        assert client.replay("dead") == 1


@pytest.mark.parametrize("queue", ["emails", "rechnungen für märz", "a/b", "100%25", "%", "%41", "a:b-ü", "ä" * 20])
def test_the_name_of_a_queue_is_found_in_that_of_the_broker(queue: str) -> None:
    """What was escaped is read again."""
    name = encoded(queue, allowed=r"\w.-", escape="%", most=200)
    assert decoded(name, "%") == queue


@pytest.mark.parametrize("prefix", ["", "app:", "a*[b]?\\"])
def test_the_name_of_a_queue_is_found_in_its_key(prefix: str) -> None:
    """A key is that of a queue's stream or of something else."""
    keys = Keys(prefix)
    assert keys.queue(keys.stream("emails ü")) == "emails ü"
    assert keys.queue(keys.stream("a") + b"\n") is None
    assert keys.queue(b"\xff" + keys.stream("a")) is None
    assert (keys.queue(b"other") is None) is bool(prefix)
