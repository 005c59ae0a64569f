"""Whole worker processes on real brokers: killed, stopped, stuck, and their broker taken away."""

from __future__ import annotations

import signal
import time

import pytest

from qbridge_core import QueueClient, Reason, TransientError, connect
from support.brokers import Broker
from support.wait import wait_for
from support.worker_process import Journal, StartWorker, quick

pytestmark = pytest.mark.faults
TASKS = 1000


def all_done(journal: Journal, count: int = TASKS) -> bool:
    """True when each task has been done at least once."""
    return len(journal.counts("done")) == count


def test_g2_a_killed_worker_loses_nothing(
    shared_url: str, unique_name: str, journal: Journal, start_worker: StartWorker
) -> None:
    """SIGKILL in the middle of 1,000 tasks and a restart: every task is done, at most the running ones run twice."""
    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send_many(unique_name, [{"id": n} for n in range(TASKS)])
        worker = start_worker(shared_url)
        wait_for(lambda: len(journal.counts("done")) > 200, 60, "the worker gets going")
        worker.kill()
        worker.wait()
        assert not all_done(journal), "the worker was killed too late to prove anything"
        start_worker(shared_url)
        wait_for(lambda: all_done(journal), 90, "every task is done after the restart")
        wait_for(lambda: empty(client, unique_name), 30, "the queue is empty at the end")
        assert client.stats(f"{unique_name}-dead").ready == 0
    # What was done and not yet acknowledged may run again, beside the ten that were running.
    assert sum(journal.counts("start").values()) - TASKS <= 10 + 100


def test_g2_a_killed_broker_loses_nothing_and_needs_no_restart_of_the_worker(
    private_broker: Broker, unique_name: str, journal: Journal, start_worker: StartWorker
) -> None:
    """kill -9 of the broker in the middle of 1,000 tasks: the running worker does them all when it is back."""
    url = quick(private_broker.url)
    with connect(url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        declared = time.monotonic()
        client.send_many(unique_name, [{"id": n} for n in range(TASKS)])
        # RabbitMQ 3.10 does not recover a quorum queue that is killed in its first second.
        wait_for(lambda: time.monotonic() > declared + 5, 10, "the queues are old enough")
        worker = start_worker(url)
        wait_for(lambda: len(journal.counts("done")) > 200, 60, "the worker gets going")
        private_broker.kill()
        assert not all_done(journal), "the broker was killed too late to prove anything"
        private_broker.start()
        wait_for(lambda: all_done(journal), 60, "every task is done after the crash")
        wait_for(lambda: empty(client, unique_name), 30, "the queue is empty at the end")
        assert client.stats(f"{unique_name}-dead").ready == 0
    assert worker.poll() is None


def test_g16_a_stuck_handler_neither_blocks_the_others_nor_the_exit(
    shared_url: str, unique_name: str, journal: Journal, start_worker: StartWorker
) -> None:
    """Handlers in ``sleep(3600)`` time out, are dead-lettered, and the process still exits 0 on SIGTERM."""
    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send_many(unique_name, [{"id": f"stuck-{n}", "sleep": 3600} for n in range(10)])
        client.send_many(unique_name, [{"id": n} for n in range(200)])
        worker = start_worker(shared_url, timeout=1.0)
        wait_for(lambda: len(journal.counts("done")) == 200, 30, "the other tasks go on")
        wait_for(lambda: client.stats(f"{unique_name}-dead").ready == 10, 60, "the stuck tasks are dead-lettered")
        letters = client.dead_letters(f"{unique_name}-dead")
        assert {letter.reason for letter in letters} == {Reason.TIMED_OUT}
        assert {letter.attempts for letter in letters} == {4}
        client.send(unique_name, {"id": "last", "sleep": 3600})
        wait_for(lambda: journal.counts("start")["last"] == 1, 30, "one more is stuck")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


def test_g16_sigterm_finishes_what_runs_and_hands_back_the_rest(
    shared_url: str, unique_name: str, journal: Journal, start_worker: StartWorker
) -> None:
    """A graceful stop in the middle of the work exits 0, repeats nothing and loses nothing."""
    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send_many(unique_name, [{"id": n, "sleep": 0.02} for n in range(500)])
        first = start_worker(shared_url)
        wait_for(lambda: len(journal.counts("done")) > 50, 30, "the first worker gets going")
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        start_worker(shared_url)
        wait_for(lambda: all_done(journal, 500), 30, "the second worker does the rest")
        wait_for(lambda: empty(client, unique_name), 30, "the queue is empty at the end")
    assert set(journal.counts("start").values()) == {1}


def test_g6_a_task_that_kills_its_worker_is_found_and_its_neighbours_go_free(
    counting_url: str, unique_name: str, journal: Journal, start_worker: StartWorker
) -> None:
    """One pill among 500 tasks: it is dead-lettered after 3 deaths, and every other task is done."""
    dead = f"{unique_name}-dead"
    with connect(counting_url) as client:
        client.declare(unique_name, dead)
        client.send_many(unique_name, [{"id": n} for n in range(250)])
        client.send(unique_name, {"id": "pill", "kill": True})
        client.send_many(unique_name, [{"id": n} for n in range(250, 500)])
        worker = start_worker(counting_url)

        def over() -> bool:
            nonlocal worker
            if worker.poll() is not None:
                worker = start_worker(counting_url)
            return all_done(journal, 500) and client.stats(dead).ready > 0

        wait_for(over, 90, "every task is done or dead-lettered", interval=0.1)
        wait_for(lambda: empty(client, unique_name) and empty(client, f"{unique_name}.suspects"), 30, "nothing is left")
        (letter,) = client.dead_letters(dead)
        assert (letter.reason, letter.crashes, letter.source_queue) == (Reason.CRASHED, 3, unique_name)
    assert journal.counts("start")["pill"] == 3


def empty(client: QueueClient, queue: str) -> bool:
    """True when the queue holds nothing; False while the broker cannot say."""
    try:
        stats = client.stats(queue)
    except TransientError:
        return False
    return stats.ready == stats.in_flight == stats.delayed == 0


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_g14_reset_and_vanished_connections_need_no_restart(
    request: pytest.FixtureRequest, kind: str, unique_name: str, journal: Journal, start_worker: StartWorker
) -> None:
    """Connections cut by a reset, and cut again while new ones are refused: the running worker does every task."""
    url = request.getfixturevalue("amqp_url" if kind == "rabbitmq" else "redis_url")
    proxy = request.getfixturevalue("tcp_proxy")(url)
    with connect(url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send_many(unique_name, [{"id": n} for n in range(TASKS)])
        worker = start_worker(quick(proxy.through(url)))
        wait_for(lambda: len(journal.counts("done")) > 100, 60, "the worker gets going")
        proxy.reset()
        wait_for(lambda: len(journal.counts("done")) > 400, 60, "the worker goes on after a reset")
        proxy.refuse()
        proxy.reset()
        assert not all_done(journal), "the connection was cut too late to prove anything"
        proxy.pass_through()
        wait_for(lambda: all_done(journal), 60, "every task is done")
        wait_for(lambda: empty(client, unique_name), 60, "the queue is empty at the end")
        assert client.stats(f"{unique_name}-dead").ready == 0
    assert worker.poll() is None
