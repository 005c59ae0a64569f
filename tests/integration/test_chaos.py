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


BACKENDS = {"rabbitmq": (Backend.QUORUM, Backend.CLASSIC), "redis": (Backend.REDIS,)}


@pytest.mark.parametrize("kind", BACKENDS)
def test_g14_random_faults_lose_nothing_and_repeat_nothing(kind: str, tmp_path: Path) -> None:
    """600 tasks over three random faults end as planned; QBRIDGE_CHAOS_SEED repeats a run."""
    seed = int(os.environ.get("QBRIDGE_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    backend = random.Random(seed).choice(BACKENDS[kind])
    if not new_broker(backend, tmp_path / "broker").available():
        (pytest.fail if os.environ.get("QBRIDGE_REQUIRE_BROKERS") == "1" else pytest.skip)(f"no server for {kind}")
    outcome = run_cell(make_plan(seed, backend, MIXED, BRIEF), tmp_path / "cell")
    if not outcome.verdict.ok:
        pytest.fail(f"QBRIDGE_CHAOS_SEED={seed} repeats it\n{failure(outcome)}", pytrace=False)
