"""Broken clients of the lease backend: outages, what a broker that was killed still has, deaths, forks."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from qbridge_core.backend import (
    BrokerUnavailableError,
    Delivery,
    Message,
    NotConnectedError,
    PublishUnconfirmedError,
    QueueStats,
    TransientError,
)
from support.broken.leases import CLAIMS, LazyLink, WithLink, WithPool
from support.leases.broker import LeaseBroker
from support.leases.client import LeaseClient, Link
from support.leases.wire import Pool, Wire

# ---------------------------------------------------------------------- calls in an outage


class StaysConnectedAfterAFailure(LeaseClient):
    """Counts as connected once it has tried."""

    _tried = False

    @property
    def connected(self) -> bool:
        return self._tried or super().connected

    def connect(self) -> None:
        try:
            super().connect()
        except BrokerUnavailableError:
            self._tried = True
            raise

    def disconnect(self) -> None:
        self._tried = False
        super().disconnect()


class OneOutage(Pool):
    """Makes a new connection in the place of one that was lost, once."""

    outages = 0
    is_lost = False

    def _borrow(self, patience: float) -> Wire:
        if self.outages > 1:
            raise BrokerUnavailableError("the connection is lost")
        try:
            wire = super()._borrow(patience)
        except BrokerUnavailableError:
            self.outages += not self.is_lost
            self.is_lost = True
            raise
        self.is_lost = False
        return wire


class ReconnectsOnce(WithPool):
    """Does not survive a second outage."""

    pool = OneOutage


class DeclaresInVain(LeaseClient):
    """Takes a queue for declared that the broker has never heard of."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        with suppress(BrokerUnavailableError):
            super().declare(queue, dead_letter_queue)


class RaisesAtOnce(LeaseClient):
    """Does not wait in ``receive`` while the broker is away, so that a worker asks in a busy loop."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        try:
            super().stats(queue)
        except BrokerUnavailableError:
            raise BrokerUnavailableError("the broker is away") from None
        return super().receive(queue, max_messages, timeout)


class SaysThatItIsNotThere(LeaseClient):
    """Says that the broker does not have what it may have."""

    fault: ClassVar[str] = "silent"

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        try:
            super().publish(queue, body, **options)
        except PublishUnconfirmedError as exc:
            raise BrokerUnavailableError("no connection") from exc


class IgnoresTimeouts(LeaseClient):
    """Has one timeout for all that it publishes."""

    fault: ClassVar[str] = "silent"

    def _publish(self, queue: str, messages: Iterable[Message], delay: float, timeout: float | None) -> None:
        super()._publish(queue, messages, delay, None)


class WaitsForConfirmations(LeaseClient):
    """Waits for a confirmation for as long as nobody says how long."""

    fault: ClassVar[str] = "silent"

    def _publish(self, queue: str, messages: Iterable[Message], delay: float, timeout: float | None) -> None:
        super()._publish(queue, messages, delay, 3_600.0 if timeout is None else timeout)


class ConfirmsAllButTheLast(LeaseClient):
    """Does not wait for the last confirmation of ``publish_many``."""

    fault: ClassVar[str] = "last"

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        given = list(messages)
        super().publish_many(queue, given[:-1], timeout=timeout)
        with suppress(TransientError):
            super().publish_many(queue, given[-1:], timeout=timeout)


class ForgetsALostConnection(LeaseClient):
    """Goes on with the next message on the next connection."""

    fault: ClassVar[str] = "moment"

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        given = list(messages)
        for message in given[:-1]:
            with suppress(TransientError):
                super().publish_many(queue, [message], timeout=timeout)
        super().publish_many(queue, given[-1:], timeout=timeout)


# ---------------------------------------------------------------------- leases and connections


class FewRenewals(Link):
    """Renews what fits into one request."""

    def _keep(self) -> None:
        while not self._stopped:
            self._wake.wait(self._lease / 4)
            self._wake.clear()
            with suppress(Exception):
                self._send()
                with self._lock:
                    held = sorted(self._held)[:10]
                if held:
                    self.pool.call("renew", tokens=held)


class RenewsAFew(WithLink):
    """Renews the leases of its first deliveries."""

    kind = FewRenewals


class MortalLink(Link):
    """Ends to renew at the first error."""

    def _keep(self) -> None:
        while not self._stopped:
            self._wake.wait(self._lease / 4)
            self._wake.clear()
            try:
                self._send()
                with self._lock:
                    held = [*self._held, *self._done]
                self.pool.call("renew", tokens=held)
            except Exception:
                return


class RenewsUntilACut(WithLink):
    """Renews no lease any more after the first cut."""

    kind = MortalLink


class OpenPool(Pool):
    """Leaves it to the system to close connections."""

    def close(self) -> None:
        self.closed = True
        _left_open.append(self)


_left_open: list[Pool] = []


class LeavesConnections(WithPool):
    """Leaves its connections open."""

    pool = OpenPool


class WorksInAForkedChildToo(LeaseClient):
    """Uses its parent's connections in a child process."""

    @property
    def connected(self) -> bool:
        return self._link is not None

    def _live(self) -> Link:
        if self._link is None:
            raise NotConnectedError("not connected")
        return self._link


