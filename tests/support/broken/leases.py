"""Broken clients of the lease backend: what only a broker in a process of its own shows."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from qbridge_core.backend import (
    BrokerUnavailableError,
    Capabilities,
    Delivery,
    Message,
    MessageTooLargeError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueStats,
    TransientError,
    default_dead_letter_queue,
)
from support.leases import client as module
from support.leases.broker import LeaseBroker
from support.leases.client import LeaseClient, Link
from support.leases.wire import InterruptedCallError, Pool, Wire

CLAIMS = LeaseClient.capabilities


class PropertyClient(LeaseClient):
    """Sound: what it can do is known once it has a URL."""

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(CLAIMS, browse=bool(self._url.host))


class WaitsForAcks(LeaseClient):
    """Says that it never does."""

    def ack(self, delivery: Delivery) -> None:
        super().ack(delivery)
        with suppress(QBridgeError):
            self.stats(delivery.queue)


class HidesInstantAcks(LeaseClient):
    """Does not say that its acknowledgements never wait."""

    capabilities = replace(CLAIMS, instant_ack=False)


class WithLink(LeaseClient):
    """Makes links of a class of its own."""

    kind: type[Link] = Link

    def connect(self) -> None:
        names = vars(module)
        names["Link"] = self.kind
        try:
            super().connect()
        finally:
            names["Link"] = Link


# ---------------------------------------------------------------------- leases


class LazyLink(Link):
    """Renews nothing."""

    def _keep(self) -> None:
        while not self._stopped:
            self._wake.wait(0.05)
            self._wake.clear()
            with suppress(Exception):
                self._send()


class NeverRenews(WithLink):
    """Holds a message no longer than a lease."""

    kind = LazyLink


class SilentLink(Link):
    """Goes without a word."""

    def leave(self) -> None:
        self._stopped = True
        self._wake.set()
        with suppress(Exception):
            self._send(1.0)
        self.pool.close()
        self.keeper.join(1.0)


class LeavesItsLeases(WithLink):
    """Lets leases run out when it disconnects."""

    kind = SilentLink


# ---------------------------------------------------------------------- claims


class ClaimsCrashes(LeaseClient):
    """Claims to see crashes and counts none."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return [replace(each, crashes=0) for each in super().receive(queue, max_messages, timeout)]


class CountsOneCrash(LeaseClient):
    """Counts the first crash only."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return [replace(each, crashes=min(1, each.crashes)) for each in super().receive(queue, max_messages, timeout)]


class CountsCrashesUnclaimed(LeaseClient):
    """Counts crashes and does not say so."""

    capabilities = replace(CLAIMS, crashes=False)


class CountsCrashesAsAttempts(LeaseClient):
    """Takes a death for a failed run."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        found = super().receive(queue, max_messages, timeout)
        return [replace(each, attempts=each.attempts + each.crashes) for each in found]


class HidesSharing(LeaseClient):
    """Does not claim that other processes see its queues, though they do."""

    capabilities = replace(CLAIMS, shared=False)


class LossyBroker(LeaseBroker):
    """A broker without a disk."""

    def start(self) -> None:
        """Begin anew."""
        shutil.rmtree(self._data, ignore_errors=True)
        super().start()


class ClaimsDurable(LeaseClient):
    """Claims that its broker keeps what it has confirmed."""

    broker = LossyBroker


# ---------------------------------------------------------------------- outages


class LeakyPool(Pool):
    """Lets the errors of sockets through."""

    def call(self, op: str, **arguments: Any) -> Any:
        try:
            return super().call(op, **arguments)
        except (BrokerUnavailableError, InterruptedCallError) as exc:
            raise exc.__cause__ or exc from None


class WithPool(LeaseClient):
    """Has connections of a class of its own."""

    pool: type[Pool] = Pool

    def connect(self) -> None:
        names = vars(module)
        names["Pool"] = self.pool
        try:
            super().connect()
        finally:
            names["Pool"] = Pool


class LeaksSocketErrors(WithPool):
    """Raises what the driver raises."""

    pool = LeakyPool


class ShowsItsPassword(LeaseClient):
    """Names the whole URL in an error."""

    def stats(self, queue: str) -> QueueStats:
        try:
            return super().stats(queue)
        except BrokerUnavailableError as exc:
            raise BrokerUnavailableError(f"cannot reach the broker with {self._url.password}") from exc


class ShowsItsPasswordInItsRepr(LeaseClient):
    """Prints the whole URL."""

    def __repr__(self) -> str:
        return f"LeaseClient({self._url.host}, {self._url.password})"


class HidesTheCause(LeaseClient):
    """Says that it cannot connect, and not why."""

    def connect(self) -> None:
        try:
            super().connect()
        except BrokerUnavailableError:
            raise BrokerUnavailableError("no connection") from None


