"""What a worker and its client hold of large messages, at real brokers."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from qbridge_core import Delivery, TaskManager, connect
from qbridge_core.work import dispatcher, plan, readahead
from qbridge_rabbitmq.consume import prefetch
from qbridge_rabbitmq.state.in_flight import Arrival
from support.wait import wait_for

MIB = 1024 * 1024


@pytest.fixture
def few_objects() -> Iterator[None]:
    """Keep what there is out of the lists of the garbage collector, so that it and a look through them are quick."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def tracing() -> Iterator[None]:
    """Count what is allocated from now on."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def in_use() -> int:
    """Bytes that were allocated since, and are not free."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("fate", ["succeeds", "fails"])
@pytest.mark.usefixtures("few_objects", "forgotten_records", "tracing")
def test_g4_an_idle_worker_keeps_nothing_of_a_large_message(shared_url: str, unique_name: str, fate: str) -> None:
    """Neither the worker nor its client holds the bytes of the last message while they wait for the next one."""

    def handler(payload: list[str]) -> None:
        if payload[0] == "fails":
            raise ValueError

    dead = f"{unique_name}.dead"
    with (
        connect(shared_url) as client,
        TaskManager(client, handler, unique_name, dead, max_workers=1, max_retries=0) as manager,
    ):
        client.send(unique_name, [fate, ""])  # makes what is made once
        manager.run_until_idle(20.0)
        before = in_use()
        client.send(unique_name, [fate, "x" * 4 * MIB])
        manager.run_until_idle(20.0)
        wait_for(lambda: in_use() - before < MIB, 10.0, "the memory is free")


def held() -> int:
    """Bytes of all messages that are here, whoever holds them."""
    found = [item for item in gc.get_objects() if type(item) in (Arrival, Delivery)]
    return sum({id(item.body): len(item.body) for item in found}.values())


@pytest.mark.usefixtures("few_objects")
def test_g4_what_is_held_of_large_messages_stays_within_the_budget(
    shared_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However quick the tasks are, no more is read ahead, beyond one message for each worker, than the budget."""
    size, workers, count = MIB // 4, 2, 100
    budget = 4 * size
    for module in (prefetch, readahead):
        monkeypatch.setattr(module, "PREFETCH_BYTES", budget)
    monkeypatch.setattr(dispatcher, "LARGE", budget // readahead.MOST)
    monkeypatch.setattr(plan, "SECONDS_HELD", 0.02)  # as if tasks with such messages were very quick
    seen = [0]

    def handler(_: str) -> None:
        time.sleep(0.0002)  # lets the other thread look while something is held

    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}.dead")
        client.send_many(unique_name, ["x" * size] * count)
        with TaskManager(client, handler, unique_name, f"{unique_name}.dead", max_workers=workers) as manager:
            wait_for(lambda: seen.append(held()) or manager.report().succeeded == count, 60.0, interval=0.002)
    assert size <= max(seen) <= budget + (workers + 1) * size  # with one that is being put together
