"""How what worker processes have counted gets to their supervisor."""

from __future__ import annotations

import json
import logging
import signal
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qbridge_core import ConfigurationError, Supervisor
from qbridge_core.execute.spawned import JsonLink
from qbridge_core.supervise.program import LOOK
from qbridge_core.supervise.sums import Sums
from qbridge_core.supervise.telling import Teller
from qbridge_core.supervise.worker_process import WorkerProcess
from qbridge_core.telemetry.catalogue import CRASHES, EXITS, IN_FLIGHT, PROCESSES
from qbridge_core.telemetry.recorder import Recorder
from support.wait import wait_for


class Process:
    """A worker process as ``Sums`` see it."""

    def __init__(self, *, ready: bool = True, status: int = 0) -> None:
        self.ready = ready
        self.looks = False
        self.process = SimpleNamespace(pid=1, returncode=status)
        self.heard: list[tuple[object, ...]] = []

    def tell(self, *words: object) -> None:
        """Remember."""
        self.heard.append(words)


def worker(*, ready: bool = True, status: int = 0) -> WorkerProcess:
    """One of them."""
    return cast("WorkerProcess", Process(ready=ready, status=status))


def test_a_process_tells_what_it_has_counted_and_idles_otherwise() -> None:
    """Once for many changes within a moment, and each change once; where nothing changes nothing is said."""
    told: list[list[list[Any]]] = []
    teller = Teller(told.append, lambda: True)
    for _ in range(5):
        teller.recorder.figures.count(CRASHES, "q")
    wait_for(lambda: told)
    teller.tell()
    assert sum(value for message in told for name, _, value in message if name == CRASHES.name) == 5
    assert teller.recorder.figures.read().counters == {}


def test_a_supervisor_that_does_not_read_holds_nobody_up() -> None:
    """What there is no room for is told later, all of it; no thread of the worker waits for the line."""
    told: list[list[list[Any]]] = []
    room: list[bool] = []
    teller = Teller(told.append, lambda: bool(room))
    teller.recorder.figures.count(CRASHES, "q", by=2)
    teller.tell()
    assert told == []
    teller.recorder.figures.count(CRASHES, "q", by=3)
    room.append(True)
    wait_for(lambda: told)
    assert [CRASHES.name, ("q",), 5] in told[0]


def test_a_full_line_has_no_room() -> None:
    """So it is found out before a thread waits."""
    ours, theirs = socket.socketpair()
    with theirs:
        link = JsonLink(ours.detach())
        assert link.has_room()
        for _ in range(100_000):
            if not link.has_room():
                break
            link.say("figures")
        assert not link.has_room()
        link.close()


def test_ends_are_counted_by_status_or_signal_and_gauges_go_with_the_process() -> None:
    """What a dead process has counted stays."""
    recorder = Recorder(None)
    sums = Sums(recorder)
    for status in (0, 1, -signal.SIGKILL, -signal.SIGKILL):
        ended = worker(status=status)
        sums.hear(ended, json.loads(json.dumps([[IN_FLIGHT.name, ["q"], 2], [CRASHES.name, ["q"], 1]])))
        sums.bury(ended)
    reading = recorder.figures.read()
    assert reading.gauges == {}
    assert reading.counters[CRASHES, ("q",)] == 4
    ends = {labels: count for (metric, labels), count in reading.counters.items() if metric is EXITS}
    assert ends == {("0",): 1, ("1",): 1, ("SIGKILL",): 2}


def test_one_that_is_ready_looks_at_the_queues_for_all() -> None:
    """It is asked once, and another one when it is gone; all that live are counted."""
    recorder = Recorder(7.0)
    sums = Sums(recorder)
    early, first, second = worker(ready=False), worker(), worker()
    for _ in range(3):
        sums.look([early, first, second])
    assert recorder.figures.read().gauges == {(PROCESSES, ()): 3}
    sums.look([early, second])
    heard = [cast("Process", each).heard for each in (early, first, second)]
    assert heard == [[], [(LOOK, 7.0)], [(LOOK, 7.0)]]


def test_nobody_looks_where_another_process_does() -> None:
    """``look_every=None`` holds for the processes of a supervisor, too."""
    process = worker()
    Sums(Recorder(None)).look([process])
    assert cast("Process", process).heard == []


def test_nonsense_is_said_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A handler's process may have written to the line."""
    recorder = Recorder(None)
    sums = Sums(recorder)
    with caplog.at_level(logging.ERROR, "qbridge.supervisor"):
        for _ in range(3):
            sums.hear(worker(), [[CRASHES.name, ["q"], "many"]])
        wait_for(lambda: caplog.records)
    assert len(caplog.records) == 1
    assert recorder.figures.read().counters == {}


def test_a_supervisor_takes_metrics_and_nothing_else() -> None:
    """Something else is a ConfigurationError that says what is wanted."""
    with pytest.raises(ConfigurationError, match="metrics must be a Metrics"):
        Supervisor("module:build", 1, metrics=object())  # type: ignore[arg-type]
