"""The conformance suite is tested too: it must fail for each of these broken clients, and only where they are broken.

The file is imported twice: by pytest for the tests at its end, and by the module that each of them generates and
runs in a pytest process of its own.
"""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qbridge_core import (
    Capabilities,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    Failure,
    NotConnectedError,
    QueueClient,
    QueueStats,
    UnroutableError,
    UnsupportedError,
    check_count,
    check_declaration,
    check_headers,
    check_message_id,
    check_publish_timeout,
    check_queue_name,
    check_wait,
    default_dead_letter_queue,
    merge_options,
    rejection,
)
from qbridge_core.message import ATTEMPTS, FIRST_FAILED_AT, meta_int, meta_time
from qbridge_core.url import BrokerURL
from qbridge_memory import MemoryClient

# ---------------------------------------------------------------------- broken clients


class LosesOnReject(MemoryClient):
    """Drops the message instead of dead-lettering it."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, failure: Failure | None = None
    ) -> None:
        if requeue:
            super().reject(delivery, requeue, delay=delay, failure=failure)
        else:
            super().ack(delivery)


class RedeliversAfterAck(MemoryClient):
    """Does nothing on ack."""

    def ack(self, delivery: Delivery) -> None:
        if not self.connected:
            raise NotConnectedError("not connected")


class CountsHandBacks(MemoryClient):
    """Charges an attempt for a hand-back."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, failure: Failure | None = None
    ) -> None:
        if requeue and failure is None:
            failure = replace(rejection(delivery), attempts=delivery.attempts + 1)
        super().reject(delivery, requeue, delay=delay, failure=failure)


class ForgetsAttempts(MemoryClient):
    """Retries without the count."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, failure: Failure | None = None
    ) -> None:
        if requeue:
            failure = failure and replace(failure, attempts=0)
        super().reject(delivery, requeue, delay=delay, failure=failure)


class RewritesBodyOnRetry(MemoryClient):
    """Publishes a changed body for the next attempt, as a counter inside the envelope would."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, failure: Failure | None = None
    ) -> None:
        super().reject(delivery, requeue, delay=delay, failure=failure)
        if requeue and failure is not None:
            broker: Any = self._broker
            ready: deque[Any] = broker._queues[delivery.queue].ready
            for position, message in enumerate(ready):
                if meta_int(message.meta, ATTEMPTS):
                    ready[position] = replace(message, body=message.body.replace(b'": ', b'":') + b" ")


class LeaksForeignError(MemoryClient):
    """Lets the driver's exception through."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        try:
            super().publish(queue, body, **options)
        except UnroutableError:
            raise KeyError(queue) from None


class LeaksOSError(MemoryClient):
    """Lets an exception of the socket through."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        try:
            super().publish(queue, body, **options)
        except UnroutableError:
            raise ConnectionResetError(queue) from None


class DropsUnroutable(MemoryClient):
    """Publishes to nowhere in silence."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        with suppress(UnroutableError):
            super().publish(queue, body, **options)


class SwallowsUnknownOptions(MemoryClient):
    """Ignores options that it does not have."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url)


class LeavesReceiveBlocked(MemoryClient):
    """Forgets the receive that waits while it disconnects."""

    def disconnect(self) -> None:
        self._connected = False
        self._broker.give_back_all(self)


class IgnoresDelay(MemoryClient):
    """Claims delays and delivers at once."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, **options)


class IgnoresRetryDelay(MemoryClient):
    """Claims delays and retries at once."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, failure: Failure | None = None
    ) -> None:
        super().reject(delivery, requeue, failure=failure)


class AcceptsUnclaimedDelay(MemoryClient):
    """Does not claim delays and accepts them."""

    capabilities = Capabilities(browse=True)


class ListsNothing(MemoryClient):
    """Does not claim to browse, and returns an empty list instead of saying so."""

    capabilities = Capabilities(delay=True)

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        return []


class ConsumesOnBrowse(MemoryClient):
    """Lists dead letters by taking them out."""

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        letters = super().dead_letters(queue, limit)
        for delivery in self.receive(queue, limit) if letters else []:
            self.ack(delivery)
        return letters


class ReordersOnBrowse(MemoryClient):
    """Lists dead letters by taking them out and putting them back at the end."""

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        letters = super().dead_letters(queue, limit)
        broker: Any = self._broker
        if letters:
            broker._queues[queue].ready.rotate(-len(letters) + 1)
        return letters


