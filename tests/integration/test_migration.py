"""Queues that programs of Celery and Dramatiq have filled are worked off, and theirs run what an app has sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import PreconditionFailed
from celery import Celery

from qbridge_core import App, CeleryFormat, ConstantBackoff, DramatiqFormat, EnvelopeFormat, Reason, connect
from qbridge_core.app.task import AppTask
from qbridge_core.task.formats.base import Format
from support.apps import client_of
from support.foreign_programs import CeleryProgram, DramatiqProgram, ForeignProgram
from support.sqs import SQSBroker
from support.wait import wait_for

pytestmark = pytest.mark.slow


class Side:
    """QBridge's side: the task of the other program, which fails for 3 always, and once for 2."""

    def __init__(self, name: str, queue: str, *formats: Format) -> None:
        self.app = App(on_unknown=0)
        self.app.queue(queue, formats=formats, dead_letter_queue=f"{queue}-dead", max_workers=2)
        self.ran: list[int] = []
        self.last: dict[int, float] = {}
        self.note: AppTask[Any] = self.app.task(name=name, queue=queue, max_retries=1, backoff=ConstantBackoff(0.1))(
            self._note
        )

    def _note(self, number: int) -> None:
        self.ran.append(number)
        self.last[number] = time.time()
        if number == 3 or (number == 2 and self.ran.count(2) == 1):
            raise ValueError(f"not {number}")


def drains(side: Side, other: ForeignProgram, queue: str) -> None:
    """Work off what the other program has sent; retries, delays and dead letters are what they are for any message."""
    begun = time.time()
    assert other.send(1, 2, 3, "4@1.5") == "sent"
    side.app.run_until_idle(60.0)
    assert sorted(side.ran) == [1, 2, 2, 3, 3, 4]
    assert side.last[4] >= begun + 1.5
    (letter,) = client_of(side.app).receive(f"{queue}-dead", 2, 10.0)
    assert letter.meta["x-qbridge-reason"] == Reason.FAILED
    client_of(side.app).ack(letter)


def is_understood(side: Side, other: ForeignProgram, *, delays: bool = True) -> None:
    """A worker of the other kind runs what was sent, one by one, many at once, and with a delay of the broker's own."""
    other.start()
    side.note.send(10)
    side.note.options(delay=0.5 if delays else 0.0).send(number=11)
    side.app.send_many(side.note.message(number) for number in (12, 13))
    wait_for(lambda: {10, 11, 12, 13} <= set(other.done()), 60, "the other worker runs all of them")
    assert len(other.done()) == 4


@pytest.fixture
def closing() -> Iterator[Callable[[Any], None]]:
    """Closes in the end what it was given."""
    found: list[Any] = []
    yield found.append
    for each in found:
        each.close()


@pytest.mark.parametrize("broker", ["amqp", "redis", "sqs"])
def test_what_celery_has_sent_is_worked_off_and_the_other_way_round(
    request: pytest.FixtureRequest, broker: str, unique_name: str, tmp_path: Path, closing: Callable[[Any], None]
) -> None:
    """On RabbitMQ from the classic queue that Celery has made; on Redis and SQS through kombu."""
    if broker == "sqs":
        server: SQSBroker = request.getfixturevalue("sqs_server")
        url = f"{server.url}?lease=3&wait_time=1"
    else:
        address: str = request.getfixturevalue(f"{broker}_url")
        url = address if broker == "amqp" else f"kombu+{address}?allow_loss=true"
    celery = CeleryProgram(url, unique_name, tmp_path)
    closing(celery)
    side = Side("tests.note", unique_name, CeleryFormat(), EnvelopeFormat())
    with side.app.open(url):
        drains(side, celery, unique_name)
        is_understood(side, celery, delays=broker != "redis")


def test_what_dramatiq_has_sent_is_worked_off_and_the_other_way_round(
    amqp_url: str, unique_name: str, tmp_path: Path, closing: Callable[[Any], None]
) -> None:
    """From the queue that Dramatiq has made, and that in which its delayed messages wait."""
    program = DramatiqProgram(amqp_url, unique_name, tmp_path)
    closing(program)
    side = Side("note", unique_name, DramatiqFormat(), EnvelopeFormat())
    with side.app.open(amqp_url):
        drains(side, program, unique_name)
        is_understood(side, program)


def test_a_queue_can_be_made_as_celery_makes_it(amqp_url: str, unique_name: str) -> None:
    """Through kombu, for Celery to find what it would have made: it takes no queue that was made for ``amqp://``."""
    with connect(f"kombu+{amqp_url}") as as_celery, connect(amqp_url) as client:
        as_celery.declare(unique_name, f"{unique_name}-dead")
        client.declare(f"{unique_name}-ours", f"{unique_name}-dead")
        with Celery(broker=amqp_url, set_as_current=False) as celery:
            celery.send_task("shop.add", [1], queue=unique_name)
            assert client.stats(unique_name).ready == 1
            with pytest.raises(PreconditionFailed):
                celery.send_task("shop.add", [1], queue=f"{unique_name}-ours", retry=False)