class ConnectsForEver(LeaseClient):
    """Has no timeout when it connects."""

    def connect(self) -> None:
        while not self.connected:
            with suppress(TransientError):
                super().connect()


class StatsForEver(LeaseClient):
    """Waits until the broker is back."""

    def stats(self, queue: str) -> QueueStats:
        while True:
            try:
                return super().stats(queue)
            except BrokerUnavailableError:
                time.sleep(0.1)


class ReceivesForEver(LeaseClient):
    """Forgets the timeout while the broker is away."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        while True:
            try:
                return super().receive(queue, max_messages, timeout)
            except BrokerUnavailableError:
                time.sleep(0.1)


class SeesNoOutage(LeaseClient):
    """Takes a broker that is away for an empty queue."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        try:
            return super().receive(queue, max_messages, timeout)
        except BrokerUnavailableError:
            return []


class DisconnectsForEver(LeaseClient):
    """Flushes for as long as it takes."""

    def disconnect(self) -> None:
        while self.connected:
            with suppress(QBridgeError):
                self.stats("x")
                super().disconnect()


class RaisesOnDisconnect(LeaseClient):
    """Tells everybody that the broker is gone."""

    def disconnect(self) -> None:
        link = self._link
        try:
            if link is not None:
                self._call(link, "stats", queue="")
        finally:
            super().disconnect()


class PublishesUnconfirmed(LeaseClient):
    """Sends, and does not wait for the answer."""

    def _publish(self, queue: str, messages: Iterable[Message], delay: float, timeout: float | None) -> None:
        with suppress(PublishUnconfirmedError, BrokerUnavailableError):
            super()._publish(queue, messages, delay, timeout)


class ConfirmsTheFirst(LeaseClient):
    """Waits for the confirmation of the first messages of ``publish_many`` only."""

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        given = list(messages)
        self._live()
        if given:
            super().publish_many(queue, given[:1], timeout=timeout)
        with suppress(TransientError):
            super().publish_many(queue, given[1:], timeout=timeout)


class ForgetsSettlements(LeaseClient):
    """Takes a rejection for done that it could not send."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        try:
            super().reject(delivery, requeue, **options)
        except BrokerUnavailableError:
            delivery.tag = None


class OneConnection(Pool):
    """Never makes a connection in the place of one that was lost."""

    _broken = False

    def _borrow(self, patience: float) -> Wire:
        self._broken = self._broken or any(wire.is_stale for wire in self._idle)
        if self._broken:
            raise BrokerUnavailableError("the connection is lost")
        return super()._borrow(patience)

    def _drop(self, wire: Wire) -> None:
        self._broken = not self.closed
        super()._drop(wire)


class ConnectsOnce(WithPool):
    """Does not find its connection again."""

    pool = OneConnection


class GivesUpItsConnection(LeaseClient):
    """Counts as disconnected when the connection is lost."""

    @property
    def connected(self) -> bool:
        if self._link is None:
            return False
        try:
            Wire(self._url, 0.2).close()
        except (OSError, ValueError):
            return False
        return True


class DeclaresOnce(LeaseClient):
    """Leaves queues lost that the broker has lost."""

    def _declare_again(self, link: Link, queue: str, call: Any) -> Any:
        return call()


# ---------------------------------------------------------------------- copies


class RemovesFirst(LeaseClient):
    """Removes a message and then writes its next state."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        link = self._live()
        if delivery.tag is None or (requeue and options.get("failure") is None):
            super().reject(delivery, requeue, **options)
            return
        link.check(delivery)
        target = options.get("queue") or delivery.queue
        if not requeue:
            target = self._pairs.get(target, default_dead_letter_queue(target))
        self._call(link, "declare", names=[target])
        self._call(link, "remove", tokens=[delivery.tag])
        link.forget(delivery)
        delivery.tag = None
        self._publish(
            target, [Message(delivery.body, delivery.headers, delivery.message_id)], options.get("delay", 0.0), None
        )


class FillsTheLimit(LeaseClient):
    """Takes messages as large as the broker does, so that nothing can be added to one."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if len(delivery.body) > module.MESSAGE_LIMIT - 80_000 and options.get("failure"):
            raise MessageTooLargeError("the explanation does not fit")
        super().reject(delivery, requeue, **options)


class DropsTheExplanation(LeaseClient):
    """Writes a short explanation when there is little room."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        failure = options.get("failure")
        if failure is not None and len(delivery.body) > module.MESSAGE_LIMIT - 80_000:
            options["failure"] = replace(failure, exception_message="")
        super().reject(delivery, requeue, **options)


class RefusesLargeWithAnyError(LeaseClient):
    """Loses the connection over a large message."""

    def _publish(self, queue: str, messages: Iterable[Message], delay: float, timeout: float | None) -> None:
        try:
            super()._publish(queue, messages, delay, timeout)
        except MessageTooLargeError as exc:
            raise PublishUnconfirmedError("no confirmation") from exc
