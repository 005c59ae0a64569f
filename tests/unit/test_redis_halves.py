"""When Redis is asked for messages in two halves, one of them ahead."""

from __future__ import annotations

from qbridge_redis.consume.halves import Halves


def _busy() -> Halves:
    halves = Halves()
    halves.came(0.0, everything=True)
    return halves


def test_halves_pay_while_all_comes_and_is_soon_done() -> None:
    """Not for the first request, nor where the last one brought less than it asked for, nor after a pause."""
    assert not Halves().pay(100, 0.0)
    assert _busy().pay(100, 0.01)
    assert not _busy().pay(100, 0.1)
    halves = _busy()
    halves.came(0.01, everything=False)
    assert not halves.pay(100, 0.01)


def test_few_messages_are_asked_for_at_once() -> None:
    """Two requests would cost more than waiting for one."""
    assert not _busy().pay(49, 0.01)
    assert _busy().pay(50, 0.01)


def test_a_server_that_is_far_away_is_asked_for_the_whole_and_tried_again_later() -> None:
    """Its answers take longer than twice the work of one half: each would be waited for, with half as much in it."""
    halves = _busy()
    for _ in range(16):
        halves.answered(worked=0.001, waited=0.002, now=0.0)
    halves.came(0.0, everything=True)
    assert not halves.pay(100, 0.01)
    halves.came(2.0, everything=True)
    assert halves.pay(100, 2.01)


def test_a_server_that_stalls_now_and_then_is_not_far_away() -> None:
    """Some long waits among many short ones change nothing, however long they are."""
    halves = _busy()
    for number in range(64):
        halves.answered(worked=0.001, waited=1.0 if number % 4 == 0 else 0.0, now=0.0)
    assert halves.pay(100, 0.01)
