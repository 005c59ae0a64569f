"""Pauses on RabbitMQ: marks that are exchanges, and notes that are counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import AuthenticationError, TaskManager
from qbridge_core.logs import flush
from qbridge_rabbitmq.queues import pauses
from qbridge_rabbitmq.queues.requests import Requests
from support.brokers import RabbitMQBroker
from support.wait import wait_for


@pytest.fixture
def broker(private_rabbitmq: RabbitMQBroker) -> RabbitMQBroker:
    """A broker with a user whose rights the tests of this file change, and policies."""
    private_rabbitmq.put_user("worker", "secret")
    return private_rabbitmq


@pytest.fixture
def channel(broker: RabbitMQBroker) -> Iterator[Any]:
    """A channel of plain pika."""
    with closing(pika.BlockingConnection(pika.URLParameters(broker.url))) as connection:
        yield connection.channel()


def has_notes(broker: RabbitMQBroker) -> bool:
    """Whether there is a queue for notes."""
    with closing(pika.BlockingConnection(pika.URLParameters(broker.url))) as connection:
        try:
            connection.channel().queue_declare(pauses.NOTES, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True


def test_a_look_is_one_question_for_all_queues(
    make_client: MakeClient, broker: RabbitMQBroker, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nothing changes; and a change is seen by those that it concerns."""
    asked: Counter[str] = Counter()
    call = Requests.call

    def counting(self: Any, what: str, *args: Any) -> Any:
        asked["notes" if pauses.NOTES in what else "mark" if what.startswith("the mark") else "other"] += 1
        return call(self, what, *args)

    monkeypatch.setattr(Requests, "call", counting)
    client, dead = make_client(broker.url), f"{unique_name}.dead"
    with ExitStack() as stack:
        managers = [TaskManager(client, print, f"{unique_name}-{n}", dead, max_workers=1) for n in range(5)]
        for manager in managers:
            stack.enter_context(manager)
        wait_for(lambda: asked["mark"] == 5, 30.0, "each one asks once at its beginning")
        asked.clear()
        wait_for(lambda: asked["notes"] >= 3, 30.0)
        assert asked["mark"] == 0
        make_client(broker.url).pause(f"{unique_name}-3")
        wait_for(lambda: managers[3].paused, 20.0)
        assert [manager.paused for manager in managers].count(True) == 1


def test_who_may_not_make_notes_works_and_sees_pauses_later(
    make_client: MakeClient,
    broker: RabbitMQBroker,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    channel: Any,
) -> None:
    """A worker with the rights that it had before there were pauses works; the log says once what it lacks."""
    monkeypatch.setattr(pauses, "_REFUSED_PAUSE", 1.0)
    channel.queue_delete(pauses.NOTES)
    broker.put_user("worker", "secret", configure=rf"^{unique_name}.*$")
    limited = make_client(broker.url.replace("guest:guest@", "worker:secret@"))
    with (
        caplog.at_level(logging.INFO, "qbridge.rabbitmq"),
        TaskManager(limited, lambda _: None, unique_name, f"{unique_name}.dead", max_workers=2) as manager,
    ):
        limited.send(unique_name, 1)
        wait_for(lambda: manager.report().succeeded == 1, 20.0)
        assert limited.stats(unique_name).paused is False
        with pytest.raises(AuthenticationError, match=pauses.NOTES):
            limited.pause(unique_name)
        wait_for(lambda: manager.paused, 30.0, "the mark is there, and seen without a note")
        assert not has_notes(broker)
        admin = make_client(broker.url)
        admin.resume(unique_name)
        wait_for(lambda: not manager.paused, 30.0)
        admin.pause(unique_name)
        wait_for(lambda: manager.paused, 30.0)
        admin.resume(unique_name)
    flush()
    told = [record for record in caplog.records if record.name == "qbridge.rabbitmq"]
    assert len([record for record in told if pauses.NOTES in record.getMessage()]) == 1


def test_nothing_depends_on_the_notes_but_how_soon_a_change_is_seen(
    make_client: MakeClient,
    broker: RabbitMQBroker,
    unique_name: str,
    channel: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deleted, emptied or kept short by a policy: a pause stays, and is seen; the notes are few and say what it was."""
    monkeypatch.setattr(pauses, "_MOST_NOTES", 5)
    worker, operator = make_client(broker.url), make_client(broker.url)
    dead = f"{unique_name}.dead"
    with TaskManager(worker, lambda _: None, unique_name, dead, max_workers=2) as manager:
        operator.pause(unique_name)
        wait_for(lambda: manager.paused, 20.0)
        channel.queue_delete(pauses.NOTES)
        assert make_client(broker.url).paused([unique_name]) == {unique_name}
        wait_for(lambda: has_notes(broker), 30.0, "the worker makes it again")
        assert manager.paused
        broker.rabbitmqctl("set_policy", "short", "^qbridge", '{"max-length": 1}', "--apply-to", "queues")
        operator.resume(unique_name)
        wait_for(lambda: not manager.paused, 20.0)
        operator.pause(unique_name)
        wait_for(lambda: manager.paused, 20.0)
        broker.rabbitmqctl("clear_policy", "short")
        for _ in range(4):
            operator.pause(unique_name)
            operator.resume(unique_name)
        wait_for(lambda: not manager.paused, 20.0)
    (note,) = worker.receive(pauses.NOTES, 1, 5.0)
    assert b'"queue": ' in note.body
    assert unique_name.encode() in note.body
    assert operator.stats(pauses.NOTES).ready < 5


def test_a_mark_that_is_taken_away_by_hand_is_missed(
    make_client: MakeClient, broker: RabbitMQBroker, unique_name: str, channel: Any
) -> None:
    """An operator without QBridge ends a pause by deleting the exchange."""
    worker = make_client(broker.url)
    with TaskManager(worker, lambda _: None, unique_name, f"{unique_name}.dead", max_workers=2) as manager:
        worker.pause(unique_name)
        wait_for(lambda: manager.paused, 20.0)
        channel.exchange_delete(pauses.mark(unique_name))
        wait_for(lambda: not manager.paused, 20.0)


def test_a_worker_of_a_paused_queue_has_no_consumer(
    make_client: MakeClient, broker: RabbitMQBroker, unique_name: str, channel: Any
) -> None:
    """So that nothing is pushed to it, and others can see that nobody consumes."""
    worker, operator = make_client(broker.url), make_client(broker.url)

    def has_consumer() -> bool:
        return bool(channel.queue_declare(unique_name, passive=True).method.consumer_count)

    with TaskManager(worker, lambda _: None, unique_name, f"{unique_name}.dead", max_workers=2) as manager:
        wait_for(has_consumer, 20.0)
        operator.pause(unique_name)
        wait_for(lambda: manager.paused and not has_consumer(), 20.0)
        operator.resume(unique_name)
        wait_for(has_consumer, 20.0)
