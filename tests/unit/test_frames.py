"""Looking at the stacks of other threads."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback

import pytest

from qbridge_core.runtime.frames import Undisturbed, calls, frame_of
from qbridge_core.task.explanation import Explanation

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="there the collector runs between instructions only"
)


class Cycle:
    """What only the collector ends; it notes that."""

    ended = 0

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        Cycle.ended += 1


@pytest.fixture(autouse=True)
def eager() -> object:
    """Have the collector start at nearly every allocation."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def test_no_collection_starts_while_frames_are_looked_at() -> None:
    """In the block nothing that is created ends anything else; after it the collector works as before."""
    gc.collect()
    before = Cycle.ended
    with Undisturbed():
        cycles = [Cycle() for _ in range(50)]
        del cycles
        kept = [[number] for number in range(50)]
        assert Cycle.ended == before
    kept += [[number] for number in range(50)]
    assert Cycle.ended == before + 50
    assert gc.isenabled()


def test_a_collector_that_somebody_has_switched_off_stays_off() -> None:
    """The block changes nothing for those who collect themselves."""
    gc.disable()
    try:
        with Undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_process_that_is_forked_meanwhile_has_its_collector() -> None:
    """The child of a thread that forks while another one looks at frames collects, and looks at frames itself."""
    undisturbed = Undisturbed()
    with undisturbed:
        child = os.fork()
        if not child:
            undisturbed.begin_anew()
            with undisturbed:
                pass
            os._exit(not gc.isenabled())
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("look", [lambda frame: Explanation.timed_out(1.0, frame), calls])
def test_the_stack_of_a_running_thread_is_read_without_a_collection(
    monkeypatch: pytest.MonkeyPatch, look: object
) -> None:
    """Neither where the thread is nor what has called it lets other threads run half-way."""
    walked: list[bool] = []
    walk = traceback.walk_stack

    def noting(frame: object) -> object:
        for each in walk(frame):  # type: ignore[arg-type]
            walked.append(gc.isenabled())
            yield each

    monkeypatch.setattr(traceback, "walk_stack", noting)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    frame = frame_of(thread.ident)
    assert frame is not None
    look(frame)  # type: ignore[operator]
    end.set()
    thread.join()
    assert walked
    assert not any(walked)
