"""G20: a thread on which others rely outlives whatever is raised in one of its turns, and says so."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qbridge_core import HandlerTimeout, TaskManager, connect
from qbridge_core.execute.interrupt import interrupter as interrupting
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.runtime.logqueue import LogQueue
from qbridge_core.supervise import telling
from qbridge_core.supervise.program import Orders
from qbridge_core.telemetry.catalogue import READY, RETRIES
from qbridge_core.telemetry.depths import Depths
from qbridge_core.telemetry.figures import Figures
from qbridge_core.work import watch as watching
from qbridge_core.work.poison.lookout import Lookout
from support.wait import wait_for


class Surprise(BaseException):
    """What nobody has thought of."""


class Turns:
    """Raises in its first turns, and counts them all."""

    def __init__(self, bad: int) -> None:
        self.count = 0
        self._bad = bad

    def __call__(self, *_: object) -> None:
        """Take a turn."""
        self.count += 1
        if self.count <= self._bad:
            raise Surprise


def unexpected(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the log says of it, tracebacks included."""
    return [record for record in caplog.records if record.exc_info and record.exc_info[0] is Surprise]


def test_g20_the_watch_survives_a_look_that_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it looked at is looked at again, the others as always; the log says it once."""
    monkeypatch.setattr(watching, "_LONGEST", 0.01)

    class Session:
        def __init__(self, bad: int) -> None:
            self.turns = Turns(bad)

        def look(self) -> float | None:
            self.turns()
            return 0.01 if self.turns.count < 6 else None

    watch, bad, good = watching.Watch(), Session(3), Session(0)
    watch.add(bad)
    watch.add(good)
    wait_for(lambda: watch.count == 0, 10.0)
    assert (bad.turns.count, good.turns.count) == (6, 6)
    assert len(unexpected(caplog)) == 1


def test_g10_interrupting_goes_on_after_a_look_that_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that is late then is interrupted all the same, and so is the next one."""
    turns, look, ends = Turns(2), interrupting.Interrupter._look, list[str]()

    def bad_look(self: interrupting.Interrupter, since: float) -> float:
        turns()
        return look(self, since)

    def handler(_: object) -> None:
        until = time.monotonic() + 10.0
        try:
            while time.monotonic() < until:
                pass
        except HandlerTimeout:
            ends.append("interrupted")

    monkeypatch.setattr(interrupting.Interrupter, "_look", bad_look)
    with connect("memory://") as client:
        client.declare("q", "d")
        client.send("q", 1)
        TaskManager(client, handler, "q", "d", task_timeout=0.05, max_retries=1, max_workers=1).run_until_idle(30)
    wait_for(lambda: ends == ["interrupted"] * 2, 10.0)
    assert len(unexpected(caplog)) == 1


def test_g6_the_lookout_survives_a_look_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Suspects are looked for again, those of other managers too."""
    lookout = Lookout()
    bad, good = SimpleNamespace(seek=Turns(1)), SimpleNamespace(seek=Turns(0))
    seekers: list[Any] = [Hashed(bad.seek), Hashed(good.seek)]
    for seeker in seekers:
        lookout.add(seeker)
    wait_for(lambda: bad.seek.count == 1 and good.seek.count == 1, 10.0)
    lookout.ring(seekers[0])
    wait_for(lambda: bad.seek.count == 2, 10.0)
    for seeker in seekers:
        lookout.remove(seeker)
    assert len(unexpected(caplog)) == 1


class Hashed:
    """A seeker."""

    def __init__(self, seek: Callable[[], None]) -> None:
        self.seek = seek
        self.side_queue = None

    def look_in(self, seekers: int) -> float:
        """Not soon."""
        return 10.0


def test_g20_the_log_goes_on_after_lost_records_that_cannot_be_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """What comes later is logged; standard error tells what happened."""
    turns = Turns(1)
    queue = LogQueue(turns)
    queue._dropped = 1
    assert queue._start()
    assert queue.flush(10.0)
    wait_for(lambda: turns.count == 1, 10.0)
    assert queue.flush(10.0), "the thread has ended"
    assert "Surprise" in capsys.readouterr().err


def test_g20_the_loop_of_the_handlers_does_what_comes_after_a_call_that_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each call that is posted belongs to a task: none is lost with another one."""
    loop, done = LoopThread(asyncio.new_event_loop()), threading.Event()
    loop.post(Turns(1))
    loop.post(done.set)
    loop.start()
    assert done.wait(10.0)
    loop.close()
    assert len(unexpected(caplog)) == 1


def test_g16_a_worker_that_cannot_hear_its_supervisor_stops(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise no order would ever end it."""
    heard = threading.Event()

    def hear() -> str:
        assert heard.wait(10.0)
        raise Surprise

    link: Any = SimpleNamespace(hear=hear)
    orders = Orders(link)
    orders.can_be_obeyed()
    heard.set()
    wait_for(lambda: orders.wanted == ["stop"], 10.0)
    assert len(unexpected(caplog)) == 1


def test_g20_a_worker_goes_on_telling_its_supervisor_what_it_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is counted after something that cannot be told is told."""
    monkeypatch.setattr(telling, "EVERY", 0.01)
    say = Turns(1)
    figures = telling.Teller(say, lambda: True).recorder.figures
    for count in (1, 2):
        figures.count(RETRIES, "q", "failed")
        wait_for(lambda count=count: say.count == count, 10.0, "nothing is told any more")
    wait_for(lambda: len(unexpected(caplog)) == 1, 10.0)


def test_g20_the_queues_are_looked_at_after_a_look_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """What metrics show of them is as new as before."""
    figures, look = Figures(), Turns(1)
    with connect("memory://") as client:
        describe = client.describe

        def bad_describe(queue: str) -> Any:
            look()
            return describe(queue)

        client.describe = bad_describe  # type: ignore[method-assign]
        client.declare("q")
        client.send("q", 1)
        depths = Depths(figures)
        depths.begin(0.01)
        depths.add("q", client)
        wait_for(lambda: figures.read().gauges.get((READY, ("q",))) == 1, 10.0, "nobody looks any more")
        depths.remove("q", client)
    wait_for(lambda: len(unexpected(caplog)) == 1, 10.0)