class ReplayLosesLetters(MemoryClient):
    """Takes a letter out before it knows where to put it."""

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        self.ack(delivery)
        super()._replay_one(delivery, target)


class ReturnsTooMany(MemoryClient):
    """Returns whatever its prefetch brought."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages + 1, timeout)


class AcksFromItsThreadOnly(MemoryClient):
    """Wants acks from the thread that received."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        self._owner = threading.get_ident()
        return super().receive(queue, max_messages, timeout)

    def ack(self, delivery: Delivery) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeError("this channel belongs to another thread")
        super().ack(delivery)


class DropsHeaders(MemoryClient):
    """Publishes without the producer's headers."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        check_headers(headers)
        super().publish(queue, body, **options)


class LeavesThread(MemoryClient):
    """Starts a heartbeat and never ends it."""

    def connect(self) -> None:
        super().connect()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class SettlesTwice(MemoryClient):
    """Dead-letters a delivery that was acknowledged before."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, failure: Failure | None = None
    ) -> None:
        if self.connected and delivery.tag is None and not requeue:
            target = self._dead_letter_queues[delivery.queue]
            self.publish(target, delivery.body)
        super().reject(delivery, requeue, delay=delay, failure=failure)


class WorksAfterDisconnect(MemoryClient):
    """Acts on a broker that it left."""

    def _require_connection(self, queue: str) -> None:
        """Accept everything."""


# ---------------------------------------------------------------------- a third-party backend