# ---------------------------------------------------------------------- copies


class RemovesFirstOnHandBack(LeaseClient):
    """Removes what it hands back, and publishes it again."""

    fault: ClassVar[str] = "hand-back"

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if not requeue or options.get("failure") is not None or delivery.tag is None:
            super().reject(delivery, requeue, **options)
            return
        link = self._live()
        link.check(delivery)
        self._call(link, "remove", tokens=[delivery.tag])
        link.forget(delivery)
        delivery.tag = None
        self._publish(delivery.queue, [Message(delivery.body, delivery.headers, delivery.message_id)], 0.0, None)


class RemovesLettersFirst(LeaseClient):
    """Removes a letter, and then publishes it."""

    fault: ClassVar[str] = "replay"

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        self.ack(delivery)
        self.flush()
        super()._replay_one(delivery, target)


# ---------------------------------------------------------------------- what a broker has when it is back


class DeclaresAgainToPublish(LeaseClient):
    """Declares lost queues again when it publishes, and not when it receives."""

    def _declare_again(self, link: Link, queue: str, call: Callable[[], Any]) -> Any:
        if threading.current_thread() is vars(self).get("_receiving"):
            return call()
        return super()._declare_again(link, queue, call)

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        self._receiving = threading.current_thread()
        try:
            return super().receive(queue, max_messages, timeout)
        finally:
            del self._receiving


class HidesDurable(LeaseClient):
    """Does not claim what its broker keeps."""

    capabilities = replace(CLAIMS, durable=False)


class ForgetfulBroker(LeaseBroker):
    """Loses something each time it is started."""

    statement = ""

    def start(self) -> None:
        """Change what is there, and begin."""
        file = self._data / "messages.db"
        if file.exists():
            with sqlite3.connect(file) as database:
                database.execute(self.statement, {"now": time.time()})
            database.close()
        super().start()


class ForgetsDeliveries(ForgetfulBroker):
    """Loses what is in flight."""

    statement = "DELETE FROM messages WHERE token IS NOT NULL AND :now"


class ForgetsDelays(ForgetfulBroker):
    """Loses what is delayed."""

    statement = "DELETE FROM messages WHERE token IS NULL AND due > :now"


class ForgetsHeaders(ForgetfulBroker):
    """Loses headers."""

    statement = "UPDATE messages SET headers = '{}' WHERE :now"


class CountsItsEnd(ForgetfulBroker):
    """Takes its own end for the death of its clients."""

    statement = "UPDATE messages SET token = NULL, crashes = crashes + 1 WHERE token IS NOT NULL AND :now"


class LosesWhatIsInFlight(LeaseClient):
    """Its broker keeps no deliveries."""

    broker = ForgetsDeliveries


class LosesWhatIsDelayed(LeaseClient):
    """Its broker keeps delayed messages in memory."""

    broker = ForgetsDelays


class LosesHeaders(LeaseClient):
    """Its broker keeps bodies."""

    broker = ForgetsHeaders


class CountsOutages(LeaseClient):
    """Its broker counts its own end as a crash of its clients."""

    broker = CountsItsEnd


# ---------------------------------------------------------------------- deaths


class CountsDeathsTwice(LeaseClient):
    """Counts beside the message what the broker goes on to count."""

    def _call(self, link: Link, op: str, **arguments: Any) -> Any:
        if op == "move":
            arguments["change"].pop("crashes", None)
        return super()._call(link, op, **arguments)


class ForgetsDeathsOnHandBack(LeaseClient):
    """Hands back a message as one that nobody has died with."""

    def _call(self, link: Link, op: str, **arguments: Any) -> Any:
        if op == "move" and not arguments["change"]:
            arguments["change"] = {"crashes": 0}
        return super()._call(link, op, **arguments)


class ForgetsDeathsOnDelay(LeaseClient):
    """Postpones a message as one that nobody has died with."""

    def _call(self, link: Link, op: str, **arguments: Any) -> Any:
        if op == "move" and not arguments["change"] and arguments["delay"]:
            arguments["change"] = {"crashes": 0}
        return super()._call(link, op, **arguments)


class RenewsForItsFirstConnection(WithLink):
    """Has one thread that renews, for as long as it is connected the first time."""

    _began = False

    def connect(self) -> None:
        self.kind = LazyLink if self._began and not self.connected else Link
        super().connect()
        self._began = True


class DescribesWithoutABroker(LeaseClient):
    """Says that a queue is empty of which it learns nothing."""

    def describe(self, queue: str) -> QueueStats:
        try:
            return super().describe(queue)
        except BrokerUnavailableError:
            return QueueStats(0, 0, 0)
