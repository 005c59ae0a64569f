"""Messages that the real Dramatiq has written are tasks of an app."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from qbridge_core import (
    App,
    DeadLetter,
    Delivery,
    DramatiqFormat,
    EnvelopeFormat,
    Outcome,
    PayloadError,
    QueueFullError,
    Reason,
    Retry,
    TaskContext,
)
from qbridge_core.app import moving
from qbridge_core.contract.envelope import MalformedTaskError
from qbridge_core.task.formats.base import Outgoing
from support.apps import client_of

WHOLE: dict[str, Any] = {
    "queue_name": "emails", "actor_name": "add", "args": [1], "kwargs": {}, "options": {}, "message_id": "m-1",
    "message_timestamp": 1,
}  # fmt: skip


class Producer:
    """A program of Dramatiq's, whose messages go to the queues of an app's broker."""

    def __init__(self, app: App) -> None:
        self.broker = StubBroker()

        @dramatiq.actor(broker=self.broker, queue_name="emails")
        def add(number: int, more: int = 0) -> None:
            del number, more

        self.add = add
        self._app = app

    def send(self, *args: Any, **options: Any) -> None:
        """Send it as Dramatiq does."""
        self.add.send_with_options(args=args, **options)
        self.move()

    def move(self) -> None:
        """Bring to the app's broker what this one has."""
        client = client_of(self._app)
        for name, queue in self.broker.queues.items():
            client.declare(name, "emails.dead")
            while not queue.empty():
                client.publish(name, queue.get())


@pytest.fixture
def calls(app: App) -> list[Any]:
    """What the task ``add`` of the app was called with."""
    found: list[Any] = []
    app.queue("emails", formats=[DramatiqFormat, EnvelopeFormat], max_workers=1)

    @app.task(name="add", queue="emails")
    def add(number: int, more: int = 0) -> None:
        found.append((number, more))

    return found


@pytest.fixture
def producer(app: App, calls: list[Any]) -> Producer:
    """A program of Dramatiq's."""
    del calls
    return Producer(app)


def letters(app: App) -> list[DeadLetter]:
    """The dead letters."""
    return list(client_of(app).dead_letters("emails.dead"))


def message(document: object) -> Delivery:
    """A message as anybody may write it."""
    return Delivery(json.dumps(document).encode(), "emails")


def test_positional_and_keyword_arguments_are_parameters(app: App, producer: Producer, calls: list[Any]) -> None:
    """As at a worker of Dramatiq's, beside messages of the app itself."""
    producer.send(1)
    producer.send(2, kwargs={"more": 3})
    app.tasks[0].send(number=4)
    assert app.run_until_idle().succeeded == 3
    assert calls == [(1, 0), (2, 3), (4, 0)]


def test_a_delay_is_waited_for_and_holds_up_nobody(app: App, producer: Producer, calls: list[Any]) -> None:
    """The message is in a queue of its own, ``emails.DQ``, and its time stands in its options."""
    begun = time.time()
    producer.send(1, delay=700)
    assert client_of(app).stats("emails.DQ").ready == 1
    producer.send(2)
    app.run_until_idle()
    assert calls == [(2, 0), (1, 0)]
    assert time.time() - begun >= 0.69
    assert client_of(app).stats("emails.DQ").ready == 0


