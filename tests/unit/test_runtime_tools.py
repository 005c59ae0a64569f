"""The growing pause, the mailbox of a thread, and calls in threads of their own."""

from __future__ import annotations

import itertools
import threading

import pytest

from qbridge_core.backend import GrowingPause, Mailbox
from qbridge_core.runtime.aside import aside


def test_a_pause_doubles_up_to_the_longest_and_begins_anew() -> None:
    """Each failure waits twice as long, none longer than the longest, and after a success it starts small again."""
    pause = GrowingPause(0.1, 0.5)
    assert [pause.next() for _ in range(4)] == [0.1, 0.2, 0.4, 0.5]
    assert pause.count == 4
    pause.reset()
    assert (pause.next(), pause.count) == (0.1, 1)


def test_pauses_with_jitter_differ_within_their_bounds() -> None:
    """Those that failed together do not come back together."""
    drawn = [GrowingPause(1.0, 8.0, jitter=(0.5, 1.5)).next() for _ in range(50)]
    assert all(0.5 <= each <= 1.5 for each in drawn)
    assert len(set(drawn)) > 40


def test_a_mailbox_wakes_once_for_all_that_was_not_taken() -> None:
    """Only the first to come makes the wake-up, and after the items were taken the next one does."""
    rings: list[int] = []
    box: Mailbox[int] = Mailbox(lambda: rings.append(1))
    box.post(1)
    box.post(2)
    box.ring()
    assert len(rings) == 1
    assert list(box.take()) == [1, 2]
    box.ring()
    assert len(rings) == 2
    assert list(box.take()) == []


def test_what_is_posted_while_items_are_taken_rings_again() -> None:
    """Nothing is left behind, and a taker that posts to itself comes to an end."""
    rings: list[int] = []
    box: Mailbox[int] = Mailbox(lambda: rings.append(1))
    box.post(1)
    for item in box.take():
        box.post(item + 1)
    assert (len(box), len(rings)) == (1, 2)


def test_a_lost_wake_up_is_made_again() -> None:
    """When the loop that was woken is gone, the next to come wakes its successor."""
    rings: list[int] = []
    box: Mailbox[int] = Mailbox(lambda: rings.append(1))
    box.post(1)
    box.forget_ring()
    box.post(2)
    assert len(rings) == 2
    assert list(box.take()) == [1, 2]


def test_a_wake_up_that_was_interrupted_is_made_again() -> None:
    """Ctrl-C may come in the middle of it: what was put down is taken when the next one comes."""
    rings: list[int] = []

    def wake() -> None:
        rings.append(1)
        if len(rings) == 1:
            raise KeyboardInterrupt

    box: Mailbox[int] = Mailbox(wake)
    with pytest.raises(KeyboardInterrupt):
        box.post(1)
    box.post(2)
    assert len(rings) == 2
    assert list(box.take()) == [1, 2]


def test_many_threads_lose_nothing_in_a_mailbox() -> None:
    """Whoever posts at whatever moment: each item is taken, and by the thread that it is for."""
    woken = threading.Semaphore(0)
    box: Mailbox[int] = Mailbox(woken.release)
    numbers = itertools.count()

    def post() -> None:
        for _ in range(2000):
            box.post(next(numbers))

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while len(taken) < 8000 and woken.acquire(timeout=10):
        taken.extend(box.take())
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(8000))


def test_what_is_called_without_a_thread_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has none left it has been done before, and whoever waits for it need not know."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    called: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    helper = aside("qbridge-test", lambda: called.append(threading.current_thread()))
    helper.join()
    assert (called, helper.is_alive()) == ([threading.current_thread()], False)
