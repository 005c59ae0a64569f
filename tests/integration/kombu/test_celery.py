"""Programs of Celery's and of QBridge's on one queue: what becomes of the other's messages, and that nobody suffers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from qbridge_core import DeadLetter, QueueClient, QueueMismatchError, Reason, TaskManager, connect
from support.brokers import redis_command
from support.foreign_programs import CeleryProgram
from support.sqs import SQSBroker
from support.wait import wait_for

pytestmark = pytest.mark.slow
_DELETES_ON_SQS = tuple(map(int, version("kombu").split(".")[:2])) >= (5, 7)


@pytest.fixture(params=["sqs", "redis", "amqp"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each broker that both reach."""
    if request.param == "sqs":
        if not _DELETES_ON_SQS:
            pytest.skip("before kombu 5.7 what a Celery worker throws away comes again on SQS, until QBridge gets it")
        server: SQSBroker = request.getfixturevalue("sqs_server")
        return f"{server.url}?lease=3&wait_time=1"
    address: str = request.getfixturevalue(f"{request.param}_url")
    return f"kombu+{address}" + ("?allow_loss=true" if request.param == "redis" else "")


@pytest.fixture
def celery(url: str, queue: str, tmp_path: Path) -> Iterator[CeleryProgram]:
    """Celery on the test's queue."""
    program = CeleryProgram(url, queue, tmp_path)
    yield program
    program.close()


def letters(client: QueueClient, queue: str, count: int) -> list[DeadLetter]:
    """So many dead letters, which are given back."""
    found = []

    def all_came() -> bool:
        found.extend(client.receive(queue, count, 1.0))
        return len(found) >= count

    wait_for(all_came, 30, "the letters come")
    for each in found:
        client.reject(each, requeue=True)
    return [DeadLetter.from_headers(each.body, each.headers, each.meta) for each in found]


def left(client: QueueClient, queue: str) -> int:
    """How many messages there are in the queue."""
    stats = client.stats(queue)
    return stats.ready + stats.in_flight


def test_neither_celery_nor_qbridge_is_poisoned_by_the_others_tasks(
    url: str, celery: CeleryProgram, queue: str
) -> None:
    """QBridge dead-letters a task of Celery's once, as malformed, and it runs at Celery when it is replayed; a Celery
    worker logs what is no task of its own and throws it away; no message goes round, and both workers go on.
    """
    dead = f"{queue}-dead"
    runs: list[int] = []
    assert celery.send(1, 2, 3) == "sent"
    with connect(url) as client:
        client.declare(queue, dead)
        client.send_many(queue, [10, 11])
        report = TaskManager(client, runs.append, queue, dead, max_workers=2).run_until_idle(60.0)
        assert (report.succeeded, report.dead_lettered, sorted(runs)) == (2, 3, [10, 11])
        found = letters(client, dead, 3)
        assert {letter.reason for letter in found} == {Reason.MALFORMED}
        assert sorted(json.loads(letter.body)[0][0] for letter in found) == [1, 2, 3]
        assert {letter.headers["task"] for letter in found} == {"tests.note"}

        celery.start()
        assert client.replay(dead) == 3
        wait_for(lambda: sorted(celery.done()) == [1, 2, 3], 60, "Celery runs what was sent back")
        client.send(queue, 12)
        client.publish(queue, b"\xff no task of anybody's")
        wait_for(lambda: celery.discarded() == 2, 60, "Celery throws away what is not its own")

        with TaskManager(client, runs.append, queue, dead, max_workers=2):
            client.send_many(queue, range(100, 120))
            assert celery.send(*range(20, 40)) == "sent"

            def accounted() -> bool:
                return len(celery.done()) - 3 + left(client, dead) == 20 and len(runs) + celery.discarded() == 24

            wait_for(accounted, 60, "each message is settled by one of the two")
            wait_for(lambda: left(client, queue) == 0, 30, "none is left")
        assert accounted()
        assert len(set(runs)) == len(runs)
        assert celery.send(4) == "sent"
        wait_for(lambda: 4 in celery.done(), 60, "Celery's worker goes on")
        assert celery.is_alive()


def test_a_name_that_celery_uses_on_a_redis_is_refused_and_the_other_way_round(
    redis_url: str, queue: str, tmp_path: Path
) -> None:
    """``redis://`` makes no stream where Celery has a list, nor Celery a list where there is a stream; both stay."""
    celery = CeleryProgram(redis_url, queue, tmp_path)
    try:
        with connect(redis_url) as client:
            client.declare(queue)
            client.send(queue, 10)
            assert "WRONGTYPE" in celery.send(1)
            assert client.stats(queue).ready == 1
            client.purge(queue)
            redis_command(redis_url, "DEL", queue)
            assert celery.send(1) == "sent"
            with pytest.raises(QueueMismatchError, match=r"queue of Celery's, which kombu\+redis:// works off"):
                client.declare(queue)
            assert redis_command(redis_url, "LLEN", queue) == 1
    finally:
        celery.close()
