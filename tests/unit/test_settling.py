"""Settlements: repeated until the broker agrees, never skipped; and what the log says about them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import (
    BrokerBlockedError,
    BrokerUnavailableError,
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    NotConnectedError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueFullError,
    TaskManager,
    UnroutableError,
)
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Stubborn(MemoryClient):
    """Fails to settle as often as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.tries = 0
        self.connect()
        self.declare("q", "d")

    def _fail(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)

    def ack(self, delivery: Delivery) -> None:
        """Fail or acknowledge."""
        self._fail()
        super().ack(delivery)

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        """Fail or reject."""
        self._fail()
        super().reject(delivery, requeue, **options)


def fail(payload: object) -> None:
    """A handler that fails."""
    raise ValueError


TRANSIENT = [BrokerUnavailableError, BrokerBlockedError, QueueFullError, PublishUnconfirmedError]


@pytest.mark.parametrize("error", TRANSIENT)
@pytest.mark.parametrize(
    ("handler", "max_retries", "outcome"),
    [(lambda _: None, 0, "1 succeeded"), (fail, 0, "1 dead-lettered (failed)")],
    ids=["ack", "dead letter"],
)
def test_a_settlement_is_repeated_until_it_is_done(
    error: type[Exception], handler: Callable[[object], None], max_retries: int, outcome: str
) -> None:
    """While the broker cannot do it the worker asks again; the handler is not run again."""
    client = Stubborn()
    client.errors = [error("not now"), error("not now")]
    runs: list[object] = []
    seen: list[str] = []

    def counting(payload: object) -> None:
        runs.append(payload)
        handler(payload)

    client.send("q", 1)
    with TaskManager(client, counting, "q", "d", max_retries=max_retries, max_workers=1) as manager:
        wait_for(lambda: client.tries >= 2 and seen.append(str(manager.report())) is None, 5.0)
        wait_for(lambda: str(manager.report()) == outcome, 5.0)
    assert seen == ["nothing happened"]
    assert (len(runs), client.tries) == (1, 3)


def test_nothing_is_acknowledged_while_the_dead_letter_is_not_confirmed() -> None:
    """A broker that takes no dead letter keeps the message in flight: no ack in between, no loss."""
    client = Stubborn()
    client.errors = [QueueFullError("full") for _ in range(100)]
    acked: list[object] = []
    client.ack = acked.append  # type: ignore[method-assign, assignment]
    client.send("q", 1)
    with TaskManager(client, fail, "q", "d", max_retries=0, max_workers=1, grace_period=0.1):
        wait_for(lambda: client.tries >= 3, 5.0)
        stats = client.stats("q")
        assert (stats.in_flight, client.stats("d").ready, acked) == (1, 0, [])
    assert acked == []


def test_a_settlement_that_never_succeeds_does_not_keep_the_worker() -> None:
    """At the end of the grace period it is left to the broker, which delivers the message again."""
    client = Stubborn()
    client.errors = [BrokerUnavailableError("gone") for _ in range(1000)]
    client.send("q", 1)
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1, grace_period=0.2) as manager:
        wait_for(lambda: client.tries >= 1, 5.0)
    assert str(manager.report()) == "nothing happened"
    client.disconnect()
    client.connect()
    assert client.stats("q").ready == 1


