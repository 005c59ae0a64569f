"""Whose turn it is, of many."""

from __future__ import annotations

import math

from qbridge_core.runtime.schedule import Schedule


def all_due(schedule: Schedule[str], now: float) -> list[str]:
    """Take what is due."""
    found = []
    while (item := schedule.take_due(now)) is not None:
        found.append(item)
    return found


def test_what_is_due_comes_once_and_in_its_order() -> None:
    """Each item has one turn, the earliest first, and none before its time."""
    schedule: Schedule[str] = Schedule()
    for item, at in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("never", math.inf)):
        schedule.plan(item, at)
    assert schedule.next_at == 1.0
    assert all_due(schedule, 2.0) == ["a", "b"]
    assert all_due(schedule, 2.0) == []
    assert (schedule.next_at, len(schedule)) == (3.0, 4)


def test_a_turn_that_was_replaced_or_forgotten_does_not_come() -> None:
    """Only the time that was planned last counts, and what was taken out has none."""
    schedule: Schedule[str] = Schedule()
    schedule.plan("moved", 1.0)
    schedule.plan("moved", 5.0)
    schedule.plan("gone", 2.0)
    schedule.forget("gone")
    schedule.forget("gone")
    assert schedule.next_at == 5.0
    assert all_due(schedule, 4.0) == []
    assert "gone" not in schedule
    assert all_due(schedule, 5.0) == ["moved"]


def test_turns_that_are_replaced_again_and_again_take_no_memory() -> None:
    """What was replaced is thrown away when there is much of it."""
    schedule: Schedule[str] = Schedule()
    for at in range(10_000):
        schedule.plan("a", 10_000.0 - at)
    assert len(schedule._due) < 200
    assert all_due(schedule, 20_000.0) == ["a"]
