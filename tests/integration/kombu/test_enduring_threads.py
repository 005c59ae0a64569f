"""Threads of the kombu backend outlive whatever is raised in them, and counts miss no message that is on its way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from integration.kombu.conftest import MakeClient
from qbridge_core import PermanentError
from qbridge_kombu import KombuClient
from qbridge_kombu.queues.leases import Leases
from support.wait import wait_for


@pytest.fixture
def client(make_client: MakeClient, queue: str) -> KombuClient:
    """A client of kombu's memory transport that has declared the queue."""
    client = make_client("kombu+memory://?allow_loss=true")
    client.declare(queue, f"{queue}-dead")
    return client


def transport(client: KombuClient) -> Any:
    """What a test changes of it."""
    assert client._parts is not None
    return client._parts.context.transport


def test_g20_the_thread_of_a_connection_survives_what_cannot_be_translated(
    client: KombuClient, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one call fails at once, and the next one works: the error of a driver may raise when it is looked at."""

    def bad(*_: object) -> Any:
        raise ZeroDivisionError("nobody expects this")

    with monkeypatch.context() as patch:
        patch.setattr(transport(client), "size", bad)
        patch.setattr(transport(client), "translate", bad)
        with pytest.raises(PermanentError, match="unexpected ZeroDivisionError"):
            client.stats(queue)
    client.send(queue, 1)
    assert client.stats(queue).ready == 1
    assert any("goes on after an unexpected error" in record.getMessage() for record in caplog.records)


def test_g14_leases_are_renewed_again_after_an_unexpected_error(caplog: pytest.LogCaptureFixture) -> None:
    """The thread says so and goes on."""
    closing, calls = threading.Event(), []

    def renew(work: Callable[[Any], None], doing: str, seconds: float) -> None:
        del work, seconds
        calls.append(doing)
        if len(calls) == 1:
            raise ZeroDivisionError("nobody expects this")

    context: Any = SimpleNamespace(
        transport=SimpleNamespace(lease=0.03, renews=True),
        closing=closing,
        in_flight=SimpleNamespace(open_tags=lambda: [SimpleNamespace(queue="q")]),
        new_thread=lambda _: SimpleNamespace(call=renew, close=lambda _: None),
    )
    leases = Leases(context)
    leases.start()
    wait_for(lambda: len(calls) > 1, 10.0, "nothing is renewed any more")
    closing.set()
    leases.stop(10.0)
    assert "leases of 'q' cannot be renewed" in caplog.text


def test_g2_what_is_received_while_the_broker_counts_is_counted(
    client: KombuClient, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or ``run_until_idle`` would end with a retry outstanding."""
    size = transport(client).size

    def later(session: Any, name: str) -> Any:
        if name == queue:  # another count tells whether it is paused
            assert client.receive(queue)
        return size(session, name)

    client.send(queue, 1)
    monkeypatch.setattr(transport(client), "size", later)
    stats = client.stats(queue)
    assert (stats.ready, stats.in_flight) == (0, 1)


def test_g2_what_the_broker_has_handed_out_and_nobody_has_yet_is_counted(
    client: KombuClient, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on its way through the connection: the count waits for it."""
    receive, size = transport(client).receive, transport(client).size
    handed_out, counted = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        found = receive(*args)
        handed_out.set()
        assert counted.wait(10.0)
        threading.Event().wait(0.1)
        return found

    def count(session: Any, name: str) -> Any:
        found = size(session, name)
        counted.set()
        return found

    client.send(queue, 1)
    monkeypatch.setattr(transport(client), "receive", slow)
    monkeypatch.setattr(transport(client), "size", count)
    receiver = threading.Thread(target=client.receive, args=(queue,))
    receiver.start()
    assert handed_out.wait(10.0)
    stats = client.stats(queue)
    receiver.join()
    assert (stats.ready, stats.in_flight) == (0, 1)
