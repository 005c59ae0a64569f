"""The short form of ``make chaos``: random faults of the network, of the broker and of the worker."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from chaos.cell import new_broker, run_cell
from chaos.plan import MIXED, Backend, Size, make_plan
from chaos.report import failure

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]
BRIEF = Size(tasks=600, task_seconds=0.04, brief=True)


@pytest.fixture(params=Backend)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend whose server is installed."""
    backend: Backend = request.param
    if not new_broker(backend, Path("/")).available():
        (pytest.fail if os.environ.get("QBRIDGE_REQUIRE_BROKERS") == "1" else pytest.skip)(f"no server for {backend}")
    return backend


def test_g14_random_faults_lose_nothing_and_repeat_nothing(backend: Backend, tmp_path: Path) -> None:
    """600 tasks over three random faults end as planned; QBRIDGE_CHAOS_SEED repeats a run."""
    seed = int(os.environ.get("QBRIDGE_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    outcome = run_cell(make_plan(seed, backend, MIXED, BRIEF), tmp_path / "cell")
    assert outcome.verdict.ok, f"QBRIDGE_CHAOS_SEED={seed} repeats it\n{failure(outcome)}"
