"""Settlements: repeated until the broker agrees, never skipped; and what the log says about them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import (
    AuthenticationError,
    BrokerBlockedError,
    BrokerUnavailableError,
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    MessageTooLargeError,
    NotConnectedError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueFullError,
    QueueMismatchError,
    Reason,
    Snooze,
    TaskManager,
    UnroutableError,
)
from qbridge_core.message import Noted
from qbridge_core.runtime.logs import flush
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


def test_g19_an_error_that_nobody_expects_is_followed_by_another_try(caplog: pytest.LogCaptureFixture) -> None:
    """A backend's bug, or what it lets out of its driver, leaves no message unsettled that it goes on to hold."""
    client = Stubborn()
    client.errors = [OSError(24, "Too many open files"), RuntimeError("a bug")]
    client.send_many("q", ["bad", "next"])
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        wait_for(lambda: manager.report().succeeded == 2, 5.0)
    assert (client.tries, client.stats("q").in_flight) == (4, 0)
    loud = [record for record in caplog.records if "cannot be settled: " in record.getMessage()]
    assert [record.levelname for record in loud] == ["ERROR", "ERROR"]
    assert all(record.exc_info is not None for record in loud)


REFUSALS = [QueueFullError("full"), AuthenticationError("no right"), UnroutableError("gone"), RuntimeError("a bug")]


class Refusing(MemoryClient):
    """Takes no copies, as a broker whose queue is full; what is handed back it keeps, and recognizes."""

    def __init__(self, error: Exception, *, only_letters: bool = False) -> None:
        super().__init__()
        self.refuses = True
        self.noted: dict[str | None, Noted] = {}
        self.refused = self.handed_back = 0
        self._error = error
        self._only_letters = only_letters
        self.connect()
        self.declare("q", "d")

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Show what was noted of a message that comes again."""
        deliveries = super().receive(queue, max_messages, timeout)
        for delivery in deliveries:
            if noted := self.noted.pop(delivery.message_id, None):
                delivery.note(noted)
        return deliveries

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        """Refuse a copy, or hand back."""
        failure = options.get("failure")
        if self.refuses and (not requeue if self._only_letters else failure is not None):
            self.refused += 1
            raise self._error
        if failure is None and requeue:
            self.handed_back += 1
            if delivery.noted is not None:
                self.noted[delivery.message_id] = delivery.noted
        super().reject(delivery, requeue, **options)


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_g19_a_refused_retry_goes_back_and_keeps_its_count(error: Exception) -> None:
    """Where the broker takes no copies a failed task comes again from its own queue, and the failures add up."""
    client = Refusing(error)
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        if payload == "bad":
            raise ValueError

    client.send_many("q", ["bad", "good"])
    with TaskManager(client, handler, "q", "d", max_retries=1, max_workers=2) as manager:
        wait_for(lambda: manager.report().retried == 1, 10.0, "the slot is free again")
        wait_for(lambda: manager.report().succeeded == 1, 10.0, "the others are run")
        client.refuses = False
        wait_for(lambda: client.stats("d").ready == 1, 10.0, "the second failure was the last")
    assert (runs.count("bad"), client.handed_back) == (2, 1)
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.attempts) == (Reason.FAILED, 2)


def test_g5_an_exhausted_task_whose_letter_is_refused_is_not_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """It goes back to its queue, and becomes a dead letter with the first explanation as soon as the broker lets it."""
    client = Refusing(AuthenticationError("no right to write"), only_letters=True)
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        raise ValueError("the reason")

    client.send_many("q", ["bad"])
    with TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1) as manager:
        wait_for(lambda: client.handed_back >= 2, 20.0, "it came again and was refused again")
        assert (runs, client.stats("d").ready) == (["bad"], 0)
        client.refuses = False
        wait_for(lambda: manager.report().dead_lettered == 1, 10.0)
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.attempts, letter.exception_message) == (Reason.FAILED, 1, "the reason")
    assert runs == ["bad"]
    loud = [r.getMessage() for r in caplog.records if r.levelname == "ERROR" and "no right to write" in r.getMessage()]
    assert len(loud) == 1, "the reason is said once, not for each try and message"


def test_g19_a_task_that_no_copy_can_carry_is_dead_lettered() -> None:
    """When a retry would be too large for the broker it is the last one: waiting does not make it smaller."""
    client = Refusing(MessageTooLargeError("131,000 bytes of headers"))

    def handler(payload: object) -> None:
        client.refuses = not client.refused
        raise ValueError("m" * 2_000)

    original = client.reject

    def reject(delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        client.refuses = requeue
        original(delivery, requeue, **options)

    client.reject = reject  # type: ignore[method-assign]
    client.send("q", 1)
    report = TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(10.0)
    assert (report.dead_lettered, client.refused) == (1, 1)
    (letter,) = client.dead_letters("d")
    assert letter.exception_message.endswith("m; it cannot be retried: 131,000 bytes of headers")
    assert (letter.attempts, len(letter.exception_message)) == (1, 1_000)


def test_g19_a_snooze_that_no_copy_can_carry_is_dead_lettered(client: MemoryClient) -> None:
    """Coming again at once it would ask for a later time again, without end."""
    client.declare("q", "d")
    original = client.reject

    def reject(delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, **options: Any) -> None:
        if delay:
            raise MessageTooLargeError("131,000 bytes of headers")
        original(delivery, requeue, **options)

    client.reject = reject  # type: ignore[method-assign, assignment]

    def handler(payload: object) -> None:
        raise Snooze(0.1)

    client.send("q", 1)
    assert TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(10.0).dead_lettered == 1
    assert client.dead_letters("d")[0].exception_message.endswith("it cannot be retried: 131,000 bytes of headers")


def test_g19_a_snooze_that_is_refused_goes_back(client: MemoryClient) -> None:
    """A task that asks for a later time and cannot have it comes again without one, and counts nothing."""
    client.declare("q", "d")
    original, refused = client.reject, [0]

    def reject(delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, **options: Any) -> None:
        if delay:
            refused[0] += 1
            raise QueueMismatchError("no queue for delays")
        original(delivery, requeue, **options)

    client.reject = reject  # type: ignore[method-assign, assignment]
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        if len(runs) == 1:
            raise Snooze(0.1)

    client.send("q", 1)
    assert str(TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(10.0)) == "1 succeeded"
    assert (len(runs), refused[0]) == (2, 5)


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


@pytest.mark.parametrize(("message_id", "name"), [("m-1", "m-1"), (None, "without id (7 bytes, sha256 ")])
def test_the_log_names_a_malformed_message(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, message_id: str | None, name: str
) -> None:
    """By its message id, or by what tells it from others; nothing of its body is shown (G17)."""
    client.publish("q", b"s3cret!", message_id=message_id)
    TaskManager(client, print, "q", "d", max_workers=1).run_until_idle(10.0)
    flush()
    line = next(record for record in caplog.records if "dead-lettered" in record.getMessage())
    assert f"task {name}" in line.getMessage()
    assert "s3cret" not in caplog.text
    assert client.dead_letters("d")[0].task_id == (message_id or "")