def test_g2_a_delayed_message_stays_where_it_is_until_it_can_be_moved(
    app: App, producer: Producer, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that takes nothing for a while costs no attempt and no message."""
    producer.send(1, delay=1)
    client = client_of(app)
    publish, refused = client.publish, [QueueFullError("full")] * 5

    def refuse(*args: Any, **options: Any) -> None:
        if refused:
            raise refused.pop()
        publish(*args, **options)

    monkeypatch.setattr(client, "publish", refuse)
    monkeypatch.setattr(moving, "_PAUSE", 0.01)
    assert app.run_until_idle().counts[Outcome.SNOOZED] >= 5
    assert (calls, letters(app)) == ([(1, 0)], [])


def test_what_is_older_than_its_max_age_is_a_letter_that_has_not_run(
    app: App, producer: Producer, calls: list[Any]
) -> None:
    """Dramatiq would fail it, too."""
    old = producer.add.message_with_options(args=(1,), max_age=1000).copy(message_timestamp=1_000)
    producer.broker.enqueue(old)
    producer.send(2, max_age=60_000)
    assert app.run_until_idle().counts == {Outcome.SUCCEEDED: 1, Outcome.EXPIRED: 1}
    assert calls == [(2, 0)]
    assert [(letter.reason, letter.task_id, letter.attempts) for letter in letters(app)] == [
        (Reason.EXPIRED, old.message_id, 0)
    ]


UNSUPPORTED: dict[str, Callable[[Producer], object]] = {
    "pipe_target": lambda producer: dramatiq.pipeline(
        [producer.add.message(1), producer.add.message(2)], broker=producer.broker
    ).run(),
    "on_success": lambda producer: producer.send(1, on_success="add"),
    "on_failure": lambda producer: producer.send(1, on_failure="add"),
    "on_retry_exhausted": lambda producer: producer.send(1, on_retry_exhausted="add"),
    "group_completion_uuid": lambda producer: producer.send(
        1, group_completion_uuid="u", group_completion_callbacks=[producer.add.message(2).asdict()]
    ),
}


@pytest.mark.parametrize("option", UNSUPPORTED)
def test_what_would_be_done_in_part_is_not_run_at_all(
    app: App, producer: Producer, calls: list[Any], option: str
) -> None:
    """It is a letter at once, which names the option."""
    UNSUPPORTED[option](producer)
    producer.move()
    assert app.run_until_idle().counts == {Outcome.UNSUPPORTED: 1}
    assert calls == []
    (found,) = letters(app)
    assert (found.reason, found.attempts) == (Reason.UNSUPPORTED, 0)
    assert option in found.exception_message


def test_g5_the_retries_of_dramatiq_count(app: App, producer: Producer) -> None:
    """What it has tried twice has two attempts less."""
    attempts: list[int] = []

    @app.task(name="fail", queue="emails", max_retries=3)
    def fail(task: TaskContext) -> None:
        attempts.append(task.attempt)
        raise Retry("once more")

    producer.broker.enqueue(producer.add.message_with_options(retries=2).copy(actor_name="fail"))
    producer.move()
    app.run_until_idle()
    assert attempts == [3, 4]


def test_that_results_are_not_written_is_said_once(
    app: App, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where messages ask for them."""
    producer.send(1)
    producer.send(2, store_results=True)
    producer.send(3, store_results=True)
    app.run_until_idle()
    found = [each for each in caplog.records if "no results are written" in each.getMessage()]
    assert [each.levelno for each in found] == [logging.WARNING]


@pytest.mark.parametrize(
    "wrong",
    [
        {"actor_name": 7},
        {"actor_name": ""},
        {"message_id": None},
        {"args": {}},
        {"kwargs": []},
        {"options": []},
    ],
)
def test_g13_what_cannot_be_read_is_malformed(wrong: dict[str, object]) -> None:
    """Whatever somebody writes between the marks of Dramatiq."""
    delivery = message({**WHOLE, **wrong})
    assert DramatiqFormat().accepts(delivery)
    with pytest.raises(MalformedTaskError):
        DramatiqFormat().read(delivery, 10_000)


def test_a_time_that_is_none_is_now() -> None:
    """As it is for Dramatiq."""
    task = DramatiqFormat().read(message({**WHOLE, "options": {"eta": "soon", "max_age": "long"}}), 10_000)
    assert (task.due_at, task.expires_at) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"actor_name" "message_id" "args"',
        json.dumps({"payload": WHOLE, "task_id": "t"}).encode(),
    ],
)
def test_messages_of_others_are_left_to_others(body: bytes) -> None:
    """An envelope, too, whose payload is a message of Dramatiq's."""
    assert not DramatiqFormat().accepts(Delivery(body, "emails"))


def test_what_is_written_is_what_dramatiq_reads() -> None:
    """A message of its own, with the version as an option that it does not know."""
    expires_at = time.time() + 60
    task = Outgoing({"number": 1}, "t-1", "m-1", "emails", "add", version=2, expires_at=expires_at)
    written = DramatiqFormat().write(task)
    decoded = dramatiq.Message.decode(written.body)
    assert (decoded.queue_name, decoded.actor_name, decoded.message_id) == ("emails", "add", "t-1")
    assert (decoded.args, decoded.kwargs) == ((), {"number": 1})
    assert written.message_id == "m-1"
    read = DramatiqFormat().read(Delivery(written.body, "emails"), 10_000)
    assert (read.payload, read.args, read.document) == ({"number": 1}, [], {"version": 2})
    assert read.expires_at == pytest.approx(expires_at, abs=0.01)


def test_a_payload_without_a_name_is_refused() -> None:
    """Each message names an actor."""
    with pytest.raises(PayloadError, match="names its task"):
        DramatiqFormat().write(Outgoing({}, "t-1", "m-1", "emails"))
