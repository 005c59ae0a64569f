"""What a worker says about a broker that does not do what it should: once, then each minute, and at the end."""

from __future__ import annotations

import logging
import math
import threading

import pytest

from qbridge_core import BrokerUnavailableError, Delivery, QueueFullError, TaskManager
from qbridge_core.runtime.outage import Outage
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Away(MemoryClient):
    """Neither gives nor settles anything while it has an error."""

    error: Exception | None = None
    tries = 0
    asked = 0

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Fail, if it has to."""
        self._fail()
        self.asked = self.tries + 1
        return super().receive(queue, max_messages, timeout)

    def ack(self, delivery: Delivery) -> None:
        """Fail, if it has to."""
        self._fail()
        super().ack(delivery)

    def _fail(self) -> None:
        if (error := self.error) is not None:  # one look: the test takes it away meanwhile
            self.tries += 1
            raise error


class Talkative(Away):
    """Reports its outages itself."""

    logs_outages = True


def outage(client: Away, error: Exception) -> None:
    """Four tasks cannot be settled, and nothing received, for some tries."""

    together = threading.Barrier(4, lambda: setattr(client, "error", error))
    client.connect()
    client.declare("q", "d")
    client.send_many("q", range(4))
    with TaskManager(client, lambda _: together.wait(10), "q", "d", max_workers=5) as manager:
        wait_for(lambda: client.tries >= 15, 20)
        client.error = None
        wait_for(lambda: manager.report().succeeded == 4, 20)
        asked = client.tries
        wait_for(lambda: client.asked > asked, 20)


def loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said about it where an operator looks."""
    words = ("cannot be", "cannot receive", "again after", "any more")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno >= logging.INFO]
    return [f"{level} {text}" for level, text in lines if any(word in text for word in words)]


def test_an_outage_is_said_once_with_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """However many tries and tasks there are: a line for settling, one for receiving, and one for the end of each."""
    caplog.set_level(logging.INFO)
    outage(Away(), QueueFullError("no room"))
    said = loud(caplog)
    assert len(said) == 4, said
    assert sum("cannot be settled yet: no room" in line for line in said) == 1
    assert sum("cannot receive from q: no room" in line for line in said) == 1
    assert sum(line.startswith("INFO") for line in said) == 2


def test_a_client_that_reports_its_outages_is_not_echoed(caplog: pytest.LogCaptureFixture) -> None:
    """With ``logs_outages`` the lost connection is the client's to report; everything else is still said."""
    caplog.set_level(logging.INFO)
    outage(Talkative(), BrokerUnavailableError("gone"))
    assert loud(caplog) == []
    outage(Talkative(), QueueFullError("no room"))
    assert len(loud(caplog)) == 4


def test_an_outage_is_news_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of error once, each again after a minute, and all of them in the next outage."""
    now = 1000.0
    monkeypatch.setattr("qbridge_core.runtime.outage.monotonic", lambda: now)
    trouble = Outage()
    assert trouble.lost("one")
    assert [trouble.is_news(exc) for exc in (ValueError(1), ValueError(2), KeyError(1), ValueError(3))] == [
        True, False, True, False,
    ]  # fmt: skip
    now += 59
    assert not trouble.is_news(ValueError(1))
    now += 2
    assert trouble.is_news(ValueError(1))
    assert not trouble.lost("another")
    assert trouble.back("one") is None
    assert trouble.back("another") == 61
    assert trouble.back("another") is None
    assert trouble.lost("one")
    assert trouble.is_news(ValueError(1))


def test_what_is_said_once_in_an_outage_is_news_in_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that no minute makes news again is news when all worked in between, and other kinds go on as they do."""
    now = 1000.0
    monkeypatch.setattr("qbridge_core.runtime.outage.monotonic", lambda: now)
    trouble = Outage()
    trouble.lost("one")
    assert trouble.is_news("refused", every=math.inf)
    assert trouble.is_news("away")
    now += 3600
    assert not trouble.is_news("refused", every=math.inf)
    assert trouble.is_news("away")
    assert trouble.back("one") == 3600
    trouble.lost("one")
    assert trouble.is_news("refused", every=math.inf)


def test_who_does_not_complain_again_does_not_keep_an_outage_going(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody needs any more is forgotten, so that the end is told when the others are back."""
    now = 1000.0
    monkeypatch.setattr("qbridge_core.runtime.outage.monotonic", lambda: now)
    trouble = Outage(forget_after=15.0)
    trouble.lost("gone for good")
    now += 10
    assert not trouble.lost("still asking")
    assert trouble.seconds == 10
    now += 10
    assert trouble.back("still asking") == 20
    assert trouble.seconds == 0
