"""``LeaseClient``: the QBridge contract on the lease broker."""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from qbridge_core.backend import (
    BrokerUnavailableError,
    BrokerURL,
    Capabilities,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    Failure,
    InvalidURLError,
    Message,
    MessageTooLargeError,
    NotConnectedError,
    PublishUnconfirmedError,
    QueueClient,
    QueueStats,
    UnroutableError,
    check_body,
    check_count,
    check_declaration,
    check_delay,
    check_headers,
    check_message,
    check_message_id,
    check_publish_timeout,
    check_queue_name,
    check_wait,
    default_dead_letter_queue,
    option_seconds,
    read_options,
    rejection,
)
from support.leases.wire import InterruptedCallError, Pool

LONGEST_DELAY: Final = 30 * 86_400.0
MESSAGE_LIMIT: Final = 2**20
"""What the broker takes, in bytes, headers included."""
_ROOM: Final = 2**16
"""Kept free for what a dead letter says about itself."""
_SLICE: Final = 0.1
_PAUSE: Final = 0.05
_FAREWELL: Final = 2.0


class LeaseClient(QueueClient):
    """A client of the lease broker: ``lease://user:password@host:port``. Thread-safe.

    Args:
        url: where the broker is.
        options: ``lease`` (30 s) for which a message is lent, ``timeout`` (5 s) of one request.
    """

    capabilities = Capabilities(
        delay=True, max_delay=LONGEST_DELAY, browse=True, crashes=True, durable=True, shared=True, instant_ack=True
    )

    def __init__(self, url: str, **options: object) -> None:
        self._url = BrokerURL.parse(url)
        if not self._url.host or self._url.port is None:
            raise InvalidURLError(f"{self._url} names no host and port")
        given = read_options(self._url, options, {"lease": option_seconds, "timeout": option_seconds})
        self._lease: float = given.get("lease", 30.0)
        self._timeout: float = given.get("timeout", 5.0)
        self._link: Link | None = None
        self._switching = threading.Lock()
        self._pairs: dict[str, str] = {}
        self._declared: set[str] = set()
        self._unsubscribes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"LeaseClient('{self._url}')"

    # ------------------------------------------------------------------ connection

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``."""
        return self._link is not None and self._link.pid == os.getpid()

    def connect(self) -> None:
        """Look whether the broker is there, and begin to renew leases."""
        with self._switching:
            if self.connected:
                return
            link = Link(Pool(self._url, self._timeout), self._lease)
            self._call(link, "stats", queue="")
            link.keeper.start()
            self._link = link

    def disconnect(self) -> None:
        """Send the acknowledgements, give the leases back, close."""
        with self._switching:
            link, self._link = self._link, None
        if link is not None and link.pid == os.getpid():
            link.leave()

    # ------------------------------------------------------------------ queues

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create what is missing."""
        check_declaration(queue, dead_letter_queue)
        names = [queue] if dead_letter_queue is None else [queue, dead_letter_queue]
        self._call(self._live(), "declare", names=names)
        self._declared.update(names)
        if dead_letter_queue is not None:
            self._pairs[queue] = dead_letter_queue

    def stats(self, queue: str) -> QueueStats:
        """Count."""
        return QueueStats(*self._call(self._live(), "stats", queue=check_queue_name(queue)))

    def purge(self, queue: str) -> int:  # type: ignore[override]
        """Delete what is ready."""
        return int(self._call(self._live(), "purge", queue=check_queue_name(queue)))

    # ------------------------------------------------------------------ publishing

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
        """Publish one message."""
        check_publish_timeout(timeout)
        self._publish(queue, [Message(body, headers or {}, message_id)], check_delay(delay, LONGEST_DELAY), timeout)

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish all, some hundreds at a time."""
        check_publish_timeout(timeout)
        self._live()
        given = iter(messages)
        while part := list(itertools.islice(given, 200)):
            self._publish(queue, part, 0.0, timeout)

    def _publish(self, queue: str, messages: Iterable[Message], delay: float, timeout: float | None) -> None:
        link = self._live()
        check_queue_name(queue)
        items = [_item(check_message(message)) for message in messages]
        patience = self._timeout if timeout is None else check_wait(timeout)
        try:
            self._declare_again(
                link,
                queue,
                lambda: link.pool.call("publish", queue=queue, items=items, delay=delay, timeout=max(0.01, patience)),
            )
        except InterruptedCallError as exc:
            raise PublishUnconfirmedError(f"no confirmation from {self._url}") from exc.__cause__

    def _declare_again(self, link: Link, queue: str, call: Callable[[], Any]) -> Any:
        """A broker that lost its queues gets those again that this client declared."""
        try:
            return call()
        except UnroutableError:
            if queue not in self._declared:
                raise
        self._call(link, "declare", names=sorted(self._declared))
        return call()

    # ------------------------------------------------------------------ consuming

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Borrow messages."""
        count, deadline = check_count("max_messages", max_messages, 1), time.monotonic() + check_wait(timeout)
        link = self._live()
        check_queue_name(queue)
        before, unavailable, reached = self._unsubscribes[queue], None, False
        while True:
            left = deadline - time.monotonic()
            ask = partial(link.lend, queue, count, max(0.0, min(_SLICE, left)))
            try:
                lent = self._declare_again(link, queue, ask)
                reached = True
                if lent or self._unsubscribes[queue] != before:
                    return [link.take(queue, item) for item in lent]
            except BrokerUnavailableError as exc:
                unavailable = exc
                time.sleep(max(0.0, min(_PAUSE, left)))
            if self._link is not link:
                raise NotConnectedError("the client was disconnected")
            if time.monotonic() >= deadline:
                if unavailable is not None and not reached:
                    raise unavailable
                return []

    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked ``receive``."""
        self._unsubscribes[queue] += 1

    def ack(self, delivery: Delivery) -> None:
        """Note it; it is sent at once by the thread that renews."""
        link = self._live()
        if delivery.tag is not None:
            link.done(delivery)

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Hand back, retry or dead-letter in one step at the broker."""
        link = self._live()
        delay = check_delay(delay, LONGEST_DELAY)
        if delivery.tag is None:
            return
        change: dict[str, object] = {}
        target = delivery.queue
        if not requeue:
            failure = failure or rejection(delivery)
            target = self._pairs.get(target, default_dead_letter_queue(target))
            change = {"meta": failure.dead_letter_headers(), "id": failure.task_id or None}
            delay = 0.0
        elif failure is not None:
            target = queue or target
            change = {"meta": failure.retry_headers(), "id": failure.task_id or None}
        if change:
            change |= {"crashes": 0, "redelivered": 0}  # what was counted is in the headers now
        link.check(delivery)
        try:
            self._call(link, "move", token=delivery.tag, target=target, change=change, delay=delay)
        except DeliveryLostError:
            link.forget(delivery)
            raise
        link.forget(delivery)
        delivery.tag = None

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the acknowledgements have been sent."""
        check_wait(timeout)
        link = self._link
        return link is None or link.flush(timeout)

    # ------------------------------------------------------------------ dead letters

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        """List them."""
        count = check_count("limit", limit)
        items = self._call(self._live(), "peek", queue=check_queue_name(queue), count=count)
        return [DeadLetter.from_headers(base64.b64decode(i["body"]), i["headers"], i["meta"]) for i in items]

    # ------------------------------------------------------------------ helpers

    def _live(self) -> Link:
        link = self._link
        if link is None or link.pid != os.getpid():
            raise NotConnectedError("the client is not connected; call connect() first")
        return link

    def _call(self, link: Link, op: str, **arguments: Any) -> Any:
        try:
            return link.pool.call(op, **arguments)
        except InterruptedCallError as exc:
            if link.pool.closed:
                raise NotConnectedError("the client was disconnected") from exc
            raise BrokerUnavailableError(f"no answer from {self._url}") from exc.__cause__


class Link:
    """What a client holds between ``connect`` and ``disconnect``."""

    def __init__(self, pool: Pool, lease: float) -> None:
        self.pool = pool
        self.pid = os.getpid()
        self._lease = lease
        self._owner = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._asks = itertools.count()
        self._cancelled: list[int] = []
        self._held: set[str] = set()
        self._done: list[str] = []
        self._wake = threading.Event()
        self._stopped = False
        self.keeper = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    def lend(self, queue: str, count: int, wait: float) -> Any:
        """Ask for messages; what an answer that was lost may have brought is given back."""
        ask = next(self._asks)
        try:
            return self.pool.call(
                "lend", queue=queue, count=count, owner=self._owner, ask=ask, lease=self._lease, wait=wait
            )
        except InterruptedCallError as exc:
            if self.pool.closed:
                raise NotConnectedError("the client was disconnected") from exc
            with self._lock:
                self._cancelled.append(ask)
            self._wake.set()
            raise BrokerUnavailableError("no answer from the broker") from exc.__cause__

    def take(self, queue: str, item: dict[str, Any]) -> Delivery:
        """Hold what was lent."""
        with self._lock:
            self._held.add(item["token"])
        delivery = Delivery.from_headers(
            base64.b64decode(item["body"]),
            queue,
            item["headers"],
            item["meta"],
            message_id=item["id"],
            tag=item["token"],
            redelivered=item["redelivered"],
        )
        delivery.crashes += item["crashes"]
        return delivery

    def check(self, delivery: Delivery) -> None:
        """Refuse a delivery that went back when this client left."""
        if delivery.tag not in self._held:
            raise DeliveryLostError(f"a delivery of {delivery.queue!r} went back to the queue")

    def forget(self, delivery: Delivery) -> None:
        """It is settled, or somebody else's."""
        with self._lock:
            self._held.discard(delivery.tag)

    def done(self, delivery: Delivery) -> None:
        """Acknowledge soon; until then the lease is renewed."""
        with self._lock:
            self.check(delivery)
            self._held.discard(delivery.tag)
            self._done.append(delivery.tag)
            delivery.tag = None
        self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Wait for the acknowledgements."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(Exception):
                self._send()
            with self._lock:
                if not self._done:
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)

    def leave(self) -> None:
        """End within bounded time."""
        self._stopped = True
        self._wake.set()
        deadline = time.monotonic() + _FAREWELL
        with suppress(Exception):
            self._send(_FAREWELL)
        with suppress(Exception):
            self.pool.call("leave", owner=self._owner, timeout=max(0.1, deadline - time.monotonic()))
        self.pool.close()
        if self.keeper.ident is not None and self.keeper is not threading.current_thread():
            self.keeper.join(_FAREWELL)

    def _keep(self) -> None:
        while not self._stopped:
            self._wake.wait(self._lease / 4)
            self._wake.clear()
            with suppress(Exception):  # whatever it was, the next round is soon enough
                self._send()
                with self._lock:
                    held = [*self._held, *self._done]
                if held:
                    self.pool.call("renew", tokens=held)
                continue
            if not self._stopped:
                time.sleep(_PAUSE)

    def _send(self, timeout: float | None = None) -> None:
        with self._sending:
            with self._lock:
                cancelled, done = list(self._cancelled), list(self._done)
            if cancelled:
                self.pool.call("cancel", owner=self._owner, asks=cancelled, timeout=timeout)
            if done:
                self.pool.call("remove", tokens=done, timeout=timeout)
            with self._lock:
                del self._cancelled[: len(cancelled)], self._done[: len(done)]


def _item(message: Message) -> dict[str, object]:
    body = check_body(message.body, MESSAGE_LIMIT)
    headers = dict(check_headers(message.headers))
    size = len(body) + len(json.dumps(headers))
    if size > MESSAGE_LIMIT - _ROOM:
        raise MessageTooLargeError(f"the message has {size} bytes; at most {MESSAGE_LIMIT - _ROOM} can be kept")
    return {
        "body": base64.b64encode(body).decode(),
        "headers": headers,
        "id": check_message_id(message.message_id),
    }
