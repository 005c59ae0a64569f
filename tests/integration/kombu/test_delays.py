"""Delays that the broker cannot hold: messages in ``<queue>.delayed``, which any worker moves on."""

from __future__ import annotations

import time

import pytest

from integration.kombu.conftest import MakeClient
from support.wait import wait_for


@pytest.mark.parametrize("where", ["folder_url", "file_url", "amqp"])
def test_a_delayed_message_waits_in_a_queue_of_the_broker(
    make_client: MakeClient, request: pytest.FixtureRequest, where: str, queue: str
) -> None:
    """It is there for whoever looks, and another client that receives moves it when its time has come."""
    url = request.getfixturevalue(where)
    sender = make_client(url)
    sender.declare(queue)
    sender.publish(queue, b"later", headers={"h": "1"}, message_id="m", delay=0.6)
    sender.disconnect()
    other = make_client(url)
    assert other.stats(f"{queue}.delayed").ready == 1
    began = time.monotonic()
    delivery = other.receive(queue, 1, 20.0)[0]
    assert time.monotonic() - began > 0.1
    assert (delivery.body, dict(delivery.headers), delivery.message_id) == (b"later", {"h": "1"}, "m")
    assert delivery.meta.keys() == {"x-qbridge-sent-at-ms", "x-qbridge-due-at-ms"}
    other.ack(delivery)
    assert other.flush()
    assert other.stats(f"{queue}.delayed").ready == 0


def test_nothing_is_read_again_before_something_is_due(make_client: MakeClient, folder_url: str, queue: str) -> None:
    """A queue of delayed messages is looked through when it has grown or one is due, not whenever somebody asks."""
    client = make_client(folder_url)
    client.declare(queue)
    for _ in range(5):
        client.publish(queue, b"much later", delay=3600.0)
    transport, names = client._transport, []
    real = transport.receive

    def note(session: object, name: str, count: int, wait: float) -> object:
        names.append(name)
        return real(session, name, count, wait)  # type: ignore[arg-type]

    transport.receive = note  # type: ignore[method-assign, assignment]
    assert client.stats(queue).delayed == 5
    wait_for(lambda: client.stats(queue).delayed == 5 and len(names) > 0, message="it is never looked through")
    names.clear()
    client.receive(queue, 1, 1.0)
    assert names.count(f"{queue}.delayed") <= 1


def test_a_message_in_the_delayed_queue_that_is_not_ours_is_moved_at_once(
    make_client: MakeClient, folder_url: str, queue: str
) -> None:
    """One that somebody published there says no time."""
    client = make_client(folder_url)
    client.declare(queue)
    client.declare(f"{queue}.delayed")
    client.publish(f"{queue}.delayed", b"x")
    assert client.receive(queue, 1, 10.0)[0].body == b"x"
