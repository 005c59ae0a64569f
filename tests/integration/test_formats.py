"""Formats of messages, and tasks that expire, on real brokers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pika
import pytest
import redis
from cloudevents.core.bindings import rabbitmq
from cloudevents.core.v1.event import CloudEvent

from qbridge_core import App, CloudEventsFormat, EnvelopeFormat, JSONFormat, Outcome, Reason, TaskManager, connect
from support.formats import ListFormat, note_payload, publish
from support.handlers import notes
from support.wait import wait_for


def test_a_message_of_another_format_has_a_whole_life(url: str, unique_name: str) -> None:
    """It waits until it is due, fails, is retried after a delay, a dead letter, and is replayed, as it was written."""
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        if len(runs) < 3:
            raise ValueError("not yet")

    dead = f"{unique_name}.dead"
    with connect(url) as client:
        client.declare(unique_name, dead)
        due = time.time() + 1
        publish(client, unique_name, 7, due_at=due, expires_at=due + 60, tenant="blue")
        manager = TaskManager(client, handler, unique_name, dead, max_retries=1, formats=[ListFormat])
        report = manager.run_until_idle(60.0)
        assert time.time() > due
        assert report[Outcome.FAILED] == report[Outcome.RETRIED] == 1
        (letter,) = client.dead_letters(dead)
        assert json.loads(letter.body) == ["any", [7], {}]
        assert letter.headers["tenant"] == "blue"
        client.replay(dead)
        assert manager.run_until_idle(60.0).succeeded == 1
    assert runs == [{"args": [7], "kwargs": {}}] * 3


def test_what_expired_in_the_queue_is_a_letter(url: str, unique_name: str) -> None:
    """Also behind a delay; and one that is replayed runs."""
    app = App()
    ran: list[str] = []

    @app.task(name="run", queue=unique_name)
    def run(what: str) -> None:
        ran.append(what)

    with app.open(url) as client:
        run.options(expires=0.2).send("late")
        run.options(expires=600).send("in time")
        time.sleep(0.3)
        report = app.run_until_idle(60.0)
        assert report.counts == {Outcome.EXPIRED: 1, Outcome.SUCCEEDED: 1}
        (letter,) = client.dead_letters(f"{unique_name}.dead")
        assert (letter.reason, letter.attempts) == (Reason.EXPIRED, 0)
        client.replay(f"{unique_name}.dead")
        app.run_until_idle(60.0)
    assert ran == ["in time", "late"]


def test_producers_and_workers_switch_to_another_format_in_either_order(url: str, unique_name: str) -> None:
    """A worker that accepts both runs what old and new producers send, and so does one that has switched before."""
    ran: list[int] = []

    def program(*formats: type) -> App:
        app = App()
        app.queue(unique_name, formats=formats)

        @app.task(name="run", queue=unique_name)
        def run(number: int) -> None:
            ran.append(number)

        return app

    old, new = program(EnvelopeFormat, CloudEventsFormat), program(CloudEventsFormat, EnvelopeFormat)
    for worker in old, new:
        for producer in old, new:
            (task,) = producer.tasks
            with producer.open(url):
                task.send(len(ran))
                task.options(delay=0.2).send(len(ran) + 100)
            with worker.open(url):
                assert worker.run_until_idle(60.0).counts == {Outcome.SUCCEEDED: 2}
    assert sorted(ran) == [0, 2, 4, 6, 100, 102, 104, 106]


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_property_of_rabbitmq_tells_what_the_data_is(
    amqp_url: str, unique_name: str, tmp_path: Path, executor: str
) -> None:
    """A text of digits stays bytes, in child processes too, and JSON is read."""
    journal = str(tmp_path / "journal")
    with connect(amqp_url) as client, pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        client.declare(unique_name, f"{unique_name}.dead")
        channel = connection.channel()
        for kind, data in (("application/json", {"file": journal}), ("text/plain", journal.encode())):
            attributes = {"type": "run", "source": "/", "id": "1", "specversion": "1.0", "datacontenttype": kind}
            made = rabbitmq.to_binary_event(CloudEvent(attributes=attributes, data=data))
            properties = pika.BasicProperties(content_type=made.content_type, headers=made.headers)
            channel.basic_publish("", unique_name, made.body, properties)
        arguments = {"max_workers": 1, "executor": executor, "formats": [JSONFormat(), CloudEventsFormat()]}
        manager = TaskManager(client, note_payload, unique_name, f"{unique_name}.dead", **arguments)  # type: ignore[arg-type]
        assert manager.run_until_idle(60.0).succeeded == 2
    assert sorted(notes(journal)) == sorted([repr(journal.encode()), json.dumps({"file": journal})])


def test_any_program_can_fill_a_stream_with_json(redis_url: str, unique_name: str) -> None:
    """The field ``body`` is all payload."""
    seen: list[object] = []
    with redis.Redis.from_url(redis_url) as producer:
        producer.xadd(unique_name, {"body": '{"to": "ann"}'})
    with (
        connect(redis_url) as client,
        TaskManager(client, seen.append, unique_name, f"{unique_name}.dead", formats=[JSONFormat]),
    ):
        wait_for(lambda: seen == [{"to": "ann"}], 30.0, "it has run")
