"""The short form of ``make chaos``: random faults of the network, of the broker and of the worker."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chaos.cell import run_cell
from chaos.plan import MIXED, Backend, Fate, Sent, Size, make_plan
from chaos.publisher import Publisher, copy_of
from chaos.report import failure
from chaos.targets import broker_of
from qbridge_core import connect
from support.brokers import RedisBroker
from support.wait import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]
BRIEF = Size(tasks=600, task_seconds=0.04, brief=True)


BACKENDS = {"rabbitmq": (Backend.QUORUM, Backend.CLASSIC), "redis": (Backend.REDIS,)}


@pytest.mark.parametrize("kind", BACKENDS)
def test_g14_random_faults_lose_nothing_and_repeat_nothing(kind: str, tmp_path: Path) -> None:
    """600 tasks over three random faults end as planned; QBRIDGE_CHAOS_SEED repeats a run."""
    seed = int(os.environ.get("QBRIDGE_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    backend = random.Random(seed).choice(BACKENDS[kind])
    if not broker_of(backend).available():
        (pytest.fail if os.environ.get("QBRIDGE_REQUIRE_BROKERS") == "1" else pytest.skip)(f"no server for {kind}")
    outcome = run_cell(make_plan(seed, backend, MIXED, BRIEF), tmp_path / "cell")
    if not outcome.verdict.ok:
        pytest.fail(f"QBRIDGE_CHAOS_SEED={seed} repeats it\n{failure(outcome)}", pytrace=False)


def test_what_is_published_without_a_confirmation_is_a_copy_of_its_own(private_redis: RedisBroker) -> None:
    """A server that is silent for a while has both messages in the end, and their names differ."""
    plan = make_plan(1, Backend.REDIS, MIXED, BRIEF)
    task_id = next(task_id for task_id, fate in plan.fates.items() if fate is Fate.SUCCEEDS)
    with connect(private_redis.url + "?publish_timeout=0.5") as client, connect(private_redis.url) as reader:
        client.declare("chaos")
        publisher = Publisher(client, "chaos", plan)
        with ThreadPoolExecutor() as pool:
            private_redis.suspend()
            publishing = pool.submit(publisher.publish, [task_id], time.monotonic() + 60)
            wait_for(lambda: publisher.copies, message="the publisher gives up waiting for the first confirmation")
            private_redis.resume()
            publishing.result()
        names = {copy_of(delivery) for delivery in reader.receive("chaos", 10, 1.0)}
    assert publisher.copies[f"{task_id}.0"] is Sent.UNKNOWN
    assert publisher.confirmed <= names <= publisher.copies.keys()
    assert len(publisher.confirmed) == 1
    assert f"{task_id}.0" in names