@pytest.mark.parametrize(
    "error", [DeliveryLostError("gone"), NotConnectedError("gone")], ids=lambda e: type(e).__name__
)
def test_a_lost_delivery_is_left_to_the_broker(error: QBridgeError, caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to repeat: it is said once, not counted as done, and the worker goes on."""
    client = Stubborn()
    client.errors = [error]
    client.send_many("q", ["lost", "next"])
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        wait_for(lambda: client.tries == 2, 5.0)
        wait_for(lambda: manager.report().succeeded == 1, 5.0)
    assert "will be delivered again" in caplog.text


def test_g14_a_settlement_goes_on_when_somebody_has_put_right_what_it_complained_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A missing queue or permission is no reason to give a message up: it is tried again, loudly, until it works."""
    client = Stubborn()
    client.errors = [UnroutableError("no dead-letter queue"), ConfigurationError("no permission")]
    client.send_many("q", ["bad", "next"])
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        wait_for(lambda: manager.report().succeeded == 2, 5.0)
    assert (client.tries, client.stats("q").in_flight) == (4, 0)
    loud = [record for record in caplog.records if "cannot be settled: " in record.message]
    assert [record.levelname for record in loud] == ["ERROR", "ERROR"]


def test_g4_no_more_is_held_than_workers_there_are_while_nothing_can_be_settled() -> None:
    """A worker that cannot settle its task takes no other one."""
    client = Stubborn()
    client.errors = [UnroutableError("gone") for _ in range(1000)]
    client.send_many("q", range(10))
    with TaskManager(client, lambda _: None, "q", "d", max_workers=2, grace_period=0.2):
        wait_for(lambda: client.tries >= 6, 5.0)
        assert client.stats("q").in_flight == 2


def test_a_bug_of_a_backend_leaves_the_message_with_the_broker(caplog: pytest.LogCaptureFixture) -> None:
    """An error that is not ours is not repeated and ends no worker; the message comes again after a reconnect."""
    client = Stubborn()
    client.errors = [RuntimeError("a bug")]
    client.send_many("q", ["bad", "next"])
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        wait_for(lambda: manager.report().succeeded == 1, 5.0)
    assert (client.tries, client.stats("q").in_flight) == (2, 1)
    (record,) = [r for r in caplog.records if "it stays with the broker" in r.message]
    assert record.exc_info is not None
    client.disconnect()
    client.connect()
    assert client.stats("q").ready == 1


def test_a_slow_settlement_does_not_stop_the_watch_over_timeouts() -> None:
    """While one worker waits for the broker, the stuck run of another one still times out."""
    client = Stubborn()
    client.errors = [BrokerUnavailableError("gone") for _ in range(3)]
    release = threading.Event()

    def handler(payload: str) -> None:
        if payload == "stuck":
            release.wait(30)

    client.send_many("q", ["good", "stuck"])
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.2, max_workers=2)
    report = manager.run_until_idle(10.0)
    release.set()
    assert str(report) == "1 succeeded, 1 dead-lettered (timed out)"


# ---------------------------------------------------------------------- the log


def story(client: MemoryClient) -> None:
    """Run tasks that succeed, fail, time out and are malformed, each with a secret in its payload."""
    release = threading.Event()

    def handler(payload: dict[str, str]) -> None:
        if payload["do"] == "fail":
            raise ValueError("without details")
        if payload["do"] == "hang":
            release.wait(30)

    for do in ("succeed", "fail", "hang"):
        client.send("q", {"do": do, "secret": "s3cret"}, task_id=f"task-{do}", headers={"auth": "s3cret"})
    client.publish("q", b'{"s3cret": 1', message_id="message-malformed")
    client.publish("q", b'{"secret": "s3cret"}', message_id="message-empty")
    TaskManager(client, handler, "q", "d", max_retries=1, task_timeout=0.2, max_workers=2).run_until_idle(10.0)
    release.set()


def test_no_payload_is_logged_above_debug(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """Neither text, arguments nor fields of a record hold anything of a message."""
    with caplog.at_level(logging.DEBUG):
        story(client)
    loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert len(loud) >= 6
    assert not [record for record in loud if "s3cret" in str(vars(record)) or "s3cret" in record.getMessage()]
    assert "s3cret" not in caplog.text


def test_records_about_a_task_carry_its_fields(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """``qbridge_task_id``, ``qbridge_queue`` and ``qbridge_attempt`` are there for whoever filters."""
    with caplog.at_level(logging.DEBUG, "qbridge"):
        story(client)
    about = [record for record in caplog.records if record.getMessage().startswith("task ")]
    names = ("qbridge_task_id", "qbridge_queue", "qbridge_attempt")
    fields = {tuple(getattr(record, name, None) for name in names) for record in about}
    assert fields == {
        ("task-succeed", "q", 1),
        ("task-fail", "q", 1),
        ("task-fail", "q", 2),
        ("task-hang", "q", 1),
        ("task-hang", "q", 2),
        ("message-malformed", "q", 0),
        ("message-empty", "q", 0),
    }


def test_levels_tell_what_needs_attention(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """A success is a detail, a retry a warning, a dead letter an error."""
    with caplog.at_level(logging.DEBUG, "qbridge"):
        story(client)
    levels: dict[str, set[int]] = {"succeeded": set(), "next attempt in": set(), "dead-lettered": set()}
    for record in caplog.records:
        for text, seen in levels.items():
            if text in record.getMessage():
                seen.add(record.levelno)
    assert levels == {
        "succeeded": {logging.DEBUG},
        "next attempt in": {logging.WARNING},
        "dead-lettered": {logging.ERROR},
    }


def test_all_loggers_have_one_parent(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """``logging.getLogger("qbridge")`` configures everything."""
    with caplog.at_level(logging.DEBUG):
        story(client)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"qbridge"}
