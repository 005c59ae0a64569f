"""The thread that keeps leases alive, delivers delayed messages when they are due, and forgets dead consumers.

It has a connection of its own, so that neither a blocked read nor a slow publish can make a lease run out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import QBridgeError, monotonic
from qbridge_redis.connection.backoff import Backoff
from qbridge_redis.connection.connection import LOST, Link
from qbridge_redis.connection.errors import REFUSED, is_missing_group, unreachable
from qbridge_redis.protocol.scripts import PROMOTE, REAP, RENEW, Command
from qbridge_redis.state.context import Session, log
from qbridge_redis.state.in_flight import Ledger

_POLL: Final = 0.25
_REAP_EVERY: Final = 300.0
_REAP_IDLE: Final = 3600.0
_RENEW_BATCH: Final = 500
_PROMOTE_BATCH: Final = 100
_REFUSED_PAUSE: Final = 5.0
_WATCH_EVERY: Final = 1.0
_WATCH_PAUSE: Final = 5.0


class Maintenance:
    """The thread of one session.

    Args:
        session: what to look after.
        queues: names the queues whose delayed messages are to be delivered.
    """

    def __init__(self, session: Session, queues: Callable[[], Sequence[str]]) -> None:
        self._session = session
        self._queues = queues
        self._link = Link(session.route, f"qbridge:{session.consumer}")
        self._poked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qbridge-redis-maintenance", daemon=True)
        self._renew_every = session.options.lease / 3
        self._renew_at = monotonic() + self._renew_every
        self._promote_at = 0.0
        self._reap_at = monotonic() + _REAP_EVERY
        self._watch_at = 0.0 if session.route.needs_watch else math.inf
        self._opened_before = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def poke(self) -> None:
        """Something was delayed: look when it is due."""
        self._promote_at = 0.0
        self._poked.set()

    def abort(self) -> None:
        """Do not wait for a server that does not answer."""
        self._link.abort()

    def stop(self, timeout: float) -> None:
        """End the thread; ``session.closing`` must be set."""
        self._poked.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
            self._link.abort()
            self._thread.join(timeout)
        self._link.close()

    def _run(self) -> None:
        backoff = Backoff()
        closing = self._session.closing
        while not closing.is_set():
            try:
                self._watch()
                self._connect()
                self._work()
                self._session.outage.back(self)
                backoff.reset()
            except REFUSED as exc:
                self._session.lost(self, exc)
                closing.wait(_REFUSED_PAUSE)
            except (QBridgeError, *LOST) as exc:
                error = unreachable(exc, self._session.options) if isinstance(exc, LOST) else exc
                self._session.lost(self, error)
                closing.wait(backoff.next())
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("maintenance goes on after an unexpected error")
                closing.wait(backoff.next())
            else:
                self._sleep()

    def _sleep(self) -> None:
        next_at = min(self._renew_at, self._promote_at, self._reap_at, self._watch_at)
        self._poked.wait(max(0.001, next_at - monotonic()))
        self._poked.clear()

    def _watch(self) -> None:
        now = monotonic()
        if now >= self._watch_at:
            answered = self._session.route.watch()
            self._watch_at = now + (_WATCH_EVERY if answered else _WATCH_PAUSE)

    def _connect(self) -> None:
        if self._link.is_usable:
            return
        self._link.close()
        self._link.open()
        if self._opened_before:
            self._session.reconnected()
            self._renew_at = 0.0  # before the others may take over what this client holds
        self._opened_before = True

    def _work(self) -> None:
        now = monotonic()
        if now >= self._renew_at:
            for ledger in self._session.ledgers():
                self._renew(ledger)
            self._renew_at = now + self._renew_every
        if now >= self._promote_at:
            self._promote()
        if now >= self._reap_at:
            self._reap()
            self._reap_at = now + _REAP_EVERY

    def _renew(self, ledger: Ledger) -> None:
        options, stream = self._session.options, self._session.keys.stream(ledger.queue)
        held = ledger.held()
        for start in range(0, len(held), _RENEW_BATCH):
            batch = held[start : start + _RENEW_BATCH]
            reply = self._link.call(RENEW([stream], options.group, self._session.consumer, *batch))
            if isinstance(reply, ResponseError):
                if is_missing_group(reply):
                    ledger.uproot()
                _complain(reply, f"leases of {ledger.queue} are not renewed")
                continue
            lost, deleted = reply
            ledger.uproot(deleted)
            if taken := ledger.lose(lost):
                log.warning("%d deliveries of %s were taken over by another worker", taken, ledger.queue)

    def _promote(self) -> None:
        keys = self._session.keys
        # Set first: a poke while the replies are on their way must not be overwritten by what they say.
        self._promote_at = monotonic() + _POLL
        names = self._queues()
        commands: list[Command] = [PROMOTE([keys.stream(q), keys.delayed(q)], _PROMOTE_BATCH) for q in names]
        if not commands:
            return
        for name, reply in zip(names, self._link.call_many(commands), strict=True):
            self._plan(name, reply)

    def _plan(self, queue: str, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            _complain(reply, f"delayed messages of {queue} have to wait")
            return
        moved, wait, stuck = reply
        if stuck:
            log.error(
                "a delayed message of %s cannot be delivered, it is tried again in a minute: %s",
                queue,
                stuck.decode("utf-8", "replace"),
            )
        if moved >= _PROMOTE_BATCH:
            wait = 0
        if wait >= 0:
            self._promote_at = min(self._promote_at, monotonic() + wait / 1_000_000)

    def _reap(self) -> None:
        for ledger in self._session.ledgers():
            stream = self._session.keys.stream(ledger.queue)
            self._link.call(REAP([stream], self._session.options.group, int(_REAP_IDLE * 1000)))


def _complain(reply: ResponseError, consequence: str) -> None:
    if not is_missing_group(reply):  # the reader makes it again
        log.warning("%s: %s", consequence, reply)