class ListClient(QueueClient):
    """The least that a backend can be: the eight methods on lists and one lock, without a capability."""

    _brokers: ClassVar[dict[str, dict[str, list[Delivery]]]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()
    _tags: ClassVar[itertools.count[int]] = itertools.count(1)

    def __init__(self, url: str, **options: object) -> None:
        merge_options(BrokerURL.parse(url), options, known=("patience",))
        self._queues = self._brokers.setdefault(url, {})
        self._mine: dict[int, Delivery] = {}
        self._dead: dict[str, str] = {}
        self._connected = False
        self._wakeups = 0

    @property
    def connected(self) -> bool:
        return self._connected

    def connect(self) -> None:
        self._connected = True

    def disconnect(self) -> None:
        with self._lock:
            for delivery in reversed(self._mine.values()):
                self._queues[delivery.queue].insert(0, replace(delivery, tag=None, redelivered=True))
            self._mine.clear()
            self._connected = False

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        with self._lock:
            self._check(queue)
            check_declaration(queue, dead_letter_queue)
            self._queues.setdefault(queue, [])
            if dead_letter_queue is not None:
                self._dead[queue] = dead_letter_queue
                self._queues.setdefault(dead_letter_queue, [])

    def stats(self, queue: str) -> QueueStats:
        with self._lock:
            self._check(queue)
            mine = sum(delivery.queue == queue for delivery in self._mine.values())
            return QueueStats(len(self._queues.get(queue, [])), mine, 0)

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        with self._lock:
            self._check(queue, delay)
            check_publish_timeout(timeout)
            message_id = check_message_id(message_id)
            self._existing(queue).append(Delivery(body, queue, dict(check_headers(headers)), message_id))

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        check_count("max_messages", max_messages, 1)
        deadline = time.monotonic() + check_wait(timeout)
        wakeups = self._wakeups
        while True:
            with self._lock:
                self._check(queue)
                ready = self._existing(queue)
                taken, ready[:] = ready[:max_messages], ready[max_messages:]
                for delivery in taken:
                    delivery.tag = next(self._tags)
                    self._mine[delivery.tag] = delivery
            if taken or time.monotonic() >= deadline or self._wakeups != wakeups:
                return taken
            time.sleep(0.005)  # a queue without conditions has to poll

    def unsubscribe(self, queue: str) -> None:
        self._wakeups += 1

    def ack(self, delivery: Delivery) -> None:
        with self._lock:
            self._settle(delivery)

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        with self._lock:
            self._check(delivery.queue, delay)
            if not self._settle(delivery):
                return
            target, meta = queue or delivery.queue, delivery.meta
            if not requeue:
                failure = failure or rejection(delivery)
                meta = failure.dead_letter_headers()
                target = self._dead.get(delivery.queue, default_dead_letter_queue(delivery.queue))
            elif failure is not None:
                meta = failure.retry_headers()
            fresh = meta is not delivery.meta
            again = Delivery(
                delivery.body, target, delivery.headers, delivery.message_id, redelivered=not fresh, meta=meta
            )
            again.attempts, again.first_failed_at = meta_int(meta, ATTEMPTS), meta_time(meta, FIRST_FAILED_AT)
            ready = self._queues.setdefault(target, [])
            ready.insert(len(ready) if fresh else 0, again)

    def _settle(self, delivery: Delivery) -> bool:
        self._check(delivery.queue)
        if delivery.tag is None:
            return False
        if self._mine.pop(delivery.tag, None) is None:
            raise DeliveryLostError(f"a delivery of {delivery.queue!r} went back")
        delivery.tag = None
        return True

    def _existing(self, queue: str) -> list[Delivery]:
        if queue not in self._queues:
            raise UnroutableError(f"queue {queue!r} does not exist")
        return self._queues[queue]

    def _check(self, queue: str, delay: float = 0.0) -> None:
        check_queue_name(queue)
        if not self._connected:
            raise NotConnectedError("not connected")
        if delay > 0:
            raise UnsupportedError("no delays here")


# ---------------------------------------------------------------------- the tests

QUICK = {
    "test_g13_a_dead_letter_explains_itself",
    "test_a_letter_without_a_way_back_stays",
    "test_g12_a_rejected_message_is_in_the_dead_letter_queue",
    "test_an_ack_may_come_from_any_thread",
    "test_g18_an_unknown_option_is_an_error_that_names_the_known_ones",
    "test_g5_attempts_travel_with_the_message",
    "test_g18_calls_on_a_disconnected_client_say_so",
    "test_g8_handing_back_is_free",
    "test_headers_and_message_id_arrive",
    "test_g13_listing_neither_consumes_nor_reorders",
    "test_g1_publishing_to_a_missing_queue_is_an_error",
    "test_receive_returns_at_most_what_was_asked_for",
    "test_g5_the_body_arrives_byte_for_byte",
    "test_the_first_settlement_counts",
}
"""Run on every client: what is not broken must pass."""


class SendsWhatIsTooLarge(MemoryClient):
    """Knows its limit and does not ask for it."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **{**options, "max_message_bytes": 2**40})

    def __getattribute__(self, name: str) -> Any:
        shown = name == "max_message_bytes" and sys._getframe(1).f_globals["__name__"] != "qbridge_memory.client"
        return MemoryClient.max_message_bytes if shown else super().__getattribute__(name)


class ForgetsTheOrder(MemoryClient):
    """Fails somewhere when arguments are in the wrong order."""

    def send(self, queue: str, payload: object, **options: Any) -> str:
        return super().send(queue.strip(), payload, **options)


BROKEN: dict[type[MemoryClient], set[str]] = {
    SendsWhatIsTooLarge: {"test_g19_what_every_worker_would_call_malformed_is_refused"},
    ForgetsTheOrder: {"test_g18_arguments_in_the_wrong_order_are_named"},
    LosesOnReject: {
        "test_g12_a_rejected_message_is_in_the_dead_letter_queue",
        "test_g13_a_dead_letter_explains_itself",
        "test_g13_listing_neither_consumes_nor_reorders",
        "test_the_first_settlement_counts",
    },
    RedeliversAfterAck: {
        "test_g4_an_acknowledged_message_is_gone",
        "test_an_ack_may_come_from_any_thread",
        "test_the_first_settlement_counts",
    },
    CountsHandBacks: {"test_g8_handing_back_is_free", "test_g5_handing_back_a_retried_message_keeps_its_count"},
    ForgetsAttempts: {
        "test_g5_attempts_travel_with_the_message",
        "test_g5_handing_back_a_retried_message_keeps_its_count",
    },
    RewritesBodyOnRetry: {"test_g5_attempts_travel_with_the_message"},
    LeaksForeignError: {"test_g1_publishing_to_a_missing_queue_is_an_error"},
    LeaksOSError: {"test_g1_publishing_to_a_missing_queue_is_an_error"},
    DropsUnroutable: {"test_g1_publishing_to_a_missing_queue_is_an_error"},
    SwallowsUnknownOptions: {"test_g18_an_unknown_option_is_an_error_that_names_the_known_ones"},
    LeavesReceiveBlocked: {"test_disconnect_ends_a_blocked_receive"},
    IgnoresDelay: {
        "test_g4_a_delayed_message_is_held_by_the_broker",
        "test_g7_a_long_delay_does_not_hold_up_a_short_one",
    },
    IgnoresRetryDelay: {"test_g7_a_retry_can_be_delayed"},
    AcceptsUnclaimedDelay: {"test_g4_a_delayed_message_is_held_by_the_broker", "test_g7_a_retry_can_be_delayed"},
    ListsNothing: {"test_g13_a_dead_letter_explains_itself"},
    ConsumesOnBrowse: {"test_g13_listing_neither_consumes_nor_reorders"},
    ReordersOnBrowse: {"test_g13_listing_neither_consumes_nor_reorders"},
    ReplayLosesLetters: {"test_a_letter_without_a_way_back_stays"},
    ReturnsTooMany: {"test_receive_returns_at_most_what_was_asked_for"},
    AcksFromItsThreadOnly: {"test_an_ack_may_come_from_any_thread"},
    DropsHeaders: {
        "test_headers_and_message_id_arrive",
        "test_g13_a_dead_letter_explains_itself",
        "test_g12_a_rejected_message_is_in_the_dead_letter_queue",
        "test_g5_attempts_travel_with_the_message",
        "test_g8_handing_back_is_free",
    },
    LeavesThread: {"test_disconnect_leaves_no_thread"},
    SettlesTwice: {"test_the_first_settlement_counts"},
    WorksAfterDisconnect: {"test_g18_calls_on_a_disconnected_client_say_so"},
}

_MODULE = """
import importlib.util
import sys
from qbridge_core import register_backend
from qbridge_core.testing import BackendConformance
import qbridge_core.testing as suite

spec = importlib.util.spec_from_file_location("clients", {path!r})
clients = sys.modules["clients"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clients)
register_backend("under-test", lambda url, options: clients.{client}("memory" + url[len("under-test"):], **options))

# A broken client fails by waiting in vain: give up sooner than the suite does by default.
if {wait}:
    for part in ("base", "connection", "publishing", "receiving", "settling", "dead_letters", "workers"):
        module = getattr(suite, part)
        if hasattr(module, "WAIT"):
            module.WAIT = {wait}
    for function in (suite.base.receive_one, suite.base.receive_all):
        function.__defaults__ = ({wait},)
    suite.base.eventually.__defaults__ = ({wait}, "")

class TestClient(BackendConformance):
    url = "under-test://conformance"
"""


def run_suite(
    directory: Path, client: type[QueueClient], tests: Collection[str] = (), wait: float | None = None
) -> tuple[set[str], set[str], str]:
    """Run the suite (or some of its tests) on a client; return the names that passed and failed, and the output."""
    module = directory / "test_client.py"
    module.write_text(_MODULE.format(path=__file__, client=client.__name__, wait=wait))
    names = [f"{module.name}::TestClient::{name}" for name in sorted(tests)] or [module.name]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            os.devnull,
            "--rootdir=.",
            "-rA",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            *names,
        ],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    outcomes: dict[str, set[str]] = {"PASSED": set(), "FAILED": set(), "ERROR": set()}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) [^:]+::TestClient::(\w+)", result.stdout, re.MULTILINE):
        outcomes[outcome].add(name)
    return outcomes["PASSED"], outcomes["FAILED"] | outcomes["ERROR"], result.stdout + result.stderr


@pytest.mark.parametrize("client", BROKEN, ids=lambda client: client.__name__)
def test_the_suite_fails_where_a_client_is_broken(tmp_path: Path, client: type[MemoryClient]) -> None:
    """Exactly the tests of the broken behaviour fail."""
    tests = QUICK | BROKEN[client]
    passed, failed, output = run_suite(tmp_path, client, tests, wait=1.0)
    assert failed == BROKEN[client], output
    assert "test_g5_the_body_arrives_byte_for_byte" in passed, output


def test_a_sound_client_passes_what_the_broken_ones_fail(tmp_path: Path) -> None:
    """The same tests, run in the same way, find nothing wrong with the client that the broken ones are made of."""
    tests = QUICK.union(*BROKEN.values())
    passed, failed, output = run_suite(tmp_path, MemoryClient, tests)
    assert failed == set(), output
    assert passed == tests, output


def test_a_third_party_backend_passes_with_the_abstract_methods_alone(tmp_path: Path) -> None:
    """Lists and a lock behind the eight methods, registered for a scheme of their own, pass the whole suite."""
    passed, failed, output = run_suite(tmp_path, ListClient)
    assert failed == set(), output
    assert len(passed) > 40, output
