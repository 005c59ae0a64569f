"""The short form of ``make soak``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.plan import Backend
from chaos.targets import broker_of
from soak.plan import Plan
from soak.run import Outcome, soak_privately

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
# Some thousand tasks show a leak of a few bytes each only by chance, but one of the bodies surely.
SHORT = Plan(count=15_000, backlog=2_000, padding=3_000)


def soak(plan: Plan, backend: Backend, directory: Path) -> Outcome:
    """Soak on a private server, if there is one."""
    if not broker_of(backend).available():
        (pytest.fail if os.environ.get("QBRIDGE_REQUIRE_BROKERS") == "1" else pytest.skip)(f"no server: {backend}")
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is read from /proc")
    return soak_privately(plan, backend, directory, say=lambda text: None)


@pytest.mark.parametrize("backend", [Backend.REDIS, Backend.QUORUM])
def test_g4_thousands_of_tasks_leave_a_flat_worker_and_an_empty_broker(backend: Backend, tmp_path: Path) -> None:
    """Some fail, some ask for a delay, some are no tasks; all end as planned, and nothing grows or stays behind."""
    outcome = soak(SHORT, backend, tmp_path)
    assert outcome.problems == []
    assert outcome.runs == SHORT.runs


def test_g4_a_worker_that_keeps_something_of_each_task_is_found(tmp_path: Path) -> None:
    """A handler that keeps a few thousand bytes of each task makes the soak fail, and only for its memory."""
    outcome = soak(Plan(count=15_000, backlog=2_000, leak=3_000), Backend.REDIS, tmp_path)
    (problem,) = outcome.problems
    assert "memory grew" in problem
